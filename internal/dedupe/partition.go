package dedupe

import (
	"context"
	"fmt"
	"slices"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
)

// Copy is an event that repeats an earlier one.
type Copy struct {
	Offset int64 // of its record
	Index  int32 // its position in the record, from 0
	Rule   eventid.Rule
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
	base        int64    // subtracted from the offsets in copies: that of the first record, which may lie far behind first
	copies      []uint64 // offset<<32 | position in the record, ascending; may hold more than the range
	stored      bool
}

// storedMax bounds, in blocks or parts of blocks, how many decisions are kept that were stored but that the receiver has not gone past.
const storedMax = 64

func (p *partition) end() {
	p.table.free()
	close(p.moved)
}

// Decide returns the copies among the events of block b, in the order of their places. records are all that have events, in the order of their offsets.
// It waits until what comes before b has been decided. What was decided once stays so: a repeated delivery gives the same result, in the same block or in
// parts of it, until the block was Stored and the receiver is past it. A block that comes again after that is answered with a block.ResumeError, since what
// is remembered now says nothing about it: the receiver must Begin the partition at the block's First.
//
// A partition that Begin was not called for begins with b, without warm-up.
func (m *Memory) Decide(ctx context.Context, b block.Block, records []eventid.Record) (copies []Copy, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, err := m.turn(ctx, b)
	if err != nil {
		return nil, err
	}
	p.drop(b.Oldest)
	if !p.keeps(b.First, min(b.Next(), p.next)) {
		return nil, fmt.Errorf("block %s comes again though it was stored, and dedupe's decisions about it were dropped; to decide anew would take "+
			"its events for copies of themselves: begin the partition again: %w", b, &block.ResumeError{Topic: b.Topic, Partition: b.Partition, Next: b.First})
	}
	for len(records) > 0 && records[0].Offset < p.next {
		copies = p.repeat(copies, &records[0])
		records = records[1:]
	}
	if b.Next() > p.next {
		copies = m.advance(p, b.Next(), copies, records)
	}
	m.settle()
	return copies, nil
}

// advance decides about the records up to next, which has not been done before.
func (m *Memory) advance(p *partition, next int64, copies []Copy, records []eventid.Record) []Copy {
	d := decided{first: p.next, next: next, base: p.next}
	if len(records) > 0 {
		d.base = records[0].Offset
	}
	touched := 0
	for i := range records {
		r := &records[i]
		if touched <= i {
			touched = i + m.one.touch(p.table, records[i:])
		}
		if len(r.Rules) > 0 { // a record without events has no say in the partition's time
			p.table.advance(r.Appended / m.step)
		}
		for _, at := range m.one.decide(p.table, r) {
			d.copies = append(d.copies, uint64(r.Offset-d.base)<<32|uint64(uint32(at)))
			copies = append(copies, Copy{r.Offset, at, r.Rules[at]})
		}
	}
	d.copies = slices.Clip(d.copies)
	p.kept = append(p.kept, d)
	p.next = next
	close(p.moved)
	p.moved = make(chan struct{})
	return copies
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

// repeat appends the copies of a record that has been decided about, and is kept.
func (p *partition) repeat(copies []Copy, r *eventid.Record) []Copy {
	for _, k := range p.kept {
		if k.first > r.Offset || r.Offset >= k.next {
			continue
		}
		first := uint64(r.Offset-k.base) << 32
		at, _ := slices.BinarySearch(k.copies, first)
		for _, c := range k.copies[at:] {
			if c>>32 != first>>32 || int(uint32(c)) >= len(r.Rules) {
				break
			}
			copies = append(copies, Copy{r.Offset, int32(uint32(c)), r.Rules[uint32(c)]})
		}
		return copies
	}
	return copies
}
