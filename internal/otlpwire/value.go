package otlpwire

import (
	"iter"
	"math"
)

// ValueType is the type of an attribute's value.
type ValueType uint8

// The types of AnyValue. TypeEmpty is a value of no type, which OTLP allows.
const (
	TypeEmpty ValueType = iota
	TypeString
	TypeBool
	TypeInt
	TypeDouble
	TypeArray
	TypeMap
	TypeBytes
)

var typeNames = [...]string{"empty", "string", "bool", "int", "double", "array", "map", "bytes"}

func (t ValueType) String() string { return typeNames[t] }

// Value is an AnyValue, not decoded further than its type.
type Value struct {
	typ ValueType
	num uint64
	raw []byte
}

// Type of the value.
func (v Value) Type() ValueType { return v.typ }

// Bytes returns a string's or a byte string's bytes, the ArrayValue or KeyValueList message of an array or a map, and else nil.
func (v Value) Bytes() []byte { return v.raw }

// Str returns a copy of a string, and "" for a value of another type.
func (v Value) Str() string {
	if v.typ != TypeString {
		return ""
	}
	return string(v.raw)
}

// Int returns an int's value, and else 0.
func (v Value) Int() int64 {
	if v.typ != TypeInt {
		return 0
	}
	return int64(v.num)
}

// Bool returns a bool's value, and else false.
func (v Value) Bool() bool { return v.typ == TypeBool && v.num != 0 }

// Double returns a double's value, and else 0.
func (v Value) Double() float64 {
	if v.typ != TypeDouble {
		return 0
	}
	return math.Float64frombits(v.num)
}

// Items iterates over the values of an array.
func (v Value) Items() iter.Seq[Value] {
	return func(yield func(Value) bool) {
		if v.typ != TypeArray {
			return
		}
		f := fields{b: v.raw}
		for f.next() {
			if f.num == 1 && f.wire == wireLen && !yield(Value{}.merge(f.content())) {
				return
			}
		}
	}
}

// Map returns the entries of a map.
func (v Value) Map() Attributes {
	if v.typ != TypeMap {
		return Attributes{}
	}
	return Attributes{msg: v.raw, field: 1}
}

// merge reads an AnyValue message: of several fields the last one counts, and one without any leaves v as it was.
func (v Value) merge(msg []byte) Value {
	if len(msg) > 1 && msg[0] == 1<<3|wireLen && msg[1] < 0x80 && 2+int(msg[1]) == len(msg) { // a short string and no more
		return Value{typ: TypeString, raw: msg[2:len(msg):len(msg)]}
	}
	f := fields{b: msg}
	for f.next() {
		switch {
		case f.num == 1 && f.wire == wireLen:
			v = Value{typ: TypeString, raw: f.content()}
		case f.num == 2 && f.wire == wireVarint:
			v = Value{typ: TypeBool, num: f.uint()}
		case f.num == 3 && f.wire == wireVarint:
			v = Value{typ: TypeInt, num: f.uint()}
		case f.num == 4 && f.wire == wireI64:
			v = Value{typ: TypeDouble, num: f.uint()}
		case f.num == 5 && f.wire == wireLen:
			v = Value{typ: TypeArray, raw: f.content()}
		case f.num == 6 && f.wire == wireLen:
			v = Value{typ: TypeMap, raw: f.content()}
		case f.num == 7 && f.wire == wireLen:
			v = Value{typ: TypeBytes, raw: f.content()}
		case f.num == 8 && f.wire == wireVarint: // an index into a profile's strings: of no type here, as in pdata
			v = Value{}
		}
	}
	return v
}

// Attributes are the attributes of an event, a scope, a resource or a map value, in the order in which they were sent.
type Attributes struct {
	msg   []byte // the message that holds them
	field int32  // its field
}

// Get returns the first attribute of that key.
func (a Attributes) Get(key string) (Value, bool) {
	f := fields{b: a.msg}
	for f.next() {
		if f.num != a.field || f.wire != wireLen {
			continue
		}
		kv := f.content()
		if k, _, ok := usualParts(kv); ok && string(k) != key {
			continue
		}
		if k, v := keyValue(kv); string(k) == key {
			return v, true
		}
	}
	return Value{}, false
}

// All iterates over the attributes.
func (a Attributes) All() iter.Seq2[[]byte, Value] {
	return func(yield func([]byte, Value) bool) {
		f := fields{b: a.msg}
		for f.next() {
			if f.num == a.field && f.wire == wireLen && !yield(keyValue(f.content())) {
				return
			}
		}
	}
}

func keyValue(msg []byte) (key []byte, v Value) {
	if k, value, ok := usualParts(msg); ok {
		return k, v.merge(value)
	}
	f := fields{b: msg}
	for f.next() {
		switch {
		case f.num == 1 && f.wire == wireLen:
			key = f.content()
		case f.num == 2 && f.wire == wireLen:
			v = v.merge(f.content())
		}
	}
	return key, v
}

// lastBytes returns the content of a string, bytes or message field of which the last occurrence counts.
func lastBytes(msg []byte, num int32) (content []byte) {
	f := fields{b: msg}
	for f.next() {
		if f.num == num && f.wire == wireLen {
			content = f.content()
		}
	}
	return content
}

// lastUint returns the value of a scalar field of which the last occurrence counts.
func lastUint(msg []byte, num int32, wire uint8) (v uint64) {
	f := fields{b: msg}
	for f.next() {
		if f.num == num && f.wire == wire {
			v = f.uint()
		}
	}
	return v
}
