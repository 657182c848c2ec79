package cell

import (
	"context"
	"fmt"
	"math"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

const (
	redrawEvery = time.Second      // on a terminal
	lineEvery   = 10 * time.Second // elsewhere
)

// watch shows the cell until ctx is done.
func (c *Cell) watch(ctx context.Context) {
	observer, err := NewObserver(c.state.Endpoints)
	if err != nil { // the cell runs on without its screen
		c.screen.event("no figures: " + err.Error())
		<-ctx.Done()
		return
	}
	defer observer.Close()
	if !c.screen.terminal {
		for _, line := range EndpointLines(c.state.Endpoints) {
			c.screen.event(line)
		}
	}
	every := lineEvery
	if c.screen.terminal {
		every = redrawEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	defer c.screen.leave()
	for {
		f := observer.Look(ctx)
		if ctx.Err() != nil {
			return
		}
		_ = c.saveState() // best effort: only PIDs and restarts change, and the disk may be full for a while
		if c.screen.terminal {
			c.screen.draw(fit(c.table(f)))
		} else {
			c.screen.event(StatusLine(f))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// table is the whole live screen.
func (c *Cell) table(f Figures) []string {
	lines := append([]string{""}, EndpointLines(c.state.Endpoints)...)
	lines = append(append(lines, ""), HopLines(f)...)
	for _, p := range c.processes() {
		if p.Restarts > 0 || p.PID == 0 {
			lines = append(lines, fmt.Sprintf("! %s: %d restarts, log %s", p.Name, p.Restarts, p.Log))
		}
	}
	for _, p := range f.Problems {
		lines = append(lines, "! "+p)
	}
	return append(lines, "", "Ctrl-C stops it in order; the next start goes on from there.")
}

// fit cuts lines to the terminal's width: a line that wraps could not be redrawn.
func fit(lines []string) []string {
	width := 80
	if ws, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ); err == nil && ws.Col > 0 {
		width = int(ws.Col)
	}
	out := make([]string, 0, len(lines))
	for _, l := range lines {
		l, _, _ = strings.Cut(l, "\n")
		if r := []rune(l); len(r) > width {
			l = string(r[:width])
		}
		out = append(out, l)
	}
	return out
}

// EndpointLines tell where everything is.
func EndpointLines(e Endpoints) []string {
	lines := []string{
		"send OTLP to   grpc://" + e.GRPC + "   http://" + e.HTTP,
		"Kafka          " + e.Kafka,
		"ClickHouse     http://" + e.ClickHouseHTTP + "   user " + e.ClickHouseUser + ", password in state.json of the data directory",
		"lake           catalog " + e.Catalog,
		"               warehouse " + e.Warehouse,
	}
	if e.Temporal != "" {
		lines = append(lines, "Temporal       "+e.Temporal+"   its UI "+e.TemporalUI)
	}
	return lines
}

// HopLines are the table of hops, which kinds of errors they have, what is stuck or waits beside Kafka, and when the certificate ends.
func HopLines(f Figures) []string {
	lines := columns([]string{"hop", "events", "events/s", "errors", "lag", "fresh"}, f.Hops, func(h Hop) []string {
		return []string{h.Name, count(h.Events), count(h.Rate), count(h.Errors), known(h.Lag), age(h.Freshness)}
	})
	for _, h := range f.Hops {
		if len(h.Kinds) > 0 {
			lines = append(lines, h.Name+" errors: "+kinds(h.Kinds))
		}
		if h.Lost > 0 {
			lines = append(lines, fmt.Sprintf("%s: %s records are lost: Kafka removed them before they were read", h.Name, known(h.Lost)))
		}
		if h.Stuck > 0 {
			lines = append(lines, fmt.Sprintf("%s: %s partitions offer the same block again and again", h.Name, known(h.Stuck)))
		}
	}
	if s := f.Spill; s.Partitions > 0 || s.Bytes > 0 {
		lines = append(lines, fmt.Sprintf("spill: requests for %s partitions go to the object store; %s bytes wait there, the oldest for %v", known(s.Partitions), known(s.Bytes), s.Age))
	}
	if f.Certificate != nil {
		lines = append(lines, "certificate: the gateway's ends in "+days(*f.Certificate))
	}
	return lines
}

// days writes a time of days in days, and a shorter one in hours and minutes.
func days(d time.Duration) string {
	if d < 48*time.Hour {
		return d.Round(time.Minute).String()
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// maxKinds of a hop's errors are named.
const maxKinds = 6

func kinds(of []ErrorKind) string {
	var parts []string
	for _, k := range of[:min(len(of), maxKinds)] {
		part := k.Reason + " " + count(k.Errors)
		if k.Rate > 0 {
			part += fmt.Sprintf(" (%.1f/s)", k.Rate)
		}
		parts = append(parts, part)
	}
	if more := len(of) - maxKinds; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more kinds", more))
	}
	return strings.Join(parts, ", ")
}

// TopicLines are the table of topics.
func TopicLines(f Figures) []string {
	return columns([]string{"topic", "records", "from", "to", "lag hot", "lag lake"}, f.Topics, func(t Topic) []string {
		lagOf := func(group string) string {
			if lag, ok := t.Lag[group]; ok {
				return known(lag)
			}
			return "-"
		}
		return []string{t.Name, known(t.End - t.Start), known(t.Start), known(t.End), lagOf(groupHot), lagOf(groupLake)}
	})
}

// StatusLine is everything in one line, for logs.
func StatusLine(f Figures) string {
	parts := make([]string, 0, len(f.Hops)+1)
	for _, h := range f.Hops {
		part := fmt.Sprintf("%s %s events %s/s", h.Name, count(h.Events), count(h.Rate))
		if h.Errors > 0 {
			part += " errors " + count(h.Errors)
			if len(h.Kinds) > 0 {
				part += " (" + kinds(h.Kinds) + ")"
			}
		}
		if h.Lag > 0 {
			part += " lag " + known(h.Lag)
		}
		if h.Freshness >= 0 {
			part += " fresh " + age(h.Freshness)
		}
		parts = append(parts, part)
	}
	for _, p := range f.Problems {
		parts = append(parts, "PROBLEM "+p)
	}
	return strings.Join(parts, " | ")
}

// columns aligns rows below a header; all but the first column are numbers and stand to the right.
func columns[T any](header []string, rows []T, cells func(T) []string) []string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	width := 0
	all := [][]string{header}
	for _, r := range rows {
		all = append(all, cells(r))
	}
	for _, r := range all {
		width = max(width, len(r[0]))
	}
	for _, r := range all {
		_, _ = fmt.Fprintf(w, "%-*s\t%s\t\n", width, r[0], strings.Join(r[1:], "\t")) // a Builder takes everything
	}
	_ = w.Flush()
	return strings.Split(strings.TrimRight(b.String(), "\n"), "\n")
}

// count writes a number with its thousands apart.
func count(v float64) string {
	s := fmt.Sprintf("%.0f", math.Abs(v))
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if v <= -0.5 {
		s = "-" + s
	}
	return s
}

func known(n int64) string {
	if n < 0 {
		return "-"
	}
	return count(float64(n))
}

func age(d time.Duration) string {
	switch {
	case d < 0:
		return "-"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}
