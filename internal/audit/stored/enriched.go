package stored

import (
	"encoding/binary"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/columns/value"
	"github.com/pulsegrid/pulsegrid/internal/enriched"
)

// Attributes of enrichment are no part of what is compared, in Kafka as little as in the stores: Kafka does not have them, their values may come from
// tables that have changed since, and what agents sent under their prefix is removed where there is enrichment, and kept where there is none.
// They are in the attribute maps of events and in the JSON text of resources, nowhere else.

// resourceColumn is the column of the resource's attributes.
const resourceColumn = "resource"

// pairs writes the entries of a map of attributes, without those of enrichment, after their count.
func pairs(m *array.Map, keys, values appender) appender {
	names := m.Keys()
	return func(b []byte, i int) []byte {
		at, n := len(b), uint32(0)
		b = binary.LittleEndian.AppendUint32(b, 0)
		if m.IsNull(i) {
			return b
		}
		from, to := m.ValueOffsets(i)
		for e := int(from); e < int(to); e++ {
			if key, _ := value.Text(names, e); enriched.Is(key) {
				continue
			}
			n++
			b = values(keys(b, e), e)
		}
		binary.LittleEndian.PutUint32(b[at:], n)
		return b
	}
}

// newResourceAppender reads resources. Many rows have the same one.
func newResourceAppender(a arrow.Array) (appender, error) {
	if _, err := newAppender(columns.DictJSON, a, nil); err != nil {
		return nil, err
	}
	var last, stripped string
	return func(b []byte, i int) []byte {
		text := ""
		if !a.IsNull(i) {
			text, _ = value.Text(a, i) // the type was checked
		}
		if text != last {
			last, stripped = text, withoutEnriched(text)
		}
		return append(binary.LittleEndian.AppendUint32(b, uint32(len(stripped))), stripped...)
	}, nil
}

// withoutEnriched is a resource's JSON text without the members of enrichment. It knows the form that internal/columns writes, which has no white
// space; a text of another form comes back as it is, or as something that it is not equal to: it was not written by that.
func withoutEnriched(text string) string {
	if !strings.Contains(text, `"`+enriched.Prefix) || text[0] != '{' || text[len(text)-1] != '}' {
		return text
	}
	var b strings.Builder
	b.WriteByte('{')
	for rest := text[1 : len(text)-1]; rest != ""; {
		end := memberEnd(rest)
		if !strings.HasPrefix(rest, `"`+enriched.Prefix) {
			if b.Len() > 1 {
				b.WriteByte(',')
			}
			b.WriteString(rest[:end])
		}
		rest = strings.TrimPrefix(rest[end:], ",")
	}
	b.WriteByte('}')
	return b.String()
}

// memberEnd is where the first member of an object's inside ends: at a comma that lies in no string, array or object.
func memberEnd(s string) int {
	depth, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		case c == ',' && depth == 0:
			return i
		}
	}
	return len(s)
}
