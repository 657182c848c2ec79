package icebergexporter

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/iceberg-go"

	"github.com/pulsegrid/pulsegrid/internal/block"
)

// Columns of the row model that decide something here.
const (
	offsetColumn = "kafka_offset"
	ingestColumn = "ingest_time"
	idColumn     = "event_id"
)

// plan is what has to be done for a group, given a table's offsets.
type plan struct {
	write    []cut              // what is written, in order
	replayed []*call            // calls whose blocks the table holds completely: answered at once
	doubled  []*call            // calls whose blocks the group holds completely without them: answered as the group is
	early    []gap              // blocks before which one is neither in the table nor in the group: they wait for it
	lacking  []gap              // blocks before which the table lacks what the group takes for stored: the receiver goes back
	offsets  iceberg.Properties // offsets that the commit sets
	before   iceberg.Properties // what they were, for the snapshot's summary
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
//
// So the offset of a partition never passes a block that is not in. A partition that the table does not know begins where the group
// does, if the group began by choice (block.Fresh) or there is nothing before; else the table was restored or replaced.
//
// Calls of the same partition are taken in the order of their blocks, each moving the offset on for the next, so that several blocks
// go into one commit, and a block that was delivered twice within one group is written once.
func makePlan(have offsets, calls []*call, r rules) plan {
	p := plan{offsets: iceberg.Properties{}, before: iceberg.Properties{}}
	ordered := slices.Clone(calls)
	slices.SortStableFunc(ordered, func(a, b *call) int {
		return cmp.Or(cmp.Compare(a.block.Topic, b.block.Topic), cmp.Compare(a.block.Partition, b.block.Partition), cmp.Compare(a.block.First, b.block.First))
	})
	planned := offsets{} // next offset with the calls planned so far
	for _, c := range ordered {
		if !c.hasBlock {
			p.write = append(p.write, cut{call: c})
			continue
		}
		part, b := partitionOf(c.block), c.block
		at, known := planned[part]
		if !known {
			at, known = have[part]
		}
		if !known {
			if b.Oldest > 0 && !b.Fresh && !r.anywhere {
				p.lacking = append(p.lacking, gap{c, block.FromStart})
				continue
			}
			if b.First > b.Oldest {
				p.early = append(p.early, gap{c, block.FromStart})
				continue
			}
			at = b.First
		}
		switch stored, ok := have[part]; {
		case ok && b.Last < stored:
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
		if _, ok := planned[part]; !ok {
			p.before[part.beforeProperty()] = strconv.FormatInt(at, 10)
		}
		planned[part] = b.Next()
		p.offsets[part.property()] = strconv.FormatInt(b.Next(), 10)
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
