package columns

import (
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
)

// The columns under construction. Arrow's own builders keep a validity bitmap and check it at every append; no column of this
// model is nullable, and these appends are a bounds check and a store. Every vec owns its buffer until finish hands it over.

// arena is what a Builder's columns share: where memory comes from, and whether any of them grew beyond what Arrow can address.
type arena struct {
	mem      memory.Allocator
	limit    int // bytes of one buffer: vecBytesMax, or less in tests
	overflow bool
}

func newArena(mem memory.Allocator) *arena { return &arena{mem: mem, limit: vecBytesMax} }

// vecBytesMax bounds one buffer. Arrow addresses text by 32-bit signed offsets.
const vecBytesMax = 1 << 30

// vec is a growing Arrow buffer.
type vec[T arrow.FixedWidthType] struct {
	a    *arena
	buf  *memory.Buffer
	data []T // its array is buf's memory
	last int // length when it was last finished: the next batch starts with that capacity
}

const vecCapMin = 64

func (v *vec[T]) reserve(n int) {
	if len(v.data)+n > cap(v.data) {
		v.grow(n)
	}
}

func (v *vec[T]) grow(n int) {
	var zero [1]T
	size := len(arrow.GetBytes(zero[:]))
	if (len(v.data)+n)*size > v.a.limit { // what is built from here on is discarded by the Builder
		v.a.overflow, v.data = true, v.data[:0]
		if n <= cap(v.data) {
			return
		}
	}
	want := max(len(v.data)+n, min(2*cap(v.data), v.a.limit/size), vecCapMin, v.last)
	if v.buf == nil {
		v.buf = memory.NewResizableBuffer(v.a.mem)
	}
	v.buf.Resize(want * size)
	v.data = arrow.GetData[T](v.buf.Bytes())[:len(v.data)]
}

func (v *vec[T]) push(x T) {
	if len(v.data) == cap(v.data) {
		v.grow(1)
	}
	v.data = append(v.data, x)
}

func (v *vec[T]) pushAll(xs []T) {
	v.reserve(len(xs))
	v.data = append(v.data, xs...)
}

func (v *vec[T]) pushN(x T, n int) {
	v.reserve(n)
	for range n {
		v.data = append(v.data, x)
	}
}

// pushText appends a string's bytes.
func pushText(v *vec[byte], s string) {
	v.reserve(len(s))
	v.data = append(v.data, s...)
}

// finish hands the buffer over to the caller, who releases it. v is empty afterwards.
func (v *vec[T]) finish() *memory.Buffer {
	if v.buf == nil {
		v.grow(1)
	}
	var zero [1]T
	v.buf.ResizeNoShrink(len(v.data) * len(arrow.GetBytes(zero[:])))
	buf := v.buf
	v.last, v.buf, v.data = len(v.data), nil, nil
	return buf
}

func (v *vec[T]) release() {
	if v.buf != nil {
		v.buf.Release()
		v.buf, v.data = nil, nil
	}
}

// column is a column under construction. finish returns its data, which the caller releases, and empties it.
type column interface {
	len() int
	padTo(n int) // appends zero values until there are n
	finish() arrow.ArrayData
	release()
}

// newData is array.NewData for buffers and children that are handed over rather than shared.
func newData(dt arrow.DataType, n int, bufs []*memory.Buffer, children ...arrow.ArrayData) *array.Data {
	d := array.NewData(dt, n, append([]*memory.Buffer{nil}, bufs...), children, 0, 0)
	for _, b := range bufs {
		b.Release()
	}
	for _, c := range children {
		c.Release()
	}
	return d
}

// numCol is a column of numbers or of timestamps.
type numCol[T arrow.FixedWidthType] struct {
	vec[T]
	dt arrow.DataType
}

func (c *numCol[T]) len() int { return len(c.data) }
func (c *numCol[T]) padTo(n int) {
	if n > len(c.data) {
		var zero T
		c.pushN(zero, n-len(c.data))
	}
}

// set appends x as row number row; rows before it that have no value get zero.
func (c *numCol[T]) set(row int, x T) { c.padTo(row); c.push(x) }

func (c *numCol[T]) finish() arrow.ArrayData {
	n := len(c.data)
	return newData(c.dt, n, []*memory.Buffer{c.vec.finish()})
}

