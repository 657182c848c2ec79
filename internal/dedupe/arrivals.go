package dedupe

import (
	"context"
	"fmt"
	"time"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
)

// arrivals are events that were not read from a partition: their place and time are those of their arrival.
type arrivals struct {
	table    *table
	underway map[eventid.Key]*Call // keys of events that were let through and whose outcome is not known
}

func newArrivals(p *pool, window int64) *arrivals {
	return &arrivals{table: newTable(p, window), underway: map[eventid.Key]*Call{}}
}

// Call is a batch of arrivals on its way through the pipeline.
type Call struct {
	m    *Memory
	keys []eventid.Key
	done chan struct{}
}

// Arrive returns the positions of the copies in a batch, which is a whole request. Its occurrences count only when the Call is ended with success; until
// then, whoever brings one of its events again has to wait: to be told that it is a copy of something that then fails would lose it.
//
// The caller must End the Call.
func (m *Memory) Arrive(ctx context.Context, now time.Time, batch *eventid.Record) (c *Call, copies []int32, err error) {
	keys := keysOf(batch)
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.arrivals
	for {
		other := a.before(keys)
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
			return nil, nil, err
		}
	}
	a.table.advance(now.UnixMilli() / m.step)
	c = &Call{m: m, keys: keys, done: make(chan struct{})}
	seen := map[eventid.Key]bool{} // whether what occurs in this batch had occurred before
	for i, k := range keys {
		known, here := seen[k]
		if !here {
			known = a.table.find(k)
			seen[k] = known
			a.underway[k] = c
		}
		if known || here && batch.Rules[i] == eventid.ByUID {
			copies = append(copies, int32(i))
		}
	}
	return c, copies, nil
}

// keysOf are the keys of a batch's events. Those by request share one.
func keysOf(batch *eventid.Record) []eventid.Key {
	keys := make([]eventid.Key, len(batch.Keys))
	counts := map[eventid.Key]int{}
	for i, k := range batch.Keys {
		switch batch.Rules[i] {
		case eventid.ByRequest:
			k = batch.WholeKey()
		case eventid.ByContent:
			counts[k]++
			k = k.Nth(counts[k] - 1)
		}
		keys[i] = k
	}
	return keys
}

// before returns a call that one of the events is underway in.
func (a *arrivals) before(keys []eventid.Key) *Call {
	if len(a.underway) == 0 {
		return nil
	}
	for _, k := range keys {
		if c := a.underway[k]; c != nil {
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
	for _, k := range c.keys {
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
