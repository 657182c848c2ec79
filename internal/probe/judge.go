package probe

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/audit/stored"
	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// What became of an acknowledged event in a store, as metadata.yaml explains it.
const (
	resultExact    = "exact"
	resultMissing  = "missing"
	resultDoubled  = "doubled"
	resultUnjudged = "unjudged"

	// resultNone settles an event that was not acknowledged: it may be stored or not, so it is not counted.
	resultNone = "-"
)

// look counts the rows of what is not settled in a store, and tells whether the store could be read. The last look settles all.
func (p *Probe) look(ctx context.Context, store int, last bool) bool {
	began := time.Now()
	since := p.unsettled(store)
	s := p.config.Stores[store]
	bounded, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	copies := map[signal.Signal]map[string]int64{}
	for sig, from := range since {
		found, err := s.Copies(bounded, stored.Marked{Table: columns.ForSignal(sig), Column: markerColumns[sig], Tenant: p.config.Tenant, Service: Service, Since: from})
		if err != nil {
			if ctx.Err() != nil { // the probe is stopped
				return false
			}
			p.metrics.looks.WithLabelValues(s.Name, "no").Inc()
			p.see(store, err)
			p.giveUp(store, began.Add(-2*p.config.Deadline))
			return false
		}
		copies[sig] = found
	}
	if len(since) > 0 {
		p.metrics.looks.WithLabelValues(s.Name, "yes").Inc()
		p.see(store, nil)
	}
	p.judge(store, copies, began, last)
	return true
}

// see tells that a store cannot be read, or can be again, once.
func (p *Probe) see(store int, err error) {
	p.mu.Lock()
	was := p.blind[store]
	p.blind[store] = err != nil
	p.mu.Unlock()
	name, now := p.config.Stores[store].Name, time.Now().UTC().Format(time.RFC3339)
	switch {
	case err != nil && !was:
		p.config.Report(fmt.Sprintf("%s %s cannot be read: %v", now, name, err))
	case err == nil && was:
		p.config.Report(fmt.Sprintf("%s %s can be read again", now, name))
	}
}

// unsettled returns when the oldest event of each signal was sent that is not settled in a store.
func (p *Probe) unsettled(store int) map[signal.Signal]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[signal.Signal]time.Time{}
	for _, e := range p.events { // the oldest first
		if _, known := out[e.signal]; !known && e.sights[store].result == "" {
			out[e.signal] = e.sent
		}
	}
	return out
}

// judge compares a look with what was sent. An event is settled at its deadline, not when its row is found: a copy may come later. began is when the look began: what was stored after
// that it need not have seen.
func (p *Probe) judge(store int, copies map[signal.Signal]map[string]int64, began time.Time, last bool) {
	now := time.Now()
	type line struct {
		of   *event
		what string
	}
	var lines []line
	p.mu.Lock()
	for _, e := range p.events {
		sight := &e.sights[store]
		found, looked := copies[e.signal]
		if e.outcome == "" || sight.result != "" || !looked {
			continue
		}
		sight.rows = found[e.marker()]
		if sight.rows > 0 && sight.after == 0 {
			p.found(store, e, now)
		}
		due := last || began.After(e.sent.Add(p.config.Deadline))
		switch {
		case sight.rows > 1: // also of an event that was not acknowledged
			p.settle(store, e, resultDoubled)
			lines = append(lines, line{e, fmt.Sprintf("doubled: %d rows", sight.rows)})
		case !due:
		case !e.acknowledged():
			p.settle(store, e, resultNone)
		case sight.rows == 1:
			p.settle(store, e, resultExact)
		default:
			p.settle(store, e, resultMissing)
			what := fmt.Sprintf("missing: no row %s after it was sent", now.Sub(e.sent).Round(time.Second))
			if sight.after > 0 {
				what += ", and there was one"
			}
			lines = append(lines, line{e, what})
		}
	}
	p.prune()
	p.mu.Unlock()
	for _, l := range lines {
		p.report(l.of, p.config.Stores[store].Name, l.what)
	}
}

// found notes the first sight of an event's row. p.mu is held.
func (p *Probe) found(store int, e *event, now time.Time) {
	e.sights[store].after = now.Sub(e.sent)
	if !e.acknowledged() {
		return
	}
	name := p.config.Stores[store].Name
	p.metrics.freshness.WithLabelValues(name, e.signal.String()).Observe(e.sights[store].after.Seconds())
	p.metrics.success.WithLabelValues(name).Set(unix(now))
	p.metrics.waiting.WithLabelValues(name).Dec()
}

// settle ends the wait for an event's rows in a store. p.mu is held.
func (p *Probe) settle(store int, e *event, result string) {
	sight := &e.sights[store]
	sight.result = result
	if result == resultNone {
		return
	}
	p.metrics.rows.WithLabelValues(p.config.Stores[store].Name, e.signal.String(), result).Inc()
	if sight.after == 0 && e.acknowledged() {
		p.metrics.waiting.WithLabelValues(p.config.Stores[store].Name).Dec()
	}
}

// giveUp settles what was sent before a time (zero: everything) and could not be looked for.
func (p *Probe) giveUp(store int, before time.Time) {
	var lines []*event
	p.mu.Lock()
	for _, e := range p.events {
		switch {
		case e.outcome == "" || e.sights[store].result != "" || !before.IsZero() && !e.sent.Before(before):
		case e.acknowledged():
			p.settle(store, e, resultUnjudged)
			lines = append(lines, e)
		default:
			p.settle(store, e, resultNone)
		}
	}
	p.prune()
	p.mu.Unlock()
	for _, e := range lines {
		p.report(e, p.config.Stores[store].Name, "unjudged: the store could not be read")
	}
}

// prune lets go of what is settled everywhere. p.mu is held.
func (p *Probe) prune() {
	p.events = slices.DeleteFunc(p.events, func(e *event) bool {
		return e.outcome != "" && !slices.ContainsFunc(e.sights, func(s sight) bool { return s.result == "" })
	})
}

// seen tells that there is nothing left to wait for in a store before the last look.
func (p *Probe) seen(events []*event, store int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !slices.ContainsFunc(events, func(e *event) bool {
		return e.acknowledged() && e.sights[store].after == 0 && e.sights[store].result == "" && time.Since(e.sent) < p.config.Deadline
	})
}

// Result is what became of one event.
type Result struct {
	Way
	Signal  string
	Marker  string
	Outcome string // of the request
	Detail  string
	Took    time.Duration // until the answer
	Rows    []Rows        // by store
}

// Rows are those of an event in a store.
type Rows struct {
	Rows   int64
	After  time.Duration // until the first was found; 0: none was
	Result string        // exact, missing, doubled, unjudged; "-": the event was not acknowledged
}

// Good tells that the event was acknowledged and is stored exactly once.
func (r *Result) Good() bool {
	return r.Outcome == outcomeOK && !slices.ContainsFunc(r.Rows, func(r Rows) bool { return r.Result != resultExact })
}

func (p *Probe) results(events []*event) []Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Result, 0, len(events))
	for _, e := range events {
		r := Result{Way: e.Way, Signal: e.signal.String(), Marker: e.marker(), Outcome: e.outcome, Detail: e.detail, Took: e.took}
		for _, s := range e.sights {
			r.Rows = append(r.Rows, Rows{s.rows, s.after, s.result})
		}
		out = append(out, r)
	}
	return out
}
