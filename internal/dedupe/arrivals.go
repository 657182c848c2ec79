package dedupe

import (
	"context"
	"fmt"
	"time"
)

// arrivals are events that were not read from a partition: their place and time are those of their arrival.
type arrivals struct {
	table    *table
	underway map[Key]*Call // events that were let through and whose outcome is not known
}

func newArrivals(p *pool, window int64) *arrivals {
	return &arrivals{table: newTable(p, window), underway: map[Key]*Call{}}
}

// Call is a batch of arrivals on its way through the pipeline.
type Call struct {
	m      *Memory
	events []Event
	done   chan struct{}
}

// Arrive sets Duplicate of events. Their occurrences count only when the Call is ended with success; until then, whoever brings one of
// them again has to wait: to be told that it is a duplicate of something that then fails would lose it.
//
// The caller must End the Call, and leave events alone until then.
func (m *Memory) Arrive(ctx context.Context, now time.Time, events []Event) (c *Call, duplicates int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.arrivals
	for {
		other := a.before(events)
		if other == nil {
			break
		}
		m.waiting++
		m.mu.Unlock()
		select {
		case <-other.done:
		case <-ctx.Done():
			err = fmt.Errorf("an event of this batch is on its way in another one, which has not ended yet: %w", context.Cause(ctx))
		}
		m.mu.Lock()
		m.waiting--
		if err != nil {
			return nil, 0, err
		}
	}
	a.table.advance(now.UnixMilli())
	c = &Call{m: m, events: events, done: make(chan struct{})}
	for i := range events {
		e := &events[i]
		e.Duplicate = a.underway[e.Key] != nil || a.table.find(e.Key)
		if e.Duplicate {
			duplicates++
		} else {
			a.underway[e.Key] = c
		}
	}
	return c, duplicates, nil
}

// before returns a call that one of the events is underway in.
func (a *arrivals) before(events []Event) *Call {
	if len(a.underway) == 0 {
		return nil
	}
	for i := range events {
		if c := a.underway[events[i].Key]; c != nil {
			return c
		}
	}
	return nil
}

// End says whether the pipeline has taken the events.
func (c *Call) End(stored bool) {
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	a := c.m.arrivals
	for i := range c.events {
		k := c.events[i].Key
		if a.underway[k] == c {
			delete(a.underway, k)
		}
		if stored {
			a.table.occur(k)
		}
	}
	close(c.done)
	c.m.settle()
}
