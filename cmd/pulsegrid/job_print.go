package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"

	"github.com/pulsegrid/pulsegrid/internal/backfill"
)

const (
	// jobRedraw and jobLine are the times between two lines of progress, on a terminal and elsewhere.
	jobRedraw = 500 * time.Millisecond
	jobLine   = 10 * time.Second
	// jobObjectsListed is how many objects the text of a report lists; of more only those that failed.
	jobObjectsListed = 50
	barCells         = 24
)

// teller tells lines of progress on standard error, unless nobody wants them.
func teller(cmd *cobra.Command, quiet bool) func(format string, args ...any) {
	if quiet {
		return func(string, ...any) {}
	}
	return func(format string, args ...any) { _, _ = fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...) } // nobody may be listening
}

// watch tells the progress of a run until stop is called.
func (o *backfillOptions) watch(cmd *cobra.Command, read func() backfill.Reading) (stop func()) {
	if o.quiet {
		return func() {}
	}
	w := cmd.ErrOrStderr()
	f, isFile := w.(*os.File)
	terminal := isFile && isatty.IsTerminal(f.Fd())
	every := jobLine
	if terminal {
		every = jobRedraw
	}
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(every)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				line := progressLine(read())
				if terminal {
					line = "\r\x1b[K" + line
				} else {
					line += "\n"
				}
				_, _ = io.WriteString(w, line) // nobody may be listening
			case <-ended:
				if terminal {
					_, _ = io.WriteString(w, "\r\x1b[K")
				}
				return
			}
		}
	}()
	return func() { close(ended); <-done }
}

func progressLine(r backfill.Reading) string {
	share := float64(r.Bytes) / float64(max(r.AllBytes, 1))
	filled := int(share * barCells)
	line := fmt.Sprintf("[%s%s] %3.0f%%  %d of %d objects  %d events  %.0f lines/s",
		strings.Repeat("#", filled), strings.Repeat(".", barCells-filled), 100*share, r.Objects, r.AllObjects, r.Events, r.LinesPerSecond)
	if r.SecondsLeft > 0 {
		line += "  " + seconds(r.SecondsLeft).String() + " left"
	}
	if r.Yields != "" {
		line += "  " + r.Yields
	}
	if r.Waiting != "" {
		line += "  waits for " + r.Waiting
	}
	return line
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Second)
}

// jobReport is the report as JSON.
type jobReport struct {
	Job     string          `json:"job"`
	Done    bool            `json:"done"`
	Error   string          `json:"error,omitempty"`
	Planned time.Time       `json:"planned"`
	Seconds float64         `json:"seconds"` // of this run
	Failed  int             `json:"failed"`  // objects
	Total   backfill.Tally  `json:"total"`
	Left    int             `json:"not_in_plan"` // objects that match and came later
	Audit   *backfill.Audit `json:"audit,omitempty"`
	Objects []objectOutcome `json:"objects"`
}

type objectOutcome struct {
	Key     string `json:"key"`
	Version string `json:"version"`
	Size    int64  `json:"size"`
	backfill.Outcome
}

func printReport(w io.Writer, found backfill.Found, job *backfill.Job, audit *backfill.Audit, took time.Duration, runErr error, asJSON bool) error {
	p := job.Progress()
	r := jobReport{Job: found.Plan.Spec.Job(), Done: p.Done, Planned: found.Plan.Created, Seconds: took.Seconds(), Failed: p.Failed(), Total: p.Total(), Left: found.Left, Audit: audit}
	if runErr != nil {
		r.Error = runErr.Error()
	}
	for i, o := range found.Plan.Objects {
		r.Objects = append(r.Objects, objectOutcome{o.Key, o.Version, o.Size, p.Outcome(i)})
	}
	if asJSON {
		return printJSON(w, r)
	}
	var b strings.Builder
	state := "not finished"
	if r.Done {
		state = "done"
	}
	_, _ = fmt.Fprintf(&b, "job %s: %s, %s in this run\n%s\n", r.Job, state, took.Round(100*time.Millisecond), totals(len(r.Objects), r.Failed, r.Total))
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(tw, "object\tstate\tlines\tevents\tcopies\tquarantined\treason")
	hidden := 0
	for _, o := range r.Objects {
		if len(r.Objects) > jobObjectsListed && !o.Failed() {
			hidden++
			continue
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%d\t%d\t%d\t%d\t%s\n", printable(o.Key), o.State, o.Lines, o.Events(), o.Duplicates, o.Quarantined, o.Reason)
	}
	_ = tw.Flush() // a strings.Builder does not fail
	if hidden > 0 {
		_, _ = fmt.Fprintf(&b, "(%d objects that did not fail are left out; --json has all)\n", hidden)
	}
	b.WriteString(leftOut(r.Left))
	if audit != nil && runErr == nil {
		auditLines(&b, audit)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func auditLines(b *strings.Builder, a *backfill.Audit) {
	if a.Equal() {
		_, _ = fmt.Fprintf(b, "audit: equal: each store has the %d rows of events once, at the same lines, and %d rows in quarantine\n", a.Rows, a.Quarantined)
	} else {
		_, _ = fmt.Fprintf(b, "audit: %d objects differ\n", a.Different)
	}
	for _, f := range a.Findings {
		_, _ = fmt.Fprintln(b, "  "+printable(f))
	}
}

func totals(objects, failed int, t backfill.Tally) string {
	return fmt.Sprintf("%d objects, %d of them failed; %d lines: %d logs, %d metric points, %d spans (%d of these copies), %d quarantined",
		objects, failed, t.Lines, t.Logs, t.Metrics, t.Traces, t.Duplicates, t.Quarantined)
}

// leftOut tells of objects that match and are in no plan.
func leftOut(objects int) string {
	if objects == 0 {
		return ""
	}
	return fmt.Sprintf("%d objects match that came after the plan was made: load them with --new-objects\n", objects)
}

// printable keeps a key from writing on the terminal.
func printable(key string) string {
	quoted := fmt.Sprintf("%q", key)
	return quoted[1 : len(quoted)-1]
}

// printPreview tells what would be loaded. rate is that of the request.
func printPreview(w io.Writer, p backfill.Preview, rate int) error {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "job %s: nothing was stored\n", p.Job)
	previewLines(&b, p)
	_, _ = fmt.Fprintf(&b, "at most %d lines/s\n", rate)
	_, err := io.WriteString(w, b.String())
	return err
}

func previewLines(b *strings.Builder, p backfill.Preview) {
	e := p.Estimate
	_, _ = fmt.Fprintf(b, "%d objects, %d bytes, written %s to %s\nabout %d lines, about %s\n",
		p.Objects, p.Bytes, p.Oldest.Format(time.RFC3339), p.Newest.Format(time.RFC3339), e.Lines, seconds(e.Seconds))
	_, _ = fmt.Fprintf(b, "a sample of %d lines: %d logs, %d metric points, %d spans, %d for quarantine", e.Sampled.Lines, e.Sampled.Logs, e.Sampled.Metrics, e.Sampled.Traces, e.Sampled.Quarantined)
	if e.Failed > 0 {
		_, _ = fmt.Fprintf(b, "; %d objects of it cannot be loaded whole", e.Failed)
	}
	b.WriteByte('\n')
	if p.Planned {
		_, _ = fmt.Fprintf(b, "it is planned already: %d of its lines are loaded\n", p.Loaded.Lines)
	}
	b.WriteString(leftOut(p.Left))
}
