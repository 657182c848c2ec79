package icebergexporter

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/iceberg-go"
)

// offsetPrefix begins the table properties and snapshot summary entries that hold, for a partition, the offset after the last
// record whose rows the table holds: "pulsegrid.offset.<topic>.<partition>" = "<next offset>".
const offsetPrefix = "pulsegrid.offset."

// Columns of the row model that decide something here.
const (
	offsetColumn = "kafka_offset"
	ingestColumn = "ingest_time"
)

// partition is one partition of a topic.
type partition struct {
	topic string
	id    int32
}

func (p partition) property() string { return fmt.Sprintf("%s%s.%d", offsetPrefix, p.topic, p.id) }

// readOffsets returns the next offset of every partition that the properties know. A value that is no number is an error: taking
// it for "unknown" would write everything again.
func readOffsets(props iceberg.Properties) (map[partition]int64, error) {
	out := map[partition]int64{}
	for k, v := range props {
		rest, ok := strings.CutPrefix(k, offsetPrefix)
		if !ok {
			continue
		}
		dot := strings.LastIndexByte(rest, '.')
		id, err := strconv.ParseInt(rest[dot+1:], 10, 32)
		if err != nil || dot <= 0 {
			return nil, fmt.Errorf("table property %q names no partition", k)
		}
		next, err := strconv.ParseInt(v, 10, 64)
		if err != nil || next < 0 {
			return nil, fmt.Errorf("table property %q: %q is no offset", k, v)
		}
		out[partition{rest[:dot], int32(id)}] = next
	}
	return out, nil
}

// plan is what has to be done for a group, given a table's offsets.
type plan struct {
	write    []cut              // what is written, in order
	replayed []*call            // calls whose blocks the table holds completely: answered at once
	doubled  []*call            // calls whose blocks the group holds completely without them: answered as the group is
	offsets  iceberg.Properties // offsets that the commit sets
}

// cut is one call with the offset from which its rows are written; the rows before it are in the table, or in the group through
// another call. 0: all of its rows.
type cut struct {
	call *call
	from int64
}

// makePlan decides, for each call of a group, whether its rows are new to a table with these offsets:
//
//	the block ends before the table's offset            -> it is in: replayed
//	the block begins before the offset and ends after   -> its rows from that offset on are written
//	else, or the call has no block                      -> all of its rows are written
//
// Calls of the same partition are taken in the order of their blocks, each moving the offset on for the next, so that a block
// which was delivered twice within one group is written once.
func makePlan(have map[partition]int64, calls []*call) plan {
	p := plan{offsets: iceberg.Properties{}}
	ordered := slices.Clone(calls)
	slices.SortStableFunc(ordered, func(a, b *call) int {
		return cmp.Or(cmp.Compare(a.block.Topic, b.block.Topic), cmp.Compare(a.block.Partition, b.block.Partition), cmp.Compare(a.block.First, b.block.First))
	})
	planned := map[partition]int64{} // next offset with the calls planned so far
	for _, c := range ordered {
		if !c.hasBlock {
			p.write = append(p.write, cut{call: c})
			continue
		}
		part := partition{c.block.Topic, c.block.Partition}
		at := max(have[part], planned[part]) // 0 where neither has heard of the partition
		switch {
		case c.block.Last < have[part]:
			p.replayed = append(p.replayed, c)
			continue
		case c.block.Last < at:
			p.doubled = append(p.doubled, c)
			continue
		case c.block.First < at:
			p.write = append(p.write, cut{call: c, from: at})
		default:
			p.write = append(p.write, cut{call: c})
		}
		planned[part] = c.block.Next()
		p.offsets[part.property()] = strconv.FormatInt(c.block.Next(), 10)
	}
	return p
}

// batches returns the rows of the plan, as new references that the caller releases.
func (p plan) batches() (out []arrow.RecordBatch) {
	for _, c := range p.write {
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
