package columns

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/pulsegrid/pulsegrid/internal/lineage"
)

// JSON text: how OTLP values that have no column of their own type are written (docs/formats/rows.md, "JSON text"). It is JSON
// that any parser reads, and it keeps apart what JSON does not:
//
//	string            "text"
//	string, not UTF-8 {"$string":"<base64>"}
//	bool              true
//	int               42          all 64 bits as digits
//	double            42.0        always with a point or an exponent; {"$double":"NaN"|"Infinity"|"-Infinity"}
//	bytes             {"$bytes":"<base64>"}
//	empty             null
//	array             [...]
//	kvlist            {...}       in order, duplicate keys repeated; a key that begins with "$" has another "$" in front
//
// A key that is not UTF-8 has U+FFFD in place of the bytes that are not.

const (
	jsonBytes  = "$bytes"
	jsonDouble = "$double"
	jsonString = "$string"
	jsonValues = "$values" // of attributes_other only: the values of a key that occurs more than once
)

// jsonDepthMax bounds the recursion: OTLP decoders refuse deeper values long before.
const jsonDepthMax = 200

func appendJSONValue(b []byte, v pcommon.Value, depth int) []byte {
	if depth > jsonDepthMax {
		return append(b, "null"...)
	}
	switch v.Type() {
	case pcommon.ValueTypeStr:
		s := v.Str()
		if !utf8.ValidString(s) {
			return appendTagged(b, jsonString, []byte(s))
		}
		return appendJSONString(b, s)
	case pcommon.ValueTypeInt:
		return strconv.AppendInt(b, v.Int(), 10)
	case pcommon.ValueTypeDouble:
		return appendJSONDouble(b, v.Double())
	case pcommon.ValueTypeBool:
		return strconv.AppendBool(b, v.Bool())
	case pcommon.ValueTypeBytes:
		return appendTagged(b, jsonBytes, v.Bytes().AsRaw())
	case pcommon.ValueTypeSlice:
		b = append(b, '[')
		s := v.Slice()
		for i := range s.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSONValue(b, s.At(i), depth+1)
		}
		return append(b, ']')
	case pcommon.ValueTypeMap:
		return appendJSONMap(b, v.Map(), depth+1)
	}
	return append(b, "null"...)
}

// appendJSONMap writes m as an object. At depth 0 (attributes of a resource, scope, ...) reserved keys are left out.
func appendJSONMap(b []byte, m pcommon.Map, depth int) []byte {
	b = append(b, '{')
	first := true
	for k, v := range m.All() {
		if depth == 0 && lineage.Reserved(k) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		if strings.HasPrefix(k, "$") {
			k = "$" + k
		}
		if !utf8.ValidString(k) {
			k = strings.ToValidUTF8(k, "\uFFFD")
		}
		b = appendJSONString(b, k)
		b = append(b, ':')
		b = appendJSONValue(b, v, depth)
	}
	return append(b, '}')
}

func appendTagged(b []byte, tag string, raw []byte) []byte {
	b = append(b, `{"`...)
	b = append(b, tag...)
	b = append(b, `":"`...)
	b = base64.StdEncoding.AppendEncode(b, raw)
	return append(b, `"}`...)
}

func appendJSONDouble(b []byte, f float64) []byte {
	word := ""
	switch {
	case math.IsNaN(f):
		word = "NaN"
	case math.IsInf(f, 1):
		word = "Infinity"
	case math.IsInf(f, -1):
		word = "-Infinity"
	default:
		at := len(b)
		b = strconv.AppendFloat(b, f, 'g', -1, 64)
		for _, c := range b[at:] {
			if c == '.' || c == 'e' {
				return b
			}
		}
		return append(b, ".0"...)
	}
	return append(append(append(b, `{"`+jsonDouble+`":"`...), word...), `"}`...)
}

// appendJSONString writes valid UTF-8 s as a JSON string.
func appendJSONString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}
