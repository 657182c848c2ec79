package lakefile

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/compute"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
)

// arrangement says how a table's rows are divided into partitions and sorted. iceberg-go does both by itself, and its results have text
// columns without a buffer where all texts are empty: the Parquet writer then takes the empty text for no value, the minimum of the row
// group and the lower bound of the file are those of the other rows, and readers skip rows that they were asked for. So rows come to
// iceberg-go in one partition a batch and sorted, which it writes as they are.
type arrangement struct {
	fields []partitionField
	order  []compute.SortKey
}

type partitionField struct {
	column    int
	transform iceberg.Transform
}

// arrange returns how tbl's rows, of schema sc, are arranged, and the table to hand to iceberg-go together with arranged rows. It keeps no
// bounds of the columns long: those that have a text longer than statsMax.
func arrange(tbl *table.Table, sc *arrow.Schema, long []string) (*arrangement, *table.Table, error) {
	spec, sort := tbl.Spec(), tbl.SortOrder()
	column := func(fieldID int) (int, error) {
		name, ok := tbl.Schema().FindColumnName(fieldID)
		if !ok {
			return 0, fmt.Errorf("%w: no field %d", iceberg.ErrInvalidSchema, fieldID)
		}
		at := sc.FieldIndices(name)
		if len(at) != 1 {
			return 0, fmt.Errorf("%w: rows have no column %s to divide or sort them by", iceberg.ErrInvalidSchema, name)
		}
		return at[0], nil
	}
	a := &arrangement{}
	for _, f := range spec.Fields() {
		if _, ok := f.Transform.(iceberg.VoidTransform); ok {
			continue
		}
		at, err := column(f.SourceID())
		if err != nil {
			return nil, nil, err
		}
		a.fields = append(a.fields, partitionField{at, f.Transform})
	}
	for _, f := range sort.Fields() {
		at, err := column(f.SourceID())
		if err != nil {
			return nil, nil, err
		}
		key := compute.SortKey{ColumnIndex: at, Order: compute.SortOrderAscending, NullPlacement: compute.SortNullsAtEnd}
		if f.Direction == table.SortDESC {
			key.Order = compute.SortOrderDescending
		}
		if f.NullOrder == table.NullsFirst {
			key.NullPlacement = compute.SortNullsAtStart
		}
		a.order = append(a.order, key)
	}
	as := table.New(tbl.Identifier(), writeMetadata{Metadata: tbl.Metadata(), props: withoutBounds(tbl.Properties(), long)}, tbl.MetadataLocation(), tbl.FS, nil)
	return a, as, nil
}

// writeMetadata is a table's metadata for writing rows that are sorted already, with properties that the table itself does not have.
type writeMetadata struct {
	table.Metadata
	props iceberg.Properties
}

func (writeMetadata) DefaultSortOrder() int            { return table.UnsortedSortOrderID }
func (m writeMetadata) Properties() iceberg.Properties { return m.props }

// statsMax is the length of the longest text that the Parquet writer keeps as a minimum or a maximum. It leaves a longer one out, and
// iceberg-go makes the bounds of a file of the row groups that have one: they are not those of all of its rows.
const statsMax = 4096

// LongTexts returns the columns of row model batches that have a text of which the Parquet writer keeps no bounds.
func LongTexts(batches []arrow.RecordBatch) (names []string) {
	if len(batches) == 0 {
		return nil
	}
	for i, f := range batches[0].Schema().Fields() {
		if slices.ContainsFunc(batches, func(b arrow.RecordBatch) bool { return hasLongText(b.Column(i)) }) {
			names = append(names, f.Name)
		}
	}
	return names
}

func hasLongText(col arrow.Array) bool {
	if dict, ok := col.(*array.Dictionary); ok {
		col = dict.Dictionary()
	}
	texts, ok := col.(array.BinaryLike)
	if !ok {
		return false
	}
	for i := range texts.Len() {
		if texts.ValueLen(i) > statsMax {
			return true
		}
	}
	return false
}

// withoutBounds returns props with bounds, where there were any, turned off for columns.
func withoutBounds(props iceberg.Properties, columns []string) iceberg.Properties {
	out := maps.Clone(props)
	for _, name := range columns {
		key := table.MetricsModeColumnConfPrefix + "." + name
		mode := props.Get(key, props.Get(table.DefaultWriteMetricsModeKey, table.DefaultWriteMetricsModeDefault))
		if mode = strings.ToLower(strings.TrimSpace(mode)); mode != "none" && mode != "counts" {
			out[key] = "counts"
		}
	}
	return out
}

// all arranges records. Of each batch that they yield the result is the owner.
func (a *arrangement) all(ctx context.Context, records iter.Seq2[arrow.RecordBatch, error]) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		for b, err := range records {
			if err != nil {
				yield(nil, err)
				return
			}
			if !a.batches(ctx, b, yield) {
				return
			}
		}
	}
}

// batches yields b's rows arranged, one batch a partition. It releases b; the caller releases what is yielded.
func (a *arrangement) batches(ctx context.Context, b arrow.RecordBatch, yield func(arrow.RecordBatch, error) bool) bool {
	parts, err := a.divide(ctx, b)
	b.Release()
	if err != nil {
		return yield(nil, err)
	}
	for i, p := range parts {
		if len(a.order) > 0 {
			sorted, err := compute.SortRecordBatch(ctx, p, a.order)
			p.Release()
			if err != nil {
				releaseAll(parts[i+1:])
				return yield(nil, fmt.Errorf("sorting rows: %w", err))
			}
			p = sorted
		}
		if !yield(withTextBuffers(p), nil) {
			releaseAll(parts[i+1:])
			return false
		}
	}
	return true
}

