package columns

import (
	"iter"

	"github.com/apache/arrow-go/v18/arrow"
)

// Slices halves a Builder's batch until its slices have at most rowsMax rows and about bytesMax bytes, counted with every text of a dictionary
// written out in each row that has it: a resource of 450 KB that 9,000 events share is 4 GB. The cut depends on the rows alone. A row that
// is larger than bytesMax is a slice of its own. The caller releases the slices, and still owns rec.
func Slices(rec arrow.RecordBatch, rowsMax, bytesMax int64) iter.Seq[arrow.RecordBatch] {
	return func(yield func(arrow.RecordBatch) bool) {
		if rec.NumRows() > 0 {
			halve(rec, 0, rec.NumRows(), rowsMax, bytesMax, yield)
		}
	}
}

// halve yields slices of rec's rows [from, to). It returns false when no more are wanted.
func halve(rec arrow.RecordBatch, from, to, rowsMax, bytesMax int64, yield func(arrow.RecordBatch) bool) bool {
	if to-from == 1 || to-from <= rowsMax && expandedBytes(rec, from, to) <= bytesMax {
		return yield(rec.NewSlice(from, to))
	}
	mid := from + (to-from)/2
	return halve(rec, from, mid, rowsMax, bytesMax, yield) && halve(rec, mid, to, rowsMax, bytesMax, yield)
}

func expandedBytes(rec arrow.RecordBatch, from, to int64) (n int64) {
	for _, c := range rec.Columns() {
		n += expanded(c.Data(), int(from), int(to))
	}
	return n
}

// expanded is the bytes of d's values [from, to), with the texts of dictionaries written out.
func expanded(d arrow.ArrayData, from, to int) (n int64) {
	switch t := d.DataType().(type) {
	case *arrow.DictionaryType:
		ends := int32s(d.Dictionary(), 1)
		for _, i := range int32s(d, 0)[from:to] {
			n += int64(ends[i+1] - ends[i])
		}
	case *arrow.StringType, *arrow.BinaryType:
		ends := int32s(d, 1)
		n = int64(ends[to] - ends[from])
	case *arrow.MapType:
		ends, pairs := int32s(d, 1), d.Children()[0]
		for _, c := range pairs.Children() {
			n += expanded(c, pairs.Offset()+int(ends[from]), pairs.Offset()+int(ends[to]))
		}
	case *arrow.ListType:
		ends := int32s(d, 1)
		n = expanded(d.Children()[0], int(ends[from]), int(ends[to]))
	case arrow.FixedWidthDataType:
		n = int64(to-from) * int64(t.BitWidth()+7) / 8
	}
	return n
}

// int32s are the indices of a dictionary column, or the ends of variable-length values (of which there is one more than values).
func int32s(d arrow.ArrayData, more int) []int32 {
	return arrow.GetData[int32](d.Buffers()[1].Bytes())[d.Offset() : d.Offset()+d.Len()+more]
}
