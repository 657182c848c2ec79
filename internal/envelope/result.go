package envelope

import (
	"context"
	"sync"
)

// maxReasons bounds what a sender is told: the first reasons are enough to look for the others.
const maxReasons = 3

// Result is the way back from a pipeline to its receiver: what became of events that were taken but did not go where the sender meant them to go.
// The receiver answers with it (OTLP's partial success) once the pipeline has returned nil. It may be used by several goroutines.
type Result struct {
	mu       sync.Mutex
	rejected int
	lost     int
	flagged  int
	reasons  []string
}

type resultKey struct{}

// WithResult returns ctx carrying a Result, for a receiver to read when the pipeline has returned.
func WithResult(ctx context.Context) (context.Context, *Result) {
	r := &Result{}
	return context.WithValue(ctx, resultKey{}, r), r
}

// ResultOf returns the Result that ctx carries. Where it carries none, what is told it is not heard.
func ResultOf(ctx context.Context) *Result {
	if r, ok := ctx.Value(resultKey{}).(*Result); ok {
		return r
	}
	return &Result{}
}

// Reject says that n events were refused their place, and why the first of them.
func (r *Result) Reject(n int, reasons ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rejected += n
	r.add(reasons)
}

// Lose says that n of the events that were rejected, or will be, are not in quarantine either: no record can hold them.
func (r *Result) Lose(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost += n
}

// Lost is how many of the rejected events are kept nowhere.
func (r *Result) Lost() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lost
}

// Flag says that n events went on although something is wrong with them, and what.
func (r *Result) Flag(n int, reasons ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flagged += n
	r.add(reasons)
}

func (r *Result) add(reasons []string) {
	r.reasons = append(r.reasons, reasons[:min(len(reasons), maxReasons-min(len(r.reasons), maxReasons))]...)
}

// Read returns how many events were rejected and flagged, and the first reasons.
func (r *Result) Read() (rejected, flagged int, reasons []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rejected, r.flagged, append([]string(nil), r.reasons...)
}
