package columns

import (
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/iceberg-go"
	"github.com/apache/iceberg-go/table"
)

// IcebergView makes the batches that an Iceberg table takes of a Builder's batches. Whatever has the same bytes in both is
// shared, not copied: only the timestamp columns (microseconds and remainders) and the dictionaries (plain text) are rewritten.
// It is immutable and safe for concurrent use.
type IcebergView struct {
	schema *arrow.Schema
	from   []source
}

// source says which column of the batch a field of the view comes from.
type source struct {
	column int
	nanos  bool // the field is the column's nanosecond remainder
	none   bool // from none: it is null in every row
}

// IcebergView returns the view for a table that has the given schema, which is the one of the loaded table: catalogs assign
// field ids themselves, so fields are found by name. Columns that the table has and this definition does not are null: they must be
// optional. (Left out, Iceberg would allow as well; iceberg-go's writer then fails.) A column that the table lacks is an error: the
// table needs a migration.
func (t *Table) IcebergView(sc *iceberg.Schema) (*IcebergView, error) {
	all, err := table.SchemaToArrowSchema(sc, nil, true, false)
	if err != nil {
		return nil, fmt.Errorf("columns: Iceberg schema of table %s: %w", t.Name, err)
	}
	want := map[string]source{}
	for i, c := range t.Columns {
		want[c.Name] = source{column: i}
		if c.Kind == Time {
			want[c.Name+NanosSuffix] = source{column: i, nanos: true}
		}
	}
	v := &IcebergView{}
	var fields []arrow.Field
	for _, f := range all.Fields() {
		src, ok := want[f.Name]
		switch {
		case !ok && !f.Nullable:
			return nil, fmt.Errorf("columns: Iceberg table %s: column %s is required, and this program does not know it", t.Name, f.Name)
		case !ok:
			fields, v.from = append(fields, f), append(v.from, source{none: true})
			continue
		}
		delete(want, f.Name)
		if have := t.viewType(src); !sameLayout(have, f.Type) {
			return nil, fmt.Errorf("columns: Iceberg table %s: column %s has type %s, want %s", t.Name, f.Name, f.Type, have)
		}
		fields, v.from = append(fields, f), append(v.from, src)
	}
	for name := range want {
		return nil, fmt.Errorf("columns: Iceberg table %s has no column %s: add it to the table first", t.Name, name)
	}
	v.schema = arrow.NewSchema(fields, nil)
	return v, nil
}

// viewType is the Arrow type that the view makes of a column, without field ids.
func (t *Table) viewType(s source) arrow.DataType {
	if s.nanos {
		return arrow.PrimitiveTypes.Int32
	}
	dt, err := table.TypeToArrowType(t.Columns[s.column].Kind.Iceberg(), false, false)
	if err != nil {
		panic(fmt.Sprintf("columns: kind of %s: %v", t.Columns[s.column].Name, err)) // the definition is at fault
	}
	return dt
}

// sameLayout tells whether two types differ in names, nullability and metadata at most.
func sameLayout(a, b arrow.DataType) bool {
	an, aok := a.(arrow.NestedType)
	bn, bok := b.(arrow.NestedType)
	if aok != bok || a.ID() != b.ID() {
		return false
	}
	if !aok {
		return arrow.TypeEqual(a, b)
	}
	if an.NumFields() != bn.NumFields() {
		return false
	}
	for i, f := range an.Fields() {
		if !sameLayout(f.Type, bn.Fields()[i].Type) {
			return false
		}
	}
	return true
}

// ArrowSchema is the schema of the view's batches. Its fields carry PARQUET:field_id, so table.WriteRecords takes the batches
// as they are.
func (v *IcebergView) ArrowSchema() *arrow.Schema { return v.schema }

// Convert returns the view of a Builder's batch, or of a slice of one. The caller releases it, and still owns rec. It fails with
// ErrTooLarge when text that the batch holds once would, repeated in every row, exceed 1 GiB: convert Slices of rec instead.
func (v *IcebergView) Convert(mem memory.Allocator, rec arrow.RecordBatch) (arrow.RecordBatch, error) {
	arrs := make([]arrow.Array, 0, len(v.from))
	defer func() {
		for _, a := range arrs {
			a.Release()
		}
	}()
	for i, src := range v.from {
		if src.none {
			arrs = append(arrs, array.MakeArrayOfNull(mem, v.schema.Field(i).Type, int(rec.NumRows())))
			continue
		}
		data, err := convert(mem, rec.Column(src.column).Data(), v.schema.Field(i).Type, src.nanos)
		if err != nil {
			return nil, fmt.Errorf("columns: Iceberg view of column %s, %d rows: %w", v.schema.Field(i).Name, rec.NumRows(), err)
		}
		arrs = append(arrs, array.MakeFromData(data))
		data.Release()
	}
	return array.NewRecordBatch(v.schema, arrs, rec.NumRows()), nil
}

