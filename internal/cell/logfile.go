package cell

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
)

// Bounds of a child's log: two files of this size, and this much of its end in memory.
const (
	logFileBytes = 16 << 20
	logTailBytes = 8 << 10
)

// logFile is a child's output: a file, turned over to PATH.1 when it is full, whose end is at hand for error messages.
type logFile struct {
	path string

	mu   sync.Mutex
	file *os.File
	size int64
	tail []byte
}

func openLog(path string) (*logFile, error) {
	l := &logFile{path: path}
	return l, l.open()
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("log file: %w", errors.Join(err, f.Close()))
	}
	l.file, l.size = f, info.Size()
	return nil
}

// Write never fails: a child must not die of a full disk of logs. What cannot be written stays in the tail.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(l.tail, p...)
	if n := len(l.tail) - logTailBytes; n > 0 {
		l.tail = append(l.tail[:0], l.tail[n:]...)
	}
	if l.size+int64(len(p)) > logFileBytes {
		_ = l.file.Close()
		_ = os.Rename(l.path, l.path+".1")
		if err := l.open(); err != nil {
			return len(p), nil
		}
	}
	n, _ := l.file.Write(p)
	l.size += int64(n)
	return len(p), nil
}

// lastLines are the newest whole lines, at most n.
func (l *logFile) lastLines(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(string(bytes.TrimSpace(l.tail)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
