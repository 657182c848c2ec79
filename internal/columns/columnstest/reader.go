package columnstest

import (
	"fmt"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/value"
)

// reader reads one row of a batch by column name. A missing column or an unexpected type is kept as an error: rows of such a
// batch cannot be compared.
type reader struct {
	rec  arrow.RecordBatch
	cols map[string]arrow.Array
	row  int
	errs map[string]error
}

func newReader(rec arrow.RecordBatch) *reader {
	r := &reader{rec: rec, cols: map[string]arrow.Array{}, errs: map[string]error{}}
	for i, f := range rec.Schema().Fields() {
		r.cols[f.Name] = rec.Column(i)
	}
	return r
}

func (r *reader) fail(name string, a arrow.Array) {
	if a == nil {
		r.errs[name] = fmt.Errorf("column %s is missing", name)
		return
	}
	r.errs[name] = fmt.Errorf("column %s has unexpected type %s", name, a.DataType())
}

func (r *reader) text(name string) string {
	a := r.cols[name]
	s, ok := value.Text(a, r.row)
	if !ok {
		r.fail(name, a)
	}
	return s
}

func (r *reader) int(name string) int64 {
	a := r.cols[name]
	n, ok := value.Int(a, r.row)
	if !ok {
		r.fail(name, a)
	}
	return n
}

// uint32 undoes the two's complement that stores without unsigned numbers hold.
func (r *reader) uint32(name string) uint32 { return uint32(r.int(name)) }

func (r *reader) uint64(name string) uint64 { return uint64(r.int(name)) }

func (r *reader) double(name string) float64 {
	a, ok := r.cols[name].(*array.Float64)
	if !ok {
		r.fail(name, r.cols[name])
		return 0
	}
	return a.Value(r.row)
}

func (r *reader) bool(name string) bool {
	b, ok := value.Bool(r.cols[name], r.row)
	if !ok {
		r.fail(name, r.cols[name])
	}
	return b
}

func (r *reader) bytes(name string) []byte {
	b, ok := value.Bytes(r.cols[name], r.row)
	if !ok {
		r.fail(name, r.cols[name])
	}
	return b
}

// time returns Unix nanoseconds.
func (r *reader) time(name string) int64 {
	ns, ok := value.Time(r.cols[name], r.row)
	if !ok {
		r.fail(name, r.cols[name])
	}
	if rest := r.cols[name+columns.NanosSuffix]; rest != nil {
		n, _ := value.Int(rest, r.row)
		ns += n
	}
	return ns
}

// list returns the elements' array and the range of the row's elements.
func (r *reader) list(name string) (elems arrow.Array, from, to int) {
	l, ok := r.cols[name].(array.ListLike)
	if !ok {
		r.fail(name, r.cols[name])
		return nil, 0, 0
	}
	f, t := l.ValueOffsets(r.row)
	return l.ListValues(), int(f), int(t)
}

// listOf reads the row's list with at.
func listOf[T any](r *reader, name string, at func(arrow.Array, int) (T, bool)) []T {
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
func (r *reader) eachEntry(name string, f func(key string, vals arrow.Array, i int) bool) {
	m, ok := r.cols[name].(*array.Map)
	if !ok {
		r.fail(name, r.cols[name])
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
