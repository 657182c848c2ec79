package icebergexporter

import (
	"testing"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/stretchr/testify/require"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/columns"
)

func blockCall(part int32, first, last int64) *call {
	return &call{hasBlock: true, block: block.Block{Topic: "t", Partition: part, First: first, Last: last}}
}

func TestATablesOffsetsDecideWhatBecomesOfABlock(t *testing.T) {
	have := book{active: offsets{{topic: "t"}: 10}}
	for _, tc := range []struct {
		name   string
		call   *call
		oldest int64
		fresh  bool
		want   func(c *call) plan
	}{
		{name: "one that begins where the table ends is new", call: blockCall(0, 10, 19), oldest: 10, want: written(0, 10, 20)},
		{name: "one that the table ends with is in", call: blockCall(0, 5, 9), oldest: 5, want: replayed},
		{name: "an older one is in", call: blockCall(0, 0, 3), want: replayed},
		{name: "of one that straddles the end the rest is new", call: blockCall(0, 5, 14), oldest: 5, want: written(10, 10, 15)},
		{name: "one after a gap is early", call: blockCall(0, 15, 19), oldest: 10, want: early(10)},
		{name: "one after a gap that the group takes for stored sends the receiver back", call: blockCall(0, 15, 19), oldest: 15, want: lacking(10)},
		{name: "whatever the group's beginning", call: blockCall(0, 15, 19), oldest: 15, fresh: true, want: lacking(10)},
		{name: "one that begins a log is new", call: blockCall(1, 0, 9), want: written(0, 0, 10)},
		{name: "one that does not begin the log is early", call: blockCall(1, 10, 19), want: early(block.FromStart)},
		{name: "one that begins where the group chose to is new", call: blockCall(1, 700, 709), oldest: 700, fresh: true, want: written(0, 700, 710)},
		{name: "one after it is early", call: blockCall(1, 710, 719), oldest: 700, fresh: true, want: early(block.FromStart)},
		{name: "of a partition that a new table does not know sends the receiver to the start", call: blockCall(1, 700, 709), oldest: 700, want: lacking(block.FromStart)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.call.block.Oldest, tc.call.block.Fresh = tc.oldest, tc.fresh
			want := tc.want(tc.call)
			if want.next == nil {
				want.next, want.before = offsets{}, offsets{}
			}
			require.Equal(t, want, makePlan(have, []*call{tc.call}, rowRules))
		})
	}
}

func written(from, before, next int64) func(*call) plan {
	return func(c *call) plan {
		part := partitionOf(c.block)
		return plan{
			write:  []cut{{call: c, from: from}},
			next:   offsets{part: next},
			before: offsets{part: before},
		}
	}
}

func replayed(c *call) plan { return plan{replayed: []*call{c}} }
func early(at int64) func(*call) plan {
	return func(c *call) plan { return plan{early: []gap{{c, at}}} }
}
func lacking(at int64) func(*call) plan {
	return func(c *call) plan { return plan{lacking: []gap{{c, at}}} }
}

func TestBlocksOfAGroupThatTileGoInTogetherInWhateverOrderTheyCame(t *testing.T) {
	a, b, c, far := blockCall(0, 10, 19), blockCall(0, 20, 29), blockCall(0, 30, 39), blockCall(0, 50, 59)
	p := makePlan(book{active: offsets{{topic: "t"}: 10}}, []*call{far, c, a, b}, rowRules)
	require.Equal(t, []cut{{call: a}, {call: b}, {call: c}}, p.write)
	require.Equal(t, []gap{{far, 40}}, p.early)
	require.Equal(t, offsets{{topic: "t"}: 40}, p.next)
	require.Equal(t, offsets{{topic: "t"}: 10}, p.before)
}

func TestABlockDeliveredTwiceInOneGroupIsWrittenOnce(t *testing.T) {
	first, again, longer, plain := blockCall(0, 10, 19), blockCall(0, 10, 19), blockCall(0, 15, 24), &call{}
	p := makePlan(book{active: offsets{{topic: "t"}: 10}}, []*call{longer, plain, first, again}, rowRules)
	require.Equal(t, []cut{{call: plain}, {call: first}, {call: longer, from: 20}}, p.write)
	require.Equal(t, []*call{again}, p.doubled, "answered with the group, not before")
	require.Empty(t, p.replayed)
	require.Equal(t, offsets{{topic: "t"}: 25}, p.next)
}

func TestOffsetsAreReadBackAsWritten(t *testing.T) {
	plain, identified := partition{topic: "otlp.logs.v1", id: 12}, partition{"otlp.logs.v1", block.TopicID{0xff, 15: 1}, 12}
	require.Equal(t, "pulsegrid.offset.otlp.logs.v1.12", plain.property())
	require.Equal(t, "pulsegrid.offset.otlp.logs.v1@_wAAAAAAAAAAAAAAAAAAAQ.12", identified.property())
	got, err := readOffsets(iceberg.Properties{plain.property(): "77", identified.property(): "78", countKey: "2", "write.format.default": "parquet"}, offsetPrefix)
	require.NoError(t, err)
	require.Equal(t, offsets{plain: 77, identified: 78}, got)
}

func TestAnUnreadableOffsetIsAnErrorAndNotZero(t *testing.T) {
	for key, value := range map[string]string{
		"pulsegrid.offset.t.0": "x", "pulsegrid.offset.t.1": "-1", "pulsegrid.offset.t": "1", "pulsegrid.offset.t.x": "1", "pulsegrid.offset..1": "1", "pulsegrid.offset.t@x.1": "1",
	} {
		_, err := readOffsets(iceberg.Properties{key: value}, offsetPrefix)
		require.ErrorContains(t, err, key)
	}
}

func TestACutKeepsExactlyTheRowsFromItsOffsetOn(t *testing.T) {
	mem := memory.NewCheckedAllocator(memory.NewGoAllocator())
	defer mem.AssertSize(t, 0)
	b := columns.NewBuilder(mem, columns.Logs)
	defer b.Release()
	for _, offsets := range [][2]int64{{7, 9}, {2, 3}, {8, 8}} { // not in order, as a processor may leave them
		_, ld := logs(0, offsets[0], offsets[1], 2)
		require.NoError(t, b.AppendLogs(ld))
	}
	c := &call{hasBlock: true, batch: b.NewRecordBatch()}
	defer c.batch.Release()
	var got []int64
	for _, part := range (cut{call: c, from: 8}).batches() {
		col := part.Column(part.Schema().FieldIndices(offsetColumn)[0]).(*array.Int64)
		got = append(got, col.Int64Values()...)
		part.Release()
	}
	require.Equal(t, []int64{8, 8, 9, 9, 8, 8}, got)
}
