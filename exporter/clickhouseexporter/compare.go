package clickhouseexporter

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/pulsegrid/pulsegrid/internal/block"
	"github.com/pulsegrid/pulsegrid/internal/ledger"
)

// sum is how many rows there are of a record, and the sum of their ids.
type sum struct {
	rows  int64
	idSum uint64
}

// tablePage are the sums of all records with rows at the offsets [from, upto) that were received at since or later.
type tablePage struct {
	from, upto int64 // upto 0: there is no page
	since      int64 // Unix nanoseconds
	records    map[int64]sum
}

// eventPlace is where an event lies within its partition.
type eventPlace struct {
	offset int64
	index  int32
}

// storedRows tells which rows of rec, at the offsets of x, the table has: by offset, index and event id, since a topic that was made
// anew has other events at the same offsets. Records are compared by their sums, row by row only where those differ.
func (e *chExporter) storedRows(ctx context.Context, v *view, b block.Block, x extent, rec arrow.RecordBatch) (func(row int) bool, error) {
	if err := e.noneRuns(ctx, b, x); err != nil {
		return nil, err
	}
	ours := recordSums(rec, x)
	if len(ours) == 0 {
		return func(int) bool { return false }, nil
	}
	oldest, _ := receivedRange(rec)
	if v.table.from > x.first || x.last >= v.table.upto || oldest < v.table.since {
		page, err := e.readTable(ctx, b, min(b.Oldest, x.first), oldest)
		if err != nil {
			return nil, err
		}
		if x.last >= page.upto {
			return nil, notStored("look for the block's rows in table "+e.schema.name(e.table.Name), fmt.Errorf("a block has more than %d records", offsetsPage))
		}
		v.table = page
	}
	stored, differ := map[int64]bool{}, []int64{}
	for offset, our := range ours {
		switch their := v.table.records[offset]; {
		case their == our:
			stored[offset] = true
		case their.rows > 0:
			differ = append(differ, offset)
		}
	}
	single, err := e.readRows(ctx, b, differ, oldest)
	if err != nil {
		return nil, err
	}
	l := lineageOf(rec)
	defer l.release()
	offsets, indexes, ids := l.offsets, l.indexes, columnOf[*array.FixedSizeBinary](rec, "event_id")
	return func(row int) bool {
		at := eventPlace{offsets.Value(row), indexes.Value(row)}
		return stored[at.offset] || slices.Contains(single[at], fmt.Sprintf("%X", ids.Value(row)))
	}, nil
}

// recordSums are the sums of rec's records at the offsets of x.
func recordSums(rec arrow.RecordBatch, x extent) map[int64]sum {
	out := map[int64]sum{}
	ids := columnOf[*array.FixedSizeBinary](rec, "event_id")
	for row, offset := range columnOf[*array.Int64](rec, "kafka_offset").Int64Values() {
		if offset < x.first || offset > x.last {
			continue
		}
		s := out[offset]
		out[offset] = sum{s.rows + 1, s.idSum + ledger.IDSum(ids.Value(row))}
	}
	return out
}

// readTable reads the sums of records from an offset on, more than a block's: for the blocks that come next.
func (e *chExporter) readTable(ctx context.Context, b block.Block, from, since int64) (tablePage, error) {
	type recordRow struct {
		Offset int64  `json:"kafka_offset"`
		Rows   int64  `json:"n"`
		IDSum  uint64 `json:"s"`
	}
	found, err := rows[recordRow](ctx, e.client, "SELECT kafka_offset, count() AS n, sum(reinterpretAsUInt64(substring(event_id, 1, 8))) AS s FROM "+e.schema.quoted(e.table.Name)+
		" WHERE kafka_topic = {topic:String} AND kafka_partition = {partition:Int32} AND kafka_offset >= {first:Int64} AND ingest_time >= fromUnixTimestamp64Nano({since:Int64})"+
		" GROUP BY kafka_offset ORDER BY kafka_offset LIMIT "+decimal(offsetsPage),
		partitionParams(b, map[string]string{"first": decimal(from), "since": decimal(since)}))
	if err != nil {
		return tablePage{}, notStored("look for the block's rows in table "+e.schema.name(e.table.Name), err)
	}
	page := tablePage{from: from, upto: math.MaxInt64, since: since, records: make(map[int64]sum, len(found))}
	for _, r := range found {
		page.records[r.Offset] = sum{r.Rows, r.IDSum}
	}
	if len(found) == offsetsPage {
		page.upto = found[offsetsPage-1].Offset + 1
	}
	return page, nil
}

// readRows reads the ids of the rows of some records, by place.
func (e *chExporter) readRows(ctx context.Context, b block.Block, offsets []int64, since int64) (map[eventPlace][]string, error) {
	out := map[eventPlace][]string{}
	for some := range slices.Chunk(offsets, 1000) {
		list := make([]string, len(some))
		for i, o := range some {
			list[i] = decimal(o)
		}
		found, err := rows[struct {
			Offset  int64    `json:"kafka_offset"`
			Index   int32    `json:"event_index"`
			Entries []string `json:"ids"`
		}](ctx, e.client, "SELECT kafka_offset, event_index, groupUniqArray(hex(event_id)) AS ids FROM "+e.schema.quoted(e.table.Name)+
			" WHERE kafka_topic = {topic:String} AND kafka_partition = {partition:Int32} AND kafka_offset IN ("+strings.Join(list, ", ")+")"+
			" AND ingest_time >= fromUnixTimestamp64Nano({since:Int64}) GROUP BY kafka_offset, event_index", partitionParams(b, map[string]string{"since": decimal(since)}))
		if err != nil {
			return nil, notStored("look for single rows in table "+e.schema.name(e.table.Name), err)
		}
		for _, f := range found {
			out[eventPlace{f.Offset, f.Index}] = f.Entries
		}
	}
	return out, nil
}

// run is a range of offsets whose records are all stored, or each lack rows.
type run struct {
	extent
	stored bool
}

// runsOf cuts x where records that the table has and records that it lacks meet.
func runsOf(x extent, rec arrow.RecordBatch, isStored func(row int) bool) []run {
	records := map[int64]bool{}
	for row, offset := range columnOf[*array.Int64](rec, "kafka_offset").Int64Values() {
		if offset >= x.first && offset <= x.last {
			before, seen := records[offset]
			records[offset] = isStored(row) && (before || !seen)
		}
	}
	out := []run{{x, true}}
	for i, offset := range slices.Sorted(maps.Keys(records)) {
		last := &out[len(out)-1]
		switch {
		case i == 0:
			last.stored = records[offset]
		case last.stored != records[offset]:
			last.last = offset - 1
			out = append(out, run{extent{offset, x.last}, records[offset]})
		}
	}
	return out
}

// verify tells, after an INSERT of rows with these sums, whether the table has them. A token that is still remembered for rows that
// somebody has deleted since makes ClickHouse drop the new ones.
func (e *chExporter) verify(ctx context.Context, b block.Block, want map[int64]sum, since int64) (bool, error) {
	first := slices.Min(slices.Collect(maps.Keys(want)))
	page, err := e.readTable(ctx, b, first, since)
	if err != nil {
		return false, err
	}
	lacks := 0
	for offset, our := range want {
		if page.records[offset].rows < our.rows {
			lacks++
		}
	}
	if lacks > 0 && lacks < len(want) {
		return false, notStored("verify an INSERT", fmt.Errorf("the table has rows of %d of %d records", len(want)-lacks, len(want)))
	}
	return lacks == 0, nil
}
