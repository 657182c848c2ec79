package cellhealthextension

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

// watched is the check of one component. At most one call of it runs: a call that does not come back is a bad look after the other, and not a goroutine more each time.
type watched struct {
	component string
	check     func(context.Context) error
	calls     sync.WaitGroup
	answer    chan error // of capacity 1: of the call that runs, also after nobody waits for it any more
	running   bool       // of looks alone
}

// begin calls the check, unless a call runs still.
func (w *watched) begin(ctx context.Context) {
	if w.running {
		return
	}
	w.running = true
	w.calls.Go(func() { w.answer <- w.check(ctx) })
}

// wait returns the check's answer, or that it has none by the end of ctx.
func (w *watched) wait(ctx context.Context) error {
	select {
	case err := <-w.answer:
		w.running = false
		if err != nil {
			return fmt.Errorf("%s: %w", w.component, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: does not answer: %w", w.component, context.Cause(ctx))
	}
}

// Watch implements cellhealth.Board.
func (e *cellHealth) Watch(component string, check func(context.Context) error) (forget func()) {
	w := &watched{component: component, check: check, answer: make(chan error, 1)}
	e.checksMu.Lock()
	defer e.checksMu.Unlock()
	e.checks = append(e.checks, w)
	return func() {
		e.checksMu.Lock()
		e.checks = slices.DeleteFunc(e.checks, func(other *watched) bool { return other == w })
		e.checksMu.Unlock()
		w.calls.Wait()
	}
}

var errLookTime = errors.New("the time of a look is over (timeout)")

// ask is one look: why nothing can be accepted, nil where something can be.
func (e *cellHealth) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, e.cfg.Timeout, errLookTime)
	defer cancel()
	errs := []error{e.registries()}
	// Held all the while, so that a check which is forgotten is not begun any more. forget waits as long as a look at most.
	e.checksMu.Lock()
	defer e.checksMu.Unlock()
	for _, w := range e.checks {
		w.begin(ctx)
	}
	for _, w := range e.checks {
		errs = append(errs, w.wait(ctx))
	}
	return errors.Join(errs...)
}

// registries: while a registry of tenants was never read, every request is refused.
func (e *cellHealth) registries() error {
	for id, ext := range e.host.GetExtensions() {
		if r, ok := ext.(tenant.Registry); ok && r.Snapshot() == nil {
			return fmt.Errorf("%s: the registry of tenants has not been read yet", id)
		}
	}
	return nil
}