func releaseAll(batches []arrow.RecordBatch) {
	for _, b := range batches {
		b.Release()
	}
}

// divide returns b's rows by partition, each batch to be released.
func (a *arrangement) divide(ctx context.Context, b arrow.RecordBatch) ([]arrow.RecordBatch, error) {
	of, n, err := a.partitions(b)
	if err != nil {
		return nil, err
	}
	if n == 1 {
		b.Retain()
		return []arrow.RecordBatch{b}, nil
	}
	rows := make([][]int64, n)
	for row, part := range of {
		rows[part] = append(rows[part], int64(row))
	}
	var out []arrow.RecordBatch
	for _, r := range rows {
		idx := array.NewInt64Builder(compute.GetAllocator(ctx))
		idx.AppendValues(r, nil)
		at := idx.NewInt64Array()
		idx.Release()
		taken, err := compute.Take(ctx, *compute.DefaultTakeOptions(), compute.NewDatumWithoutOwning(b), compute.NewDatumWithoutOwning(at))
		at.Release()
		if err != nil {
			releaseAll(out)
			return nil, fmt.Errorf("dividing rows into partitions: %w", err)
		}
		out = append(out, taken.(*compute.RecordDatum).Value)
	}
	return out, nil
}

// partitions returns the partition of each row, numbered from 0 in the order of their first rows, and their number.
func (a *arrangement) partitions(b arrow.RecordBatch) (of []int32, n int, err error) {
	of, n = make([]int32, b.NumRows()), 1
	for _, f := range a.fields {
		type pair struct {
			before int32
			value  any
		}
		numbers := map[pair]int32{}
		value, err := f.values(b.Column(f.column))
		if err != nil {
			return nil, 0, err
		}
		for row := range of {
			p := pair{of[row], value(row)}
			number, ok := numbers[p]
			if !ok {
				number = int32(len(numbers))
				numbers[p] = number
			}
			of[row] = number
		}
		n = max(len(numbers), 1)
	}
	return of, n, nil
}

// values returns the partition value of each row of a column. Neighbours that are equal, and texts, are transformed once.
func (f partitionField) values(col arrow.Array) (func(row int) any, error) {
	apply := func(l iceberg.Literal) any {
		out := f.transform.Apply(iceberg.Optional[iceberg.Literal]{Valid: true, Val: l})
		if !out.Valid {
			return nil
		}
		if raw, ok := out.Val.Any().([]byte); ok {
			return string(raw)
		}
		return out.Val.Any()
	}
	switch c := col.(type) {
	case *array.String:
		return remembered(c.Value, func(s string) any { return apply(iceberg.StringLiteral(s)) }), nil
	case *array.Timestamp:
		return remembered(c.Value, func(at arrow.Timestamp) any { return apply(iceberg.TimestampLiteral(iceberg.Timestamp(at))) }), nil
	case *array.Int32:
		return remembered(c.Value, func(n int32) any { return apply(iceberg.Int32Literal(n)) }), nil
	case *array.Int64:
		return remembered(c.Value, func(n int64) any { return apply(iceberg.Int64Literal(n)) }), nil
	case *array.Boolean:
		return remembered(c.Value, func(v bool) any { return apply(iceberg.BoolLiteral(v)) }), nil
	case *array.FixedSizeBinary:
		text := func(row int) string { return string(c.Value(row)) }
		return remembered(text, func(s string) any { return apply(iceberg.FixedLiteral(s)) }), nil
	}
	return nil, fmt.Errorf("%w: a partition by a column of %s", arrow.ErrNotImplemented, col.DataType())
}

// remembered calls make once for each run of equal values.
func remembered[T comparable](value func(row int) T, make func(T) any) func(row int) any {
	var last T
	var out any
	first := true
	return func(row int) any {
		if v := value(row); first || v != last {
			first, last, out = false, v, make(v)
		}
		return out
	}
}

// noText is the buffer of texts that are all empty.
var noText = memory.NewBufferBytes([]byte{})

// withTextBuffers gives every text array that has no bytes a buffer, so that its empty texts are values and not missing ones for the
// Parquet writer's statistics. It releases b.
func withTextBuffers(b arrow.RecordBatch) arrow.RecordBatch {
	cols, changed := make([]arrow.Array, b.NumCols()), false
	for i, c := range b.Columns() {
		cols[i] = c
		if d, ok := withTextBuffer(c.Data()); ok {
			cols[i], changed = array.MakeFromData(d), true
			d.Release()
		} else {
			c.Retain()
		}
	}
	if changed {
		out := array.NewRecordBatch(b.Schema(), cols, b.NumRows())
		b.Release()
		b = out
	}
	for _, c := range cols {
		c.Release()
	}
	return b
}

// withTextBuffer is withTextBuffers for one array; false where there is nothing to change.
func withTextBuffer(d arrow.ArrayData) (arrow.ArrayData, bool) {
	buffers, changed := d.Buffers(), false
	switch d.DataType().ID() {
	case arrow.STRING, arrow.BINARY, arrow.LARGE_STRING, arrow.LARGE_BINARY:
		if text := buffers[2]; text == nil || text.Bytes() == nil {
			buffers, changed = []*memory.Buffer{buffers[0], buffers[1], noText}, true
		}
	}
	children := make([]arrow.ArrayData, len(d.Children()))
	for i, c := range d.Children() {
		with, ok := withTextBuffer(c)
		if ok {
			changed = true
		} else {
			with = c
			with.Retain()
		}
		children[i] = with
		defer with.Release()
	}
	if !changed {
		return nil, false
	}
	return array.NewData(d.DataType(), d.Len(), buffers, children, d.NullN(), d.Offset()), true
}
