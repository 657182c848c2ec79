package cell

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// screen writes what the operator sees: events as lines that stay, and beneath them, on a terminal, a table redrawn in place.
type screen struct {
	out      io.Writer
	terminal bool
	now      func() time.Time

	mu    sync.Mutex // guards writing and drawn
	drawn []string   // the table's lines on the terminal now
}

func newScreen(out io.Writer, terminal bool) *screen {
	return &screen{out: out, terminal: terminal, now: time.Now}
}

// event prints a line that stays. Any goroutine may call it. The operator's terminal may be gone: that is no failure of the cell.
func (s *screen) event(message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.print(s.erase() + s.now().Format("15:04:05") + "  " + message + "\n" + joinLines(s.drawn))
}

// draw replaces the table.
func (s *screen) draw(lines []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.print(s.erase() + joinLines(lines))
	s.drawn = lines
}

// leave keeps the table as it is and writes on beneath it.
func (s *screen) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drawn = nil
}

func (s *screen) print(text string) { _, _ = io.WriteString(s.out, text) }

// erase moves up to the table's first line and clears from there.
func (s *screen) erase() string {
	if len(s.drawn) == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", len(s.drawn))
}

func joinLines(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\n") + "\n"
}
