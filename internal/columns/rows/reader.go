package rows

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/value"
)

// Reader reads one row of a batch after the other by column name. A missing column, an unexpected type or a text that no program of ours writes is kept as an
// error. A null, of a column that a table was given later, is the zero value. One goroutine uses it.
type Reader struct {
	table    *columns.Table
	rec      arrow.RecordBatch
	cols     map[string]arrow.Array
	row      int
	errs     map[string]error
	promoted []columns.Column
	sent     bool // leave out what the aggregator has added

	resourceText string // the last one that was read: rows are sorted, so most have that of the row before
	resourceRead pcommon.Map
}

// NewReader binds a batch of t's rows, which must not be released before the last one is read.
func NewReader(t *columns.Table, rec arrow.RecordBatch) *Reader {
	r := &Reader{table: t, rec: rec, cols: map[string]arrow.Array{}, errs: map[string]error{}, resourceRead: pcommon.NewMap()}
	for _, c := range t.Columns {
		if c.Promote != "" {
			r.promoted = append(r.promoted, c)
		}
	}
	for i, f := range rec.Schema().Fields() {
		r.cols[f.Name] = rec.Column(i)
	}
	return r
}

func (r *Reader) fail(name string, a arrow.Array) {
	if a == nil {
		r.errs[name] = fmt.Errorf("column %s is missing", name)
		return
	}
	r.errs[name] = fmt.Errorf("column %s has unexpected type %s", name, a.DataType())
}

// Seek makes row i the row at hand.
func (r *Reader) Seek(i int) {
	r.row = i
	clear(r.errs)
}

// Err is what could not be read of the row at hand so far.
func (r *Reader) Err() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(r.errs)) {
		errs = append(errs, r.errs[name])
	}
	return errors.Join(errs...)
}

// null tells whether the row has no value there.
func (r *Reader) null(a arrow.Array) bool { return a != nil && a.NullN() > 0 && a.IsNull(r.row) }

// Text is the row's value of a column of text.
func (r *Reader) Text(name string) string {
	a := r.cols[name]
	if r.null(a) {
		return ""
	}
	s, ok := value.Text(a, r.row)
	if !ok {
		r.fail(name, a)
	}
	return s
}

// Int is the row's value of a column of integers.
func (r *Reader) Int(name string) int64 {
	a := r.cols[name]
	if r.null(a) {
		return 0
	}
	n, ok := value.Int(a, r.row)
	if !ok {
		r.fail(name, a)
	}
	return n
}

// uint32 undoes the two's complement that stores without unsigned numbers hold.
func (r *Reader) uint32(name string) uint32 { return uint32(r.Int(name)) }

func (r *Reader) uint64(name string) uint64 { return uint64(r.Int(name)) }

func (r *Reader) double(name string) float64 {
	a, ok := r.cols[name].(*array.Float64)
	if !ok {
		r.fail(name, r.cols[name])
		return 0
	}
	if r.null(a) {
		return 0
	}
	return a.Value(r.row)
}

func (r *Reader) bool(name string) bool {
	if r.null(r.cols[name]) {
		return false
	}
	b, ok := value.Bool(r.cols[name], r.row)
	if !ok {
		r.fail(name, r.cols[name])
	}
	return b
}

// Bytes are the row's value of a column of bytes. They are the batch's own.
func (r *Reader) Bytes(name string) []byte {
	if r.null(r.cols[name]) {
		return nil
	}
	b, ok := value.Bytes(r.cols[name], r.row)
	if !ok {
		r.fail(name, r.cols[name])
	}
	return b
}

// Time is the row's value of a column of times, in Unix nanoseconds.
func (r *Reader) Time(name string) int64 {
	if r.null(r.cols[name]) {
		return 0
	}
	ns, ok := value.Time(r.cols[name], r.row)
	if !ok {
		r.fail(name, r.cols[name])
	}
	if rest := r.cols[name+columns.NanosSuffix]; rest != nil && !r.null(rest) {
		n, _ := value.Int(rest, r.row)
		ns += n
	}
	return ns
}

// list returns the elements' array and the range of the row's elements.
func (r *Reader) list(name string) (elems arrow.Array, from, to int) {
	l, ok := r.cols[name].(array.ListLike)
	if !ok {
		r.fail(name, r.cols[name])
		return nil, 0, 0
	}
	if r.null(l) {
		return l.ListValues(), 0, 0
	}
	f, t := l.ValueOffsets(r.row)
	return l.ListValues(), int(f), int(t)
}

// listOf reads the row's list with at.
func listOf[T any](r *Reader, name string, at func(arrow.Array, int) (T, bool)) []T {
	elems, from, to := r.list(name)
	var out []T
	for i := from; i < to; i++ {
		x, ok := at(elems, i)
		if !ok {
			r.fail(name, elems)
			return nil
		}
		out = append(out, x)
	}
	return out
}

// eachEntry calls f with the keys of the row's map and the place of each one's value.
func (r *Reader) eachEntry(name string, f func(key string, vals arrow.Array, i int) bool) {
	m, ok := r.cols[name].(*array.Map)
	if !ok {
		r.fail(name, r.cols[name])
		return
	}
	if r.null(m) {
		return
	}
	from, to := m.ValueOffsets(r.row)
	for i := int(from); i < int(to); i++ {
		key, ok := value.Text(m.Keys(), i)
		if !ok || !f(key, m.Items(), i) {
			r.fail(name, m)
			return
		}
	}
}
