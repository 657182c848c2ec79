package composition

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
)

type walkKey struct{}

// Walk is a call through a pipeline without data, which its first component makes when all behind it have started. Each component that knows
// of it adds itself and hands it on; an exporter ends it. Components that do not know of it hand on an empty batch with its context, or
// end it. It is safe for concurrent use.
type Walk struct {
	receiver Step

	mu       sync.Mutex
	problems []string // guarded by mu
}

// path is what a walk has come by.
type path struct {
	walk  *Walk
	steps []Step
}

// Begin returns a context that carries a Walk.
func Begin(ctx context.Context, receiver Step) (context.Context, *Walk) {
	w := &Walk{receiver: receiver}
	return context.WithValue(ctx, walkKey{}, path{walk: w}), w
}

// Walking tells whether the call is a Walk, and no data.
func Walking(ctx context.Context) bool {
	_, is := ctx.Value(walkKey{}).(path)
	return is
}

// Pass is called by a processor; what it hands the walk on with is the context that Pass returns.
func Pass(ctx context.Context, s Step) context.Context {
	p, is := ctx.Value(walkKey{}).(path)
	if !is {
		return ctx
	}
	p.steps = append(slices.Clone(p.steps), s)
	return context.WithValue(ctx, walkKey{}, p)
}

// End is called by an exporter, which answers nil.
func End(ctx context.Context, s Step) {
	p, is := ctx.Value(walkKey{}).(path)
	if !is {
		return
	}
	p.walk.mu.Lock()
	defer p.walk.mu.Unlock()
	for _, line := range lines(pipeline{p.walk.receiver, p.steps, s, true}.problems()) {
		if !slices.Contains(p.walk.problems, line) {
			p.walk.problems = append(p.walk.problems, line)
		}
	}
}

// Err is what was found wrong, of all exporters that the walk came to.
func (w *Walk) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(w.problems, "\n"))
}
