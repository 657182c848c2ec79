package mskreceiver

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

// entry is one record on its way through the receiver.
type entry struct {
	record    *kgo.Record
	arrived   time.Time
	cost      int64 // estimated memory, see costOf
	inspected bool
	item      bool // of a quarantine topic: it is not decoded

	// What inspection found.
	events   int
	decoded  int64 // bytes that it takes decoded, at least
	origin   origin
	refusal  *refusal // not nil: the record goes to quarantine, or has gone
	rejected bool     // it has gone
	omitted  []int32  // positions of events that are not delivered (refused.go), ascending
	parts    []*entry // what goes to quarantine for them
}

// tally is what became of its events before the pipeline.
func (e *entry) tally() block.Tally {
	if e.rejected {
		return block.Tally{Quarantined: int64(e.events)}
	}
	return block.Tally{Events: int64(e.events - len(e.omitted)), Quarantined: int64(len(e.omitted))}
}

// gathering cuts a partition's records into blocks that tile it. It is owned by the partition's worker.
//
// First it cuts the ranges that an owner before it intended, whatever they hold by now: retention or compaction may have removed
// some of their records, or all. Then it cuts by its own limits.
type gathering struct {
	limits  BlockConfig
	inspect func(*entry)

	next int64   // the following block's first offset
	redo []int64 // ends of the ranges that are cut again
	// complete: no record below it will arrive any more, beyond those that have.
	complete int64

	entries []*entry
	// entries[:fit] belong to the next block, so far; they hold this much:
	fit    int
	events int
	bytes  int64
	closed bool // the next record does not fit any more, or a bound is reached
}

func (g *gathering) add(entries []*entry) { g.entries = append(g.entries, entries...) }

// span is a block's range and its records.
type span struct {
	entries     []*entry
	first, last int64
	redo        bool
}

// cut returns the next block if it is complete: a bound is reached, it is old enough, or no more may come because the
// partition is paused. Otherwise it returns after how long the block will be old enough; zero: there is none yet.
func (g *gathering) cut(now time.Time, paused bool) (s span, wait time.Duration, ok bool) {
	g.scan()
	redo := len(g.redo) > 0
	switch {
	case g.closed:
	case redo || g.fit == 0:
		return span{}, 0, false
	case !paused:
		if wait = g.limits.MaxAge - now.Sub(g.entries[0].arrived); wait > 0 {
			return span{}, wait, false
		}
	}
	s = span{entries: g.entries[:g.fit:g.fit], first: g.next, redo: redo}
	if redo {
		s.last, g.redo = g.redo[0]-1, g.redo[1:]
	} else {
		s.last = s.entries[g.fit-1].record.Offset
	}
	g.next = s.last + 1
	g.entries = append([]*entry(nil), g.entries[g.fit:]...) // a new array, so that finished records can be collected
	g.fit, g.events, g.bytes, g.closed = 0, 0, 0, false
	return s, 0, true
}

// scan inspects records up to the block's end.
func (g *gathering) scan() {
	for !g.closed && g.fit < len(g.entries) {
		e := g.entries[g.fit]
		if !e.inspected {
			g.inspect(e)
			e.inspected = true
		}
		size := weight(e)
		if len(g.redo) > 0 {
			if e.record.Offset >= g.redo[0] {
				g.closed = true
				return
			}
			g.closed = e.record.Offset == g.redo[0]-1
		} else {
			if g.fit > 0 && (g.events+e.events > g.limits.MaxEvents || g.bytes+size > g.limits.MaxBytes) {
				g.closed = true
				return
			}
			g.closed = g.events+e.events >= g.limits.MaxEvents || g.bytes+size >= g.limits.MaxBytes
		}
		g.fit++
		g.events += e.events
		g.bytes += size
	}
	if len(g.redo) > 0 && g.redo[0] <= g.complete {
		g.closed = true
	}
}
