package icebergexporter

import (
	"cmp"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

// Columns of the row model that decide something here.
const (
	offsetColumn    = "kafka_offset"
	ingestColumn    = "ingest_time"
	idColumn        = "event_id"
	topicColumn     = "kafka_topic"
	partitionColumn = "kafka_partition"
)

// plan is what has to be done for a group, given a table's offsets.
type plan struct {
	write    []cut    // what is written, in order
	replayed []*call  // calls whose blocks the table holds completely: answered at once
	doubled  []*call  // calls whose blocks the group holds completely without them: answered as the group is
	early    []gap    // blocks before which one is neither in the table nor in the group: they wait for it
	lacking  []gap    // blocks before which the table lacks what the group takes for stored: the receiver goes back
	ahead    []gap    // blocks of a log that ends before the table does: refused
	remade   []remade // partitions whose topic was made anew
	next     offsets  // where the commit moves partitions to
	before   offsets  // where they were, for the snapshot's summary
}

// remade is a partition whose topic was deleted and made anew: where the former one ended.
type remade struct {
	part, former partition
	at           int64
}

// cut is one call with the offset from which its rows are written; the rows before it are in the table, or in the group through
// another call. 0: all of its rows.
type cut struct {
	call *call
	from int64
}

// gap is a call whose block begins after the offset at which its partition ends; block.FromStart: the table does not know it.
type gap struct {
	call *call
	at   int64
}

func (g gap) resume() *block.ResumeError {
	return &block.ResumeError{Topic: g.call.block.Topic, Partition: g.call.block.Partition, Next: g.at}
}

// rules are where the rows of a signal and the entries of the ledger differ.
type rules struct {
	// whole: a block that straddles the table's offset cannot be cut; the receiver goes back to the offset and cuts anew.
	whole bool
	// anywhere: a partition that the table does not know begins where the group is, whatever the group has finished before.
	anywhere bool
}

var (
	rowRules = rules{}
	// An entry counts events of which the rows do not tell (duplicates), so it is of a whole block. A ledger that is new, or was
	// dropped, does not make its process read the whole log again: the audit names what has no entry.
	ledgerRules = rules{whole: true, anywhere: true}
)

// makePlan decides, for each call of a group, what a table with these offsets makes of its block:
//
//	it ends before the table's offset            -> it is in: replayed
//	it begins before the offset and ends after   -> its rows from that offset on are written
//	it begins at the offset                      -> all of its rows are written
//	it begins after the offset                   -> early, or lacking where the group takes what is between for stored
//	there is no block                            -> all of its rows are written
//	its log ends before the offset               -> ahead: Kafka was restored, or its log truncated
//
// A block whose topic has another id than the table's offset is of a topic that was made anew: the offset says nothing of it.
//
// So the offset of a partition never passes a block that is not in. A partition that the table does not know begins where the group
// does, if the group began by choice (block.Fresh) or there is nothing before; else the table was restored or replaced.
//
// Calls of the same partition are taken in the order of their blocks, each moving the offset on for the next, so that several blocks
// go into one commit, and a block that was delivered twice within one group is written once.
func makePlan(have book, calls []*call, r rules) plan {
	p := plan{next: offsets{}, before: offsets{}}
	ordered := slices.Clone(calls)
	slices.SortStableFunc(ordered, func(a, b *call) int {
		return cmp.Or(cmp.Compare(a.block.Topic, b.block.Topic), cmp.Compare(a.block.Partition, b.block.Partition), cmp.Compare(a.block.First, b.block.First))
	})
	for _, c := range ordered {
		if !c.hasBlock {
			p.write = append(p.write, cut{call: c})
			continue
		}
		b := c.block
		as, stored, known, former := have.find(partitionOf(b))
		if former != nil {
			p.remade = append(p.remade, remade{as, *former, have.active[*former]})
		}
		part := as
		if partitionOf(b).identified() {
			part = partitionOf(b) // the entry gets its topic's id
		}
		at, planned := p.next[part]
		switch {
		case planned:
		case known:
			at = stored
		case b.Oldest > 0 && !b.Fresh && !r.anywhere:
			p.lacking = append(p.lacking, gap{c, block.FromStart})
			continue
		case b.First > b.Oldest:
			p.early = append(p.early, gap{c, block.FromStart})
			continue
		default:
			at = b.First
		}
		switch {
		case known && 0 < b.LogEnd && b.LogEnd < stored:
			p.ahead = append(p.ahead, gap{c, stored})
			continue
		case known && b.Last < stored:
			p.replayed = append(p.replayed, c)
			continue
		case b.Last < at:
			p.doubled = append(p.doubled, c)
			continue
		case at < b.First && at < b.Oldest:
			p.lacking = append(p.lacking, gap{c, at})
			continue
		case at < b.First:
			p.early = append(p.early, gap{c, at})
			continue
		case b.First < at && r.whole:
			p.lacking = append(p.lacking, gap{c, at})
			continue
		case b.First < at:
			p.write = append(p.write, cut{call: c, from: at})
		default:
			p.write = append(p.write, cut{call: c})
		}
		if !planned {
			p.before[part] = at
		}
		p.next[part] = b.Next()
	}
	return p
}

// rowsOf returns the rows of cuts, as new references that the caller releases.
func rowsOf(cuts []cut) (out []arrow.RecordBatch) {
	for _, c := range cuts {
		out = append(out, c.batches()...)
	}
	return out
}

// batches returns the call's rows from the cut on, as slices that share the call's memory. Rows without an offset (kafka_offset
// is -1) cannot be told apart and are kept.
func (c cut) batches() []arrow.RecordBatch {
	b := c.call.batch
	if b == nil {
		return nil
	}
	if c.from == 0 {
		b.Retain()
		return []arrow.RecordBatch{b}
	}
	offsets := b.Column(b.Schema().FieldIndices(offsetColumn)[0]).(*array.Int64)
	keep := func(row int) bool { o := offsets.Value(row); return o < 0 || o >= c.from }
	var out []arrow.RecordBatch
	for row, n := 0, offsets.Len(); row < n; {
		if !keep(row) {
			row++
			continue
		}
		end := row + 1
		for end < n && keep(end) {
			end++
		}
		out = append(out, b.NewSlice(int64(row), int64(end)))
		row = end
	}
	return out
}

// sameRows tells whether files written for p hold exactly what q wants written.
func (p plan) sameRows(q plan) bool { return slices.Equal(p.write, q.write) }
