// Package value reads single values of Arrow arrays that hold rows of internal/columns, wherever they come from: a Builder,
// ClickHouse (ArrowStream), Iceberg by iceberg-go or by pyiceberg. They choose different Arrow types for one logical type; a function
// here takes all that one of them uses, and returns false for any other. Nulls are not looked at.
package value

import (
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// Text reads text, plain or by a dictionary. It may share memory with the array: clone what outlives it.
func Text(a arrow.Array, i int) (string, bool) {
	switch a := a.(type) {
	case *array.String:
		return a.Value(i), true
	case *array.LargeString:
		return a.Value(i), true
	case *array.Binary:
		return string(a.Value(i)), true
	case *array.LargeBinary:
		return string(a.Value(i)), true
	case *array.Dictionary:
		return Text(a.Dictionary(), a.GetValueIndex(i))
	}
	return "", false
}

// Int reads an integer. An unsigned 64-bit one beyond 2^63 comes as two's complement.
func Int(a arrow.Array, i int) (int64, bool) {
	switch a := a.(type) {
	case *array.Int8:
		return int64(a.Value(i)), true
	case *array.Int16:
		return int64(a.Value(i)), true
	case *array.Int32:
		return int64(a.Value(i)), true
	case *array.Int64:
		return a.Value(i), true
	case *array.Uint8:
		return int64(a.Value(i)), true
	case *array.Uint16:
		return int64(a.Value(i)), true
	case *array.Uint32:
		return int64(a.Value(i)), true
	case *array.Uint64:
		return int64(a.Value(i)), true
	}
	return 0, false
}

// Double reads a 64-bit floating point number.
func Double(a arrow.Array, i int) (float64, bool) {
	if a, ok := a.(*array.Float64); ok {
		return a.Value(i), true
	}
	return 0, false
}

// Bool reads a boolean, also one that is stored as a number.
func Bool(a arrow.Array, i int) (bool, bool) {
	if a, ok := a.(*array.Boolean); ok {
		return a.Value(i), true
	}
	n, ok := Int(a, i)
	return n != 0, ok
}

// Bytes reads raw bytes of any or of a fixed length. They are the array's own.
func Bytes(a arrow.Array, i int) ([]byte, bool) {
	switch a := a.(type) {
	case *array.FixedSizeBinary:
		return a.Value(i), true
	case *array.Binary:
		return a.Value(i), true
	case *array.String:
		return []byte(a.Value(i)), true
	}
	return nil, false
}

// Time reads a point in time as Unix nanoseconds.
func Time(a arrow.Array, i int) (int64, bool) {
	t, ok := a.(*array.Timestamp)
	if !ok {
		return Int(a, i)
	}
	return int64(t.Value(i)) * int64(t.DataType().(*arrow.TimestampType).Unit.Multiplier()), true
}
