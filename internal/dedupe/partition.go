package dedupe

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

// Event is one event to decide about.
type Event struct {
	Key      Key
	Appended int64 // append time of its record, Unix ms
	Offset   int64 // of its record
	Index    int32 // ordinal in the record
	// Duplicate is the decision.
	Duplicate bool
}

func compare(a, b Event) int {
	if a.Offset != b.Offset {
		return cmp.Compare(a.Offset, b.Offset)
	}
	return cmp.Compare(a.Index, b.Index)
}

// partition is what is known of one partition. Memory's lock guards it.
//
//	offsets      ... stored, Oldest passed | stored, kept | delivered, kept | decided next ...
//	decisions        dropped               | kept         | kept            |
//	                                                                        next
type partition struct {
	table *table
	next  int64         // everything before it has been decided
	moved chan struct{} // closed when next has moved or the partition has ended
	kept  []decided     // in the order of offsets, without overlaps
}

// decided are the decisions about the offsets [first, next).
type decided struct {
	first, next int64
	base        int64    // subtracted from the offsets in duplicates
	duplicates  []uint64 // offset<<32 | index, ascending; may hold more than the range
	stored      bool
}

// storedMax bounds, in blocks or parts of blocks, how many decisions are kept that were stored but that the receiver has not gone past.
const storedMax = 64

func (p *partition) end() {
	p.table.free()
	close(p.moved)
}

// Decide sets Duplicate of events, which are those of block b in any order. It waits until what comes before b has been decided. What
// was decided once stays so: a repeated delivery gives the same result, in the same block or in parts of it, until the block was Stored
// and the receiver is past it. A block that comes again after that is answered with a block.ResumeError, since what is remembered
// now says nothing about it: the receiver must Begin the partition at the block's First.
//
// A partition that Begin was not called for begins with b, without warm-up.
func (m *Memory) Decide(ctx context.Context, b block.Block, events []Event) (duplicates int, err error) {
	order := order(events)
	at := func(i int) *Event {
		if order != nil {
			i = order[i]
		}
		return &events[i]
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.turn(ctx, b)
	if err != nil {
		return 0, err
	}
	p.drop(b.Oldest)
	if !p.keeps(b.First, min(b.Next(), p.next)) {
		return 0, fmt.Errorf("block %s comes again though it was stored, and dedupe's decisions about it were dropped; to decide anew would take "+
			"its events for copies of themselves: begin the partition again: %w", b, &block.ResumeError{Topic: b.Topic, Partition: b.Partition, Next: b.First})
	}
	d := decided{first: max(b.First, p.next), next: b.Next(), base: max(b.First, p.next)}
	var last *Event
	for i := range events {
		e := at(i)
		if i%ahead == 0 {
			var keys [ahead]Key
			n := 0
			for ; n < ahead && i+n < len(events); n++ {
				keys[n] = at(i + n).Key
			}
			p.table.touch(keys[:n])
		}
		switch {
		case e.Offset < p.next:
			e.Duplicate = p.was(e.Offset, e.Index)
		case last != nil && compare(*last, *e) == 0: // one event that became two on the way
			e.Duplicate = last.Duplicate
		default:
			p.table.advance(e.Appended)
			if e.Duplicate = p.table.occur(e.Key); e.Duplicate {
				d.duplicates = append(d.duplicates, uint64(e.Offset-d.base)<<32|uint64(uint32(e.Index)))
			}
		}
		if e.Duplicate {
			duplicates++
		}
		last = e
	}
	if d.next > p.next {
		d.duplicates = slices.Clip(d.duplicates)
		p.kept = append(p.kept, d)
		p.next = d.next
		close(p.moved)
		p.moved = make(chan struct{})
	}
	m.settle()
	return duplicates, nil
}

// order returns the positions of the events in the order of their places; nil: they are in that order.
func order(events []Event) []int {
	if slices.IsSortedFunc(events, compare) {
		return nil
	}
	out := make([]int, len(events))
	for i := range out {
		out[i] = i
	}
	slices.SortStableFunc(out, func(i, j int) int { return compare(events[i], events[j]) })
	return out
}

// turn waits until everything before b has been decided. The lock is held when it is called and when it returns.
func (m *Memory) turn(ctx context.Context, b block.Block) (*partition, error) {
	at := place{b.Topic, b.Partition}
	for {
		p := m.partitions[at]
		if p == nil {
			p = m.begin(at, b.First)
		}
		if p.next >= b.First {
			return p, nil
		}
		moved, next := p.moved, p.next
		m.waiting++
		m.mu.Unlock()
		var err error
		select {
		case <-moved:
		case <-ctx.Done():
			err = fmt.Errorf("block %s waits for the block before it, which begins at offset %d: %w", b, next, context.Cause(ctx))
		}
		m.mu.Lock()
		m.waiting--
		if err != nil {
			return nil, err
		}
	}
}

// Stored says that the pipeline has taken block b.
func (m *Memory) Stored(b block.Block) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.partitions[place{b.Topic, b.Partition}]
	if p == nil {
		return
	}
	p.cut(b.First)
	p.cut(b.Next())
	stored := 0
	for i := range p.kept {
		k := &p.kept[i]
		k.stored = k.stored || b.First <= k.first && k.next <= b.Next()
		if k.stored {
			stored++
		}
	}
	p.kept = slices.DeleteFunc(p.kept, func(k decided) bool {
		drop := k.stored && stored > storedMax
		if drop {
			stored--
		}
		return drop
	})
}

// cut divides the decisions that offset lies in, so that one part ends and one begins there.
func (p *partition) cut(offset int64) {
	for i, k := range p.kept {
		if k.first < offset && offset < k.next {
			right := k
			right.first = offset
			p.kept[i].next = offset
			p.kept = slices.Insert(p.kept, i+1, right)
			return
		}
	}
}

// drop forgets the decisions about what the receiver has finished. They are not dropped as soon as they are stored, because a receiver
// that feeds two pipelines delivers to both again when one of them fails.
func (p *partition) drop(oldest int64) {
	p.kept = slices.DeleteFunc(p.kept, func(k decided) bool { return k.next <= oldest })
}

// keeps tells whether the decisions about [first, next) are kept.
func (p *partition) keeps(first, next int64) bool {
	for _, k := range p.kept {
		if k.first <= first && first < k.next {
			first = k.next
		}
	}
	return first >= next
}

// was tells what was decided about the event at a place, which is kept.
func (p *partition) was(offset int64, index int32) bool {
	for _, k := range p.kept {
		if k.first <= offset && offset < k.next {
			_, found := slices.BinarySearch(k.duplicates, uint64(offset-k.base)<<32|uint64(uint32(index)))
			return found
		}
	}
	return false
}