// boolCol is a column of bits.
type boolCol struct {
	bits vec[byte]
	n    int
}

func (c *boolCol) push(x bool) {
	if c.n&7 == 0 {
		c.bits.push(0)
	}
	if x {
		c.bits.data[c.n>>3] |= 1 << (c.n & 7)
	}
	c.n++
}
func (c *boolCol) set(row int, x bool) { c.padTo(row); c.push(x) }
func (c *boolCol) len() int            { return c.n }
func (c *boolCol) padTo(n int) {
	for c.n < n {
		c.push(false)
	}
}
func (c *boolCol) finish() arrow.ArrayData {
	n := c.n
	c.n = 0
	return newData(arrow.FixedWidthTypes.Boolean, n, []*memory.Buffer{c.bits.finish()})
}
func (c *boolCol) release() { c.bits.release(); c.n = 0 }

// fixedCol is a column of raw bytes of one width.
type fixedCol struct {
	bytes vec[byte]
	dt    *arrow.FixedSizeBinaryType
}

func (c *fixedCol) push(b []byte) { c.bytes.pushAll(b) }
func (c *fixedCol) len() int      { return len(c.bytes.data) / c.dt.ByteWidth }
func (c *fixedCol) padTo(n int) {
	if missing := n*c.dt.ByteWidth - len(c.bytes.data); missing > 0 {
		c.bytes.pushN(0, missing)
	}
}
func (c *fixedCol) finish() arrow.ArrayData {
	n := c.len()
	return newData(c.dt, n, []*memory.Buffer{c.bytes.finish()})
}
func (c *fixedCol) release() { c.bytes.release() }

// offsets are the ends of variable-length values, after a leading 0.
type offsets struct{ vec[int32] }

func (o *offsets) end(at int) {
	if len(o.data) == 0 {
		o.push(0)
	}
	o.push(int32(at))
}
func (o *offsets) padTo(n, at int) {
	for o.len() < n {
		o.end(at)
	}
}
func (o *offsets) len() int { return max(len(o.data)-1, 0) }
func (o *offsets) finish() *memory.Buffer {
	if len(o.data) == 0 {
		o.push(0)
	}
	return o.vec.finish()
}

// textCol is a column of UTF-8 text. Arrow's offsets are 32 bits wide: Builder.full keeps it far below 2 GiB.
type textCol struct {
	ends offsets
	text vec[byte]
}

// push appends s; bytes that are not UTF-8 become U+FFFD, for Iceberg's readers refuse a file that holds them.
func (c *textCol) push(s string) {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	c.pushValid(s)
}

// pushValid appends s, which is known to be UTF-8.
func (c *textCol) pushValid(s string) {
	pushText(&c.text, s)
	c.ends.end(len(c.text.data))
}

func (c *textCol) pushBytes(b []byte) {
	c.text.pushAll(b)
	c.ends.end(len(c.text.data))
}
func (c *textCol) padTo(n int) { c.ends.padTo(n, len(c.text.data)) }
func (c *textCol) len() int    { return c.ends.len() }
func (c *textCol) finish() arrow.ArrayData {
	n := c.ends.len()
	return newData(arrow.BinaryTypes.String, n, []*memory.Buffer{c.ends.finish(), c.text.finish()})
}
func (c *textCol) release() { c.ends.release(); c.text.release() }

// bytesCol is a column of raw bytes: pushBytes only.
type bytesCol struct{ textCol }

func (c *bytesCol) finish() arrow.ArrayData {
	n := c.ends.len()
	return newData(arrow.BinaryTypes.Binary, n, []*memory.Buffer{c.ends.finish(), c.text.finish()})
}

// dictCol is a column of text that repeats: indices into the batch's own dictionary.
type dictCol struct {
	idx    vec[int32]
	values textCol
	memo   map[string]int32
}

// index returns the dictionary index of s, which it adds where it is new.
func (c *dictCol) index(s string) int32 {
	if i, ok := c.memo[s]; ok {
		return i
	}
	if c.memo == nil {
		c.memo = map[string]int32{}
	}
	i := int32(c.values.len())
	c.values.push(s)
	c.memo[strings.Clone(s)] = i // s may alias memory that the sender reuses
	return i
}

