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

func TestATablesOffsetsDecideWhatIsWritten(t *testing.T) {
	have := map[partition]int64{{"t", 0}: 10}
	for _, tc := range []struct {
		name     string
		call     *call
		replayed bool
		from     int64
		next     string
	}{
		{name: "a block that begins where the table ends is new", call: blockCall(0, 10, 19), next: "20"},
		{name: "a block after a gap is new", call: blockCall(0, 15, 19), next: "20"},
		{name: "a block that the table ends with is in", call: blockCall(0, 5, 9), replayed: true},
		{name: "an older block is in", call: blockCall(0, 0, 3), replayed: true},
		{name: "of a straddling block the rest is new", call: blockCall(0, 5, 14), from: 10, next: "15"},
		{name: "a partition that the table does not know is new", call: blockCall(1, 0, 9), next: "10"},
		{name: "a partition that starts late is new", call: blockCall(1, 700, 709), next: "710"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := makePlan(have, []*call{tc.call})
			if tc.replayed {
				require.Equal(t, plan{replayed: []*call{tc.call}, offsets: iceberg.Properties{}}, p)
				return
			}
			require.Equal(t, []cut{{call: tc.call, from: tc.from}}, p.write)
			require.Equal(t, iceberg.Properties{partition{"t", tc.call.block.Partition}.property(): tc.next}, p.offsets)
		})
	}
}

func TestABlockDeliveredTwiceInOneGroupIsWrittenOnce(t *testing.T) {
	first, again, longer, plain := blockCall(0, 10, 19), blockCall(0, 10, 19), blockCall(0, 15, 24), &call{}
	p := makePlan(map[partition]int64{{"t", 0}: 5}, []*call{longer, plain, first, again})
	require.Equal(t, []cut{{call: plain}, {call: first}, {call: longer, from: 20}}, p.write)
	require.Equal(t, []*call{again}, p.doubled, "answered with the group, not before")
	require.Empty(t, p.replayed)
	require.Equal(t, iceberg.Properties{"pulsegrid.offset.t.0": "25"}, p.offsets)
}

func TestOffsetsAreReadBackAsWritten(t *testing.T) {
	p := partition{"otlp.logs.v1", 12}
	got, err := readOffsets(iceberg.Properties{p.property(): "77", "write.format.default": "parquet"})
	require.NoError(t, err)
	require.Equal(t, map[partition]int64{p: 77}, got)
}

func TestAnUnreadableOffsetIsAnErrorAndNotZero(t *testing.T) {
	for key, value := range map[string]string{
		"pulsegrid.offset.t.0": "x", "pulsegrid.offset.t.1": "-1", "pulsegrid.offset.t": "1", "pulsegrid.offset.t.x": "1", "pulsegrid.offset..1": "1",
	} {
		_, err := readOffsets(iceberg.Properties{key: value})
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
