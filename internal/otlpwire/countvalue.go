package otlpwire

import "fmt"

// Attributes are nine tenths of a request, so KeyValue and AnyValue are walked by code of their own rather than by table.

var (
	keyField      = field{kBytes, "key", nil}
	valueField    = field{kAnyValue, "value", nil}
	strindexField = field{kVarint, "key_strindex", nil}
	anyFields     = [...]field{
		1: {kBytes, "string_value", nil}, 2: {kVarint, "bool_value", nil}, 3: {kVarint, "int_value", nil},
		4: {kI64, "double_value", nil}, 5: {kMessage, "array_value", nil}, 6: {kMessage, "kvlist_value", nil},
		7: {kBytes, "bytes_value", nil}, 8: {kVarint, "string_value_strindex", nil},
	}
)

// usual tells whether kv is a KeyValue as nearly all are: a key and a value that holds a scalar, nothing else, and all of them
// shorter than 128 bytes. It is sound, not complete: what it says no to may still be well-formed.
func usual(kv []byte) bool {
	_, v, ok := usualParts(kv)
	if !ok {
		return false
	}
	if len(v) < 2 {
		return len(v) == 0
	}
	switch v[0] {
	case 1<<3 | wireLen, 7<<3 | wireLen: // string, bytes
		return v[1] < 0x80 && 2+int(v[1]) == len(v)
	case 2<<3 | wireVarint, 3<<3 | wireVarint: // bool, int
		_, next := varint(v, 1)
		return next == len(v)
	case 4<<3 | wireI64: // double
		return len(v) == 9
	}
	return false
}

// usualParts returns the key and the AnyValue message of a KeyValue that consists of these two, each shorter than 128 bytes. Encoders of
// most languages write the key first; pdata, and so every Collector that is an agent, writes it last.
func usualParts(kv []byte) (key, value []byte, ok bool) {
	if len(kv) < 4 || kv[1] >= 0x80 {
		return nil, nil, false
	}
	v := 2 + int(kv[1])
	if v+2 > len(kv) || kv[v+1] >= 0x80 || v+2+int(kv[v+1]) != len(kv) {
		return nil, nil, false
	}
	switch {
	case kv[0] == 1<<3|wireLen && kv[v] == 2<<3|wireLen:
		return kv[2:v:v], kv[v+2 : len(kv) : len(kv)], true
	case kv[0] == 2<<3|wireLen && kv[v] == 1<<3|wireLen:
		return kv[v+2 : len(kv) : len(kv)], kv[2:v:v], true
	}
	return nil, nil, false
}

func (w *walker) keyValue(b []byte, depth int) *Error {
	if depth < w.maxDepth && usual(b) {
		return nil
	}
	pos := 0
	for pos < len(b) {
		at := pos
		num, wire, p := tag(b, pos)
		if p < 0 {
			return malformed("tag", at, p)
		}
		f := &unknownField
		switch num {
		case 1:
			if wire == wireLen {
				if _, pos = length(b, p); pos < 0 {
					return malformed("key", at, pos)
				}
				continue
			}
			f = &keyField
		case 2:
			if wire == wireLen {
				start, next := length(b, p)
				if next < 0 {
					return malformed("value", at, next)
				}
				if e := w.anyValue(b[start:next], depth+1); e != nil {
					return e.in("value", start)
				}
				pos = next
				continue
			}
			f = &valueField
		case 3:
			f = &strindexField
		}
		var e *Error
		if pos, e = w.field(f, b, at, p, wire, depth); e != nil {
			return e
		}
	}
	return nil
}

func (w *walker) anyValue(b []byte, depth int) *Error {
	if depth > w.maxDepth {
		return &Error{Kind: ErrTooDeep, Reason: fmt.Sprintf("deeper than %d levels", w.maxDepth)}
	}
	pos := 0
	for pos < len(b) {
		at := pos
		num, wire, p := tag(b, pos)
		if p < 0 {
			return malformed("tag", at, p)
		}
		f := &unknownField
		if int(num) < len(anyFields) {
			f = &anyFields[num]
		}
		if f.kind == kMessage && wire == wireLen {
			start, next := length(b, p)
			if next < 0 {
				return malformed(f.name, at, next)
			}
			m := arrayMsg
			if num == 6 {
				m = kvlistMsg
			}
			if e := w.message(m, b[start:next], depth); e != nil {
				return e.in(f.name, start)
			}
			pos = next
			continue
		}
		var e *Error
		if pos, e = w.field(f, b, at, p, wire, depth); e != nil {
			return e
		}
	}
	return nil
}
