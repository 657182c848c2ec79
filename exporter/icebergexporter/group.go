package icebergexporter

import (
	"context"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// call is one Consume call that waits for its rows to be committed.
type call struct {
	ctx      context.Context // the caller's; once it is done nobody waits for the answer
	block    block.Block
	hasBlock bool
	batch    arrow.RecordBatch // as the row model's Builder made it; owned by the committer once handed over; nil: no rows
	rows     int64
	bytes    int64     // reserved of the budget; given back by the committer
	oldest   time.Time // ingest_time of its oldest row; zero: no rows
	arrived  time.Time
	entry    ledger.Entry // of its block: made of all of the block's rows, however many of them this call adds to the table
	done     chan error   // holds the one answer
}

// origin names the call in errors and logs.
func (c *call) origin() string {
	if c.hasBlock {
		return "block " + c.block.String()
	}
	return "data without a block"
}

// partitionsOf are those of the calls' blocks.
func partitionsOf(calls []*call) (out []partition) {
	for _, c := range calls {
		if c.hasBlock {
			out = append(out, partitionOf(c.block))
		}
	}
	return out
}

// run is the committer: it groups calls and commits group after group until Shutdown. While a group is being committed the next
// calls wait, with their batches built, and are the next group's.
func (s *sink) run() {
	for {
		g := s.collect()
		if len(g) == 0 {
			return
		}
		s.tel.groupAge.Record(s.ctx, time.Since(oldestArrival(g)).Seconds(), s.tel.table)
		s.commitGroup(s, s.wanted(g))
	}
}

// wanted answers the calls of a group whose callers have left: nothing of them is written yet, so it need not be.
func (s *sink) wanted(g []*call) (out []*call) {
	for _, c := range g {
		if err := context.Cause(c.ctx); err != nil {
			s.answer(c, err)
			continue
		}
		out = append(out, c)
	}
	return out
}

// collect returns the next group: it is closed when its oldest call has waited commit::max_age, when it is big enough, when a
// call waits for memory, or at shutdown. It returns nothing when the sink shuts down and no group is open.
func (s *sink) collect() []*call {
	var g []*call
	for len(g) == 0 {
		select {
		case c := <-s.calls:
			for _, h := range s.held {
				g = append(g, h.call)
			}
			g, s.held = append(g, c), nil
		case <-s.pressure:
			s.yield(nil)
		case <-s.quit:
			s.yield(errShutdown)
			return nil
		}
	}
	timer := time.NewTimer(time.Until(g[0].arrived.Add(s.cfg.Commit.MaxAge)))
	defer timer.Stop()
	for !s.full(g) {
		select {
		case c := <-s.calls:
			g = append(g, c)
			if wait := time.Until(oldestArrival(g).Add(s.cfg.Commit.MaxAge)); wait <= 0 {
				return s.drain(g)
			}
		case <-s.pressure: // full asks the budget
		case <-timer.C:
			return s.drain(g)
		case <-s.quit:
			return s.drain(g)
		}
	}
	return s.drain(g)
}

// drain adds the calls that are already waiting to be taken, as far as the group may grow.
func (s *sink) drain(g []*call) []*call {
	for !s.large(g) {
		select {
		case c := <-s.calls:
			g = append(g, c)
		default:
			return g
		}
	}
	return g
}

func (s *sink) full(g []*call) bool { return s.large(g) || s.budget.isWaitedFor() }

func (s *sink) large(g []*call) bool {
	var rows, bytes int64
	for _, c := range g {
		rows += c.rows
		bytes += c.bytes
	}
	return rows >= s.cfg.Commit.MaxRows || bytes >= s.cfg.Commit.MaxBytes
}

func oldestArrival(g []*call) time.Time {
	oldest := g[0].arrived
	for _, c := range g[1:] {
		if c.arrived.Before(oldest) {
			oldest = c.arrived
		}
	}
	return oldest
}

// answer tells a call's caller and gives back what the call held. The caller may have left.
func (s *sink) answer(c *call, err error) {
	s.free(c)
	c.done <- err
}

// free gives back what a call holds. Freeing it again does nothing.
func (s *sink) free(c *call) {
	if c.batch != nil {
		c.batch.Release()
		c.batch = nil
	}
	s.budget.release(c.bytes)
	c.bytes = 0
}
