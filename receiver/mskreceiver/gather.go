package mskreceiver

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// entry is one record on its way through the receiver.
type entry struct {
	record    *kgo.Record
	arrived   time.Time
	cost      int64 // estimated memory, see costOf
	inspected bool

	// What inspection found.
	events   int
	origin   origin
	refusal  *refusal // not nil: the record goes to quarantine, or has gone
	rejected bool     // it has gone
}

// gathering cuts a partition's records into blocks. It is owned by the partition's worker.
type gathering struct {
	limits  BlockConfig
	inspect func(*entry)

	entries []*entry
	// entries[:fit] belong to the next block, so far; they hold this much:
	fit    int
	events int
	bytes  int64
	closed bool // the next record does not fit any more, or a bound is reached
}

func (g *gathering) add(entries []*entry) { g.entries = append(g.entries, entries...) }

// cut returns the next block if it is complete: a bound is reached, it is old enough, or no more may come because the
// partition is paused. Otherwise it returns after how long the block will be old enough; zero: there is none yet.
func (g *gathering) cut(now time.Time, paused bool) (blk []*entry, wait time.Duration) {
	g.scan()
	if g.fit == 0 {
		return nil, 0
	}
	if !g.closed && !paused {
		if wait = g.limits.MaxAge - now.Sub(g.entries[0].arrived); wait > 0 {
			return nil, wait
		}
	}
	blk = g.entries[:g.fit:g.fit]
	g.entries = append([]*entry(nil), g.entries[g.fit:]...) // a new array, so that finished records can be collected
	g.fit, g.events, g.bytes, g.closed = 0, 0, 0, false
	return blk, 0
}

// scan inspects records up to the block's end.
func (g *gathering) scan() {
	for !g.closed && g.fit < len(g.entries) {
		e := g.entries[g.fit]
		if !e.inspected {
			g.inspect(e)
			e.inspected = true
		}
		size := int64(len(e.record.Value))
		// The client goes back where a log was truncated, or where it cannot tell: those are other records, or the same again,
		// but never part of a range that already covers their offsets.
		back := g.fit > 0 && e.record.Offset <= g.entries[g.fit-1].record.Offset
		if back || g.fit > 0 && (g.events+e.events > g.limits.MaxEvents || g.bytes+size > g.limits.MaxBytes) {
			g.closed = true
			return
		}
		g.fit++
		g.events += e.events
		g.bytes += size
		g.closed = g.events >= g.limits.MaxEvents || g.bytes >= g.limits.MaxBytes
	}
}