func (c *dictCol) push(s string)         { c.idx.push(c.index(s)) }
func (c *dictCol) pushIndex(i int32)     { c.idx.push(i) }
func (c *dictCol) pushN(s string, n int) { c.idx.pushN(c.index(s), n) }
func (c *dictCol) set(row int, s string) { c.padTo(row); c.push(s) }
func (c *dictCol) padTo(n int) {
	if n > len(c.idx.data) {
		c.pushN("", n-len(c.idx.data))
	}
}
func (c *dictCol) len() int { return len(c.idx.data) }
func (c *dictCol) finish() arrow.ArrayData {
	n := len(c.idx.data)
	dict := c.values.finish().(*array.Data)
	idx := c.idx.finish()
	d := array.NewDataWithDictionary(dictType, n, []*memory.Buffer{nil, idx}, 0, 0, dict)
	idx.Release()
	dict.Release()
	clear(c.memo)
	return d
}
func (c *dictCol) release() { c.idx.release(); c.values.release(); clear(c.memo) }

// listCol is a column of lists. The elements are pushed to elem, then end is called.
type listCol struct {
	ends offsets
	elem column
	dt   arrow.DataType
}

func (c *listCol) end()        { c.ends.end(c.elem.len()) }
func (c *listCol) padTo(n int) { c.ends.padTo(n, c.elem.len()) }
func (c *listCol) len() int    { return c.ends.len() }
func (c *listCol) finish() arrow.ArrayData {
	n := c.ends.len()
	return newData(c.dt, n, []*memory.Buffer{c.ends.finish()}, c.elem.finish())
}
func (c *listCol) release() { c.ends.release(); c.elem.release() }

// mapCol is a column of maps. Keys and values are pushed in pairs, then end is called.
type mapCol struct {
	ends offsets
	keys dictCol
	vals column
	dt   *arrow.MapType
}

func (c *mapCol) end()        { c.ends.end(c.keys.len()) }
func (c *mapCol) padTo(n int) { c.ends.padTo(n, c.keys.len()) }
func (c *mapCol) len() int    { return c.ends.len() }
func (c *mapCol) finish() arrow.ArrayData {
	n, entries := c.ends.len(), c.keys.len()
	pairs := newData(c.dt.Elem(), entries, nil, c.keys.finish(), c.vals.finish())
	return newData(c.dt, n, []*memory.Buffer{c.ends.finish()}, pairs)
}
func (c *mapCol) release() { c.ends.release(); c.keys.release(); c.vals.release() }

func newColumn(a *arena, k Kind) column {
	switch k {
	case Text:
		c := newText(a)
		return &c
	case Bytes:
		return &bytesCol{newText(a)}
	case Dict, DictJSON:
		c := newDict(a)
		return &c
	case Int32:
		return newNum[int32](a, k)
	case Int64:
		return newNum[int64](a, k)
	case Uint32:
		return newNum[uint32](a, k)
	case Uint64:
		return newNum[uint64](a, k)
	case Double:
		return newNum[float64](a, k)
	case Time:
		return newNum[int64](a, k)
	case Bool:
		return &boolCol{bits: vec[byte]{a: a}}
	case Fixed8, Fixed16:
		return &fixedCol{bytes: vec[byte]{a: a}, dt: k.Arrow().(*arrow.FixedSizeBinaryType)}
	}
	ends := offsets{vec[int32]{a: a}}
	if k.IsMap() {
		return &mapCol{ends: ends, keys: newDict(a), vals: newColumn(a, k.Elem()), dt: k.Arrow().(*arrow.MapType)}
	}
	return &listCol{ends: ends, elem: newColumn(a, k.Elem()), dt: k.Arrow()}
}

func newText(a *arena) textCol {
	return textCol{ends: offsets{vec[int32]{a: a}}, text: vec[byte]{a: a}}
}

func newDict(a *arena) dictCol {
	return dictCol{idx: vec[int32]{a: a}, values: newText(a)}
}

func newNum[T arrow.FixedWidthType](a *arena, k Kind) *numCol[T] {
	return &numCol[T]{vec: vec[T]{a: a}, dt: k.Arrow()}
}
