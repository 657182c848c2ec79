package columns

import (
	"iter"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// Slices divides a Builder's batch into slices of at most rowsMax rows and about bytesMax bytes, counted with every text of a dictionary
// written out in each row that has it: a resource of 450 KB that 9,000 events share is 4 GB. The cut depends on the rows alone. A row that
// is larger than bytesMax is a slice of its own. The caller releases the slices, and still owns rec.
func Slices(rec arrow.RecordBatch, rowsMax, bytesMax int64) iter.Seq[arrow.RecordBatch] {
	return func(yield func(arrow.RecordBatch) bool) {
		size := make([]int64, rec.NumRows())
		for _, c := range rec.Columns() {
			addExpanded(size, c.Data())
		}
		var from, bytes int64
		for row, n := range size {
			at := int64(row)
			if at > from && (at-from == rowsMax || bytes+n > bytesMax) {
				if !yield(rec.NewSlice(from, at)) {
					return
				}
				from, bytes = at, 0
			}
			bytes += n
		}
		if from < rec.NumRows() {
			yield(rec.NewSlice(from, rec.NumRows()))
		}
	}
}

// addExpanded adds to size[i] the bytes of d's value number i, with the texts of dictionaries written out.
func addExpanded(size []int64, d arrow.ArrayData) {
	switch t := d.DataType().(type) {
	case *arrow.DictionaryType:
		ends := int32s(d.Dictionary(), 1)
		for i, at := range int32s(d, 0)[:len(size)] {
			size[i] += int64(ends[at+1] - ends[at])
		}
	case *arrow.StringType, *arrow.BinaryType:
		ends := int32s(d, 1)
		for i := range size {
			size[i] += int64(ends[i+1] - ends[i])
		}
	case *arrow.MapType:
		pairs := d.Children()[0]
		for _, c := range pairs.Children() {
			addElements(size, d, c, pairs.Offset())
		}
	case *arrow.ListType:
		addElements(size, d, d.Children()[0], 0)
	case arrow.FixedWidthDataType:
		n := int64(t.BitWidth()+7) / 8
		for i := range size {
			size[i] += n
		}
	}
}

// addElements adds the elements of d's lists, which lie in elems from position skip on.
func addElements(size []int64, d, elems arrow.ArrayData, skip int) {
	ends := int32s(d, 1)
	first, last := ends[0], ends[len(size)]
	if first == last {
		return
	}
	part := array.NewSliceData(elems, int64(skip)+int64(first), int64(skip)+int64(last))
	defer part.Release()
	each := make([]int64, last-first)
	addExpanded(each, part)
	for i := range size {
		for _, n := range each[ends[i]-first : ends[i+1]-first] {
			size[i] += n
		}
	}
}

// int32s are the indices of a dictionary column, or the ends of variable-length values (of which there is one more than values).
func int32s(d arrow.ArrayData, more int) []int32 {
	return arrow.GetData[int32](d.Buffers()[1].Bytes())[d.Offset() : d.Offset()+d.Len()+more]
}