// convert returns d as type to; the caller releases it.
func convert(mem memory.Allocator, d arrow.ArrayData, to arrow.DataType, nanos bool) (arrow.ArrayData, error) {
	switch d.DataType().(type) {
	case *arrow.TimestampType:
		if to.ID() != arrow.INT64 {
			return convertTime(mem, d, to, nanos), nil
		}
	case *arrow.DictionaryType:
		return expand(mem, d)
	case *arrow.MapType:
		toPairs := to.(*arrow.MapType).Elem().(*arrow.StructType)
		pairs := d.Children()[0]
		keys, err := convert(mem, pairs.Children()[0], toPairs.Field(0).Type, false)
		if err != nil {
			return nil, err
		}
		vals, err := convert(mem, pairs.Children()[1], toPairs.Field(1).Type, false)
		if err != nil {
			keys.Release()
			return nil, err
		}
		pairsOut := array.NewData(toPairs, pairs.Len(), pairs.Buffers(), []arrow.ArrayData{keys, vals}, 0, pairs.Offset())
		keys.Release()
		vals.Release()
		out := array.NewData(to, d.Len(), d.Buffers(), []arrow.ArrayData{pairsOut}, 0, d.Offset())
		pairsOut.Release()
		return out, nil
	case *arrow.ListType:
		elem, err := convert(mem, d.Children()[0], to.(*arrow.ListType).Elem(), false)
		if err != nil {
			return nil, err
		}
		out := array.NewData(to, d.Len(), d.Buffers(), []arrow.ArrayData{elem}, 0, d.Offset())
		elem.Release()
		return out, nil
	}
	// The same bytes under another type: unsigned as signed, nanoseconds as integers, or nothing to change at all.
	return array.NewData(to, d.Len(), d.Buffers(), nil, 0, d.Offset()), nil
}

func convertTime(mem memory.Allocator, d arrow.ArrayData, to arrow.DataType, nanos bool) arrow.ArrayData {
	from := arrow.GetData[int64](d.Buffers()[1].Bytes())[d.Offset() : d.Offset()+d.Len()]
	a := newArena(mem)
	if nanos {
		out := vec[int32]{a: a}
		out.reserve(len(from))
		for _, ns := range from {
			_, rem := floorMicros(ns)
			out.data = append(out.data, rem)
		}
		return newData(to, len(from), []*memory.Buffer{out.finish()})
	}
	out := vec[int64]{a: a}
	out.reserve(len(from))
	for _, ns := range from {
		us, _ := floorMicros(ns)
		out.data = append(out.data, us)
	}
	return newData(to, len(from), []*memory.Buffer{out.finish()})
}

// floorMicros splits nanoseconds into whole microseconds and a remainder of 0 to 999, for times before 1970 too.
func floorMicros(ns int64) (us int64, rem int32) {
	us, r := ns/1000, ns%1000
	if r < 0 {
		us, r = us-1, r+1000
	}
	return us, int32(r)
}

// expand turns a dictionary column into plain text.
func expand(mem memory.Allocator, d arrow.ArrayData) (arrow.ArrayData, error) {
	dict := d.Dictionary()
	ends := int32s(dict, 1)
	var text []byte
	if buf := dict.Buffers()[2]; buf != nil {
		text = buf.Bytes()
	}
	idx := int32s(d, 0)
	size := 0
	for _, i := range idx {
		size += int(ends[i+1] - ends[i])
	}
	if size > vecBytesMax {
		return nil, ErrTooLarge
	}
	a := newArena(mem)
	out := newText(a)
	out.text.reserve(size)
	out.ends.reserve(len(idx) + 1)
	out.ends.data = append(out.ends.data, 0)
	for _, i := range idx {
		out.text.data = append(out.text.data, text[ends[i]:ends[i+1]]...)
		out.ends.data = append(out.ends.data, int32(len(out.text.data)))
	}
	return out.finish(), nil
}
