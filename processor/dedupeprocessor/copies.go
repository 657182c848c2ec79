package dedupeprocessor

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/dedupe"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
)

// finder looks places up in a block's copies. It is quick where they are asked for in their order, which they are unless a processor has regrouped events.
type finder struct {
	copies []dedupe.Copy
	at     int
}

func compare(c dedupe.Copy, place dedupe.Copy) int {
	return cmp.Or(cmp.Compare(c.Offset, place.Offset), cmp.Compare(c.Index, place.Index))
}

// rule is the rule by which the event of that place is a copy; false: it is none.
func (f *finder) rule(offset int64, index int32) (eventid.Rule, bool) {
	place := dedupe.Copy{Offset: offset, Index: index}
	if f.at < len(f.copies) && compare(f.copies[f.at], place) < 0 {
		f.at++
	}
	if f.at < len(f.copies) && compare(f.copies[f.at], place) < 0 || f.at > 0 && compare(f.copies[f.at-1], place) >= 0 {
		f.at, _ = slices.BinarySearchFunc(f.copies, place, compare)
	}
	if f.at == len(f.copies) || compare(f.copies[f.at], place) != 0 {
		return 0, false
	}
	return f.copies[f.at].Rule, true
}

// examplesEvery is how often a pipeline logs examples of what it has removed, at most.
const examplesEvery = time.Minute

// examples logs one removed copy by each rule.
type examples struct {
	log *zap.Logger

	mu    sync.Mutex
	since time.Time // when it last did
}

// seen logs an example of each rule among a block's copies, unless that was done a short while ago.
func (e *examples) seen(blk block.Block, copies []dedupe.Copy) {
	if len(copies) == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := time.Now(); now.Sub(e.since) < examplesEvery {
		return
	} else {
		e.since = now
	}
	var done [eventid.Rules]bool
	for _, c := range copies {
		if done[c.Rule] {
			continue
		}
		done[c.Rule] = true
		e.log.Info("a copy was removed; this is an example, others of the next minute are only counted",
			zap.Stringer("rule", c.Rule), zap.String("tenant", tenantOf(blk, c.Offset)), zap.String("topic", blk.Topic),
			zap.Int32("partition", blk.Partition), zap.Int64("offset", c.Offset), zap.Int32("index", c.Index))
	}
}

func tenantOf(blk block.Block, offset int64) string {
	at, found := slices.BinarySearchFunc(blk.Records, offset, func(r eventid.Record, offset int64) int { return cmp.Compare(r.Offset, offset) })
	if !found {
		return ""
	}
	return blk.Records[at].Tenant
}
