package stored

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/zeebo/xxh3"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/value"
)

// Row is a row as it is compared.
type Row struct {
	Partition int32
	Index     int32
	Offset    int64
	ID        [16]byte
	Hash      uint64 // of all columns; 0 where the content was not asked for
	Received  int64  // ingest_time, Unix nanoseconds
}

// Place tells where an event lies in its topic.
type Place struct {
	Partition int32
	Offset    int64
	Index     int32
}

// Place of the row's event.
func (r Row) Place() Place { return Place{r.Partition, r.Offset, r.Index} }

// Compare orders places as Kafka does.
func (p Place) Compare(o Place) int {
	switch {
	case p.Partition != o.Partition:
		return sign(int64(p.Partition), int64(o.Partition))
	case p.Offset != o.Offset:
		return sign(p.Offset, o.Offset)
	}
	return sign(int64(p.Index), int64(o.Index))
}

func sign(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// placeSum binds an id to its place in a sum that ClickHouse can make as well (see Sums). The ids of a record's events are consecutive numbers, so nothing
// less than a hash of id and place tells which events there are: a sum of the ids alone is the same for 0 and 2 as for 1 twice.
func placeSum(id [16]byte, offset int64, index int32) uint64 {
	var b [16 + 8 + 4]byte
	copy(b[:], id[:])
	binary.LittleEndian.PutUint64(b[16:], uint64(offset))
	binary.LittleEndian.PutUint32(b[24:], uint32(index))
	return xxh3.Hash(b[:])
}

// appender writes one value in the form that is the same whichever store the value comes from: integers and times as eight bytes, text and
// bytes after their length, lists and maps after their count.
type appender func(b []byte, i int) []byte

// Reader reads the rows of a batch.
type Reader struct {
	columns    []columns.Column
	appenders  []appender
	partitions arrow.Array
	offsets    arrow.Array
	indexes    arrow.Array
	ids        arrow.Array
	received   arrow.Array
	nanos      arrow.Array // of received, in the lake
	scratch    []byte
}

// placeColumns are what a row is told by, and all that a quick audit reads.
var placeColumns = []string{"event_id", "kafka_partition", "kafka_offset", "event_index", receivedColumn}

// receivedColumn is the column of the time when the gateway had read the event's request.
const receivedColumn = "ingest_time"

// NewReader binds a batch of t, which may come from a Builder, ClickHouse or Iceberg. Without content only place and id are read.
func NewReader(t *columns.Table, rec arrow.RecordBatch, content bool) (*Reader, error) {
	byName := map[string]arrow.Array{}
	for i, f := range rec.Schema().Fields() {
		byName[f.Name] = rec.Column(i)
	}
	r := &Reader{
		ids: byName["event_id"], partitions: byName["kafka_partition"], offsets: byName["kafka_offset"], indexes: byName["event_index"],
		received: byName[receivedColumn], nanos: byName[receivedColumn+columns.NanosSuffix],
	}
	for _, name := range placeColumns {
		if byName[name] == nil {
			return nil, fmt.Errorf("table %s has no column %s", t.Name, name)
		}
	}
	if rec.NumRows() > 0 {
		_, ok1 := value.Int(r.partitions, 0)
		_, ok2 := value.Int(r.offsets, 0)
		_, ok3 := value.Int(r.indexes, 0)
		id, ok4 := value.Bytes(r.ids, 0)
		_, ok5 := value.Time(r.received, 0)
		if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 || len(id) != 16 {
			return nil, fmt.Errorf("table %s: the columns %v have types %s, %s, %s, %s, %s, which cannot be read", t.Name, placeColumns, r.ids.DataType(), r.partitions.DataType(), r.offsets.DataType(), r.indexes.DataType(), r.received.DataType())
		}
	}
	if !content {
		return r, nil
	}
	r.columns = t.Columns
	for _, c := range t.Columns {
		a := byName[c.Name]
		if a == nil {
			return nil, fmt.Errorf("table %s has no column %s", t.Name, c.Name)
		}
		f, err := newAppender(c.Kind, a, byName[c.Name+columns.NanosSuffix])
		if c.Name == resourceColumn {
			f, err = newResourceAppender(a)
		}
		if err != nil {
			return nil, fmt.Errorf("table %s, column %s: %w", t.Name, c.Name, err)
		}
		r.appenders = append(r.appenders, f)
	}
	return r, nil
}

// Row reads row i.
func (r *Reader) Row(i int) Row {
	partition, _ := value.Int(r.partitions, i) // types were checked when the batch was bound
	offset, _ := value.Int(r.offsets, i)
	index, _ := value.Int(r.indexes, i)
	id, _ := value.Bytes(r.ids, i)
	received, _ := value.Time(r.received, i)
	if r.nanos != nil {
		rest, _ := value.Int(r.nanos, i)
		received += rest
	}
	out := Row{Partition: int32(partition), Offset: offset, Index: int32(index), Received: received}
	copy(out.ID[:], id)
	if r.appenders != nil {
		b := r.scratch[:0]
		for _, f := range r.appenders {
			b = f(b, i)
		}
		r.scratch = b
		out.Hash = xxh3.Hash(b)
	}
	return out
}

// Cells are row i's columns, each in its canonical form.
func (r *Reader) Cells(i int) [][]byte {
	out := make([][]byte, len(r.appenders))
	for c, f := range r.appenders {
		out[c] = f(nil, i)
	}
	return out
}

// newAppender reads values of a kind. A null (of a column that a table was given later) is the kind's zero value.
func newAppender(k columns.Kind, a, nanos arrow.Array) (appender, error) {
	switch {
	case k.IsMap():
		m, ok := a.(*array.Map)
		if !ok {
			return nil, typeError(k, a)
		}
		keys, err := newAppender(columns.Text, m.Keys(), nil)
		if err != nil {
			return nil, err
		}
		values, err := newAppender(k.Elem(), m.Items(), nil)
		if err != nil {
			return nil, err
		}
		return pairs(m, keys, values), nil
	case k.IsList():
		l, ok := a.(array.ListLike)
		if !ok {
			return nil, typeError(k, a)
		}
		elem, err := newAppender(k.Elem(), l.ListValues(), nil)
		if err != nil {
			return nil, err
		}
		return entries(l, elem), nil
	}
	f, zero, ok := scalar(k, a, nanos)
	if !ok {
		return nil, typeError(k, a)
	}
	if a.NullN() == 0 {
		return f, nil
	}
	return func(b []byte, i int) []byte {
		if a.IsNull(i) {
			return append(b, zero...)
		}
		return f(b, i)
	}, nil
}

func typeError(k columns.Kind, a arrow.Array) error {
	return fmt.Errorf("is %s in the store, which cannot be compared with %s", a.DataType(), k.ClickHouse())
}

// entries writes the elements of a list, or of a map.
func entries(l array.ListLike, elem appender) appender {
	return func(b []byte, i int) []byte {
		if l.IsNull(i) {
			return binary.LittleEndian.AppendUint32(b, 0)
		}
		from, to := l.ValueOffsets(i)
		b = binary.LittleEndian.AppendUint32(b, uint32(to-from))
		for e := from; e < to; e++ {
			b = elem(b, int(e))
		}
		return b
	}
}

// scalar also returns the form of the kind's zero value. It is false where the array's type is none of the kind's.
func scalar(k columns.Kind, a, nanos arrow.Array) (f appender, zero []byte, ok bool) {
	number := make([]byte, 8)
	probe := func(works bool) bool { return works || a.Len() == 0 }
	switch k {
	case columns.Text, columns.Dict, columns.DictJSON:
		_, ok = value.Text(probed(a), 0)
		return func(b []byte, i int) []byte {
			s, _ := value.Text(a, i)
			return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
		}, make([]byte, 4), probe(ok)
	case columns.Fixed8, columns.Fixed16:
		_, ok = value.Bytes(probed(a), 0)
		width := 8
		if k == columns.Fixed16 {
			width = 16
		}
		return func(b []byte, i int) []byte {
			s, _ := value.Bytes(a, i)
			return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
		}, append(binary.LittleEndian.AppendUint32(nil, uint32(width)), make([]byte, width)...), probe(ok)
	case columns.Double:
		_, ok = value.Double(probed(a), 0)
		return func(b []byte, i int) []byte {
			v, _ := value.Double(a, i)
			bits := math.Float64bits(v)
			if math.IsNaN(v) { // its bits mean nothing
				bits = math.Float64bits(math.NaN())
			}
			return binary.LittleEndian.AppendUint64(b, bits)
		}, number, probe(ok)
	case columns.Bool:
		_, ok = value.Bool(probed(a), 0)
		return func(b []byte, i int) []byte {
			if v, _ := value.Bool(a, i); v {
				return append(b, 1)
			}
			return append(b, 0)
		}, []byte{0}, probe(ok)
	case columns.Time:
		_, ok = value.Time(probed(a), 0)
		return func(b []byte, i int) []byte {
			ns, _ := value.Time(a, i)
			if nanos != nil {
				rest, _ := value.Int(nanos, i)
				ns += rest
			}
			return binary.LittleEndian.AppendUint64(b, uint64(ns))
		}, number, probe(ok)
	case columns.Uint32: // Iceberg holds it as two's complement
		_, ok = value.Int(probed(a), 0)
		return func(b []byte, i int) []byte {
			v, _ := value.Int(a, i)
			return binary.LittleEndian.AppendUint64(b, uint64(uint32(v)))
		}, number, probe(ok)
	}
	_, ok = value.Int(probed(a), 0)
	return func(b []byte, i int) []byte {
		v, _ := value.Int(a, i)
		return binary.LittleEndian.AppendUint64(b, uint64(v))
	}, number, probe(ok)
}

// probed is an array whose value 0 may be read to see whether its type is known; nil, which no function reads, where it is empty.
func probed(a arrow.Array) arrow.Array {
	if a.Len() == 0 {
		return nil
	}
	return a
}
