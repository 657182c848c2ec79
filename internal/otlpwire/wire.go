package otlpwire

import "encoding/binary"

// Wire types of protobuf.
const (
	wireVarint     = 0
	wireI64        = 1
	wireLen        = 2
	wireStartGroup = 3
	wireEndGroup   = 4
	wireI32        = 5
)

// A consume function returns the position after what it consumed, or one of these.
const (
	badEnd      = -1 - iota // the message ends within the field
	badVarint               // a varint of more than ten bytes
	badLength               // a length that is negative as an int
	badGroup                // an end of a group that did not begin
	badWireType             // wire type 6 or 7
	badField                // field number 0, or beyond 2^31
)

var badText = [...]string{
	-badEnd:      "ends within the field",
	-badVarint:   "varint is longer than ten bytes",
	-badLength:   "length is negative",
	-badGroup:    "a group ends that did not begin",
	-badWireType: "wire type is not one of protobuf's",
	-badField:    "field number is out of range",
}

// varint consumes a varint. Like pdata it takes ten bytes and drops bits beyond the 64th.
func varint(b []byte, pos int) (v uint64, next int) {
	if pos < len(b) {
		if v = uint64(b[pos]); v < 0x80 {
			return v, pos + 1
		}
	}
	return longVarint(b, pos)
}

func longVarint(b []byte, pos int) (uint64, int) {
	var num uint64
	for shift := uint(0); shift < 64; shift += 7 {
		if pos >= len(b) {
			return 0, badEnd
		}
		c := b[pos]
		pos++
		num |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return num, pos
		}
	}
	return 0, badVarint
}

// tag consumes a field's tag. The field number is truncated to 32 bits before it is judged, as pdata does it.
func tag(b []byte, pos int) (num int32, wire uint8, next int) {
	t, next := varint(b, pos)
	if next < 0 {
		return 0, 0, next
	}
	num = int32(t >> 3)
	if num <= 0 {
		return 0, 0, badField
	}
	return num, uint8(t & 7), next
}

// length consumes a length-delimited field: its content is b[start:next].
func length(b []byte, pos int) (start, next int) {
	if pos < len(b) {
		if next = pos + 1 + int(b[pos]); b[pos] < 0x80 && next <= len(b) {
			return pos + 1, next
		}
	}
	return longLength(b, pos)
}

func longLength(b []byte, pos int) (start, next int) {
	n, start := varint(b, pos)
	if start < 0 {
		return 0, start
	}
	if int(n) < 0 {
		return 0, badLength
	}
	if int(n) > len(b)-start {
		return 0, badEnd
	}
	return start, start + int(n)
}

func fixed(b []byte, pos, size int) int {
	if size > len(b)-pos {
		return badEnd
	}
	return pos + size
}

// skip consumes a field of any wire type. It does with groups what pdata does: a group ends with its first field that is not
// itself a group, so that most groups are refused at their end tag.
func skip(b []byte, pos int, wire uint8) int {
	depth := 0
	for pos < len(b) {
		switch wire {
		case wireVarint:
			_, pos = varint(b, pos)
			return pos
		case wireI64:
			return fixed(b, pos, 8)
		case wireLen:
			_, pos = length(b, pos)
			return pos
		case wireStartGroup:
			depth++
		case wireEndGroup:
			if depth == 0 {
				return badGroup
			}
			depth--
		case wireI32:
			return fixed(b, pos, 4)
		default:
			return badWireType
		}
		if depth == 0 {
			return pos
		}
		_, wire, pos = tag(b, pos)
		if pos < 0 {
			return pos
		}
	}
	return badEnd
}

// fields iterates over the direct fields of a message: f := fields{b: b}; for f.next() { ... }; then f.err. It is declared before the loop: a variable of the
// for statement is another one in every iteration, and since its address is taken it would be copied, which made a tenth of a schema check.
type fields struct {
	b   []byte
	pos int

	num   int32
	wire  uint8
	start int // where the field's tag begins
	value int // where its content begins: behind the length of a length-delimited field
	err   int // a bad code, or 0
}

func (f *fields) next() bool {
	// Most fields have a number below 16, and a length below 128.
	if b, pos := f.b, f.pos; pos+1 < len(b) && b[pos]&0x87 == wireLen && b[pos] >= 1<<3 && b[pos+1] < 0x80 {
		if end := pos + 2 + int(b[pos+1]); end <= len(b) {
			f.num, f.wire, f.start, f.value, f.pos = int32(b[pos]>>3), wireLen, pos, pos+2, end
			return true
		}
	}
	return f.nextOfAny()
}

func (f *fields) nextOfAny() bool {
	if f.pos >= len(f.b) {
		return false
	}
	f.start = f.pos
	if b, pos := f.b, f.pos; pos+9 <= len(b) && b[pos] >= 1<<3 && b[pos] < 0x80 { // the usual numbers of events
		size := 0
		switch b[pos] & 7 {
		case wireVarint:
			if b[pos+1] < 0x80 {
				size = 1
			}
		case wireI64:
			size = 8
		case wireI32:
			size = 4
		}
		if size > 0 {
			f.num, f.wire, f.value, f.pos = int32(b[pos]>>3), b[pos]&7, pos+1, pos+1+size
			return true
		}
	}
	num, wire, pos := tag(f.b, f.pos)
	if pos < 0 {
		f.err = pos
		return false
	}
	f.num, f.wire, f.value = num, wire, pos
	if wire == wireLen {
		f.value, pos = length(f.b, pos)
	} else {
		pos = skip(f.b, pos, wire)
	}
	if pos < 0 {
		f.err = pos
		return false
	}
	f.pos = pos
	return true
}

// content of a length-delimited field.
func (f *fields) content() []byte { return f.b[f.value:f.pos:f.pos] }

// raw is the whole field, tag and all.
func (f *fields) raw() []byte { return f.b[f.start:f.pos] }

func (f *fields) uint() uint64 {
	switch f.wire {
	case wireVarint:
		v, _ := varint(f.b, f.value)
		return v
	case wireI64:
		return binary.LittleEndian.Uint64(f.b[f.value:])
	case wireI32:
		return uint64(binary.LittleEndian.Uint32(f.b[f.value:]))
	}
	return 0
}

// sizeVarint is the length of v as a varint.
func sizeVarint(v int) int {
	n := 1
	for u := uint64(v); u >= 0x80; u >>= 7 {
		n++
	}
	return n
}

// sizeField is the length of a length-delimited field with n bytes of content.
func sizeField(num int32, n int) int { return sizeVarint(int(num)<<3) + sizeVarint(n) + n }

func appendTag(out []byte, num int32) []byte {
	return binary.AppendUvarint(out, uint64(num)<<3|wireLen)
}

func appendField(out []byte, num int32, content []byte) []byte {
	return append(binary.AppendUvarint(appendTag(out, num), uint64(len(content))), content...)
}
