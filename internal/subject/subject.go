// Package subject finds what the stores hold of one person, a data subject: the events that carry a value, such as a user id, in an attribute, and rows that were made of
// them. The value is never part of a statement, an error or a log line: ClickHouse is asked for rows that may match by a few bits of a hash (May), and what it answers is
// decided here.
package subject

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/zeebo/xxh3"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/pulsegrid/pulsegrid/internal/columns"
)

// Bounds of what is looked for.
const (
	keyMax    = 256  // bytes of the attribute's key
	valueMax  = 4096 // bytes of a value
	valuesMax = 1000
	fileMax   = valuesMax * (valueMax + 2)
)

const (
	// hashSpread is how many rows one that may match stands for, on average: May tells so much of a value, and so little.
	hashSpread = 1024
	// needlesMax is how many values are looked for in the bytes of a batch before its rows are read.
	needlesMax = 16
)

// Subject is a person's values of an attribute, in the rows of one tenant. A value matches text that is equal to it, and an integer whose decimal digits are. Immutable.
type Subject struct {
	Tenant, Attribute string

	values  map[string]bool
	needles [][]byte // one of them is in the bytes of a batch that has a value; nil: any batch may
	salt    string   // of the hashes that ClickHouse is asked by
	buckets string   // of the values, a list of numbers
	mask    uint64
}

// New checks what is to be found. Errors do not quote values.
func New(tenant, attribute string, values []string) (*Subject, error) {
	switch {
	case attribute == "" || len(attribute) > keyMax || !utf8.ValidString(attribute) || strings.ContainsFunc(attribute, func(r rune) bool { return r < ' ' || strings.ContainsRune(`="\`, r) }):
		return nil, fmt.Errorf("the attribute's key must have 1 to %d bytes of UTF-8, without =, quotes, backslashes and control characters", keyMax)
	case len(values) == 0:
		return nil, errors.New("there is no value")
	case len(values) > valuesMax:
		return nil, fmt.Errorf("%d values: at most %d", len(values), valuesMax)
	}
	spread := uint64(hashSpread)
	for spread < uint64(hashSpread*len(values)) {
		spread *= 2
	}
	salt := sha256.Sum256([]byte(tenant + "\x00" + attribute)) // always the same: what several runs tell must not add up
	s := &Subject{Tenant: tenant, Attribute: attribute, values: map[string]bool{}, salt: hex.EncodeToString(salt[:16]), mask: spread - 1}
	var buckets []string
	plain := true
	for i, v := range values {
		if v == "" || len(v) > valueMax || !utf8.ValidString(v) {
			return nil, fmt.Errorf("value %d: must have 1 to %d bytes of UTF-8", i+1, valueMax)
		}
		s.values[v] = true
		buckets = append(buckets, strconv.FormatUint(xxh3.HashString(s.salt+v)&s.mask, 10))
		s.needles = append(s.needles, []byte(v))
		if n, err := strconv.ParseInt(v, 10, 64); err == nil {
			s.needles = append(s.needles, binary.LittleEndian.AppendUint64(nil, uint64(n)))
		}
		// In JSON text another writer may escape these.
		plain = plain && !strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`"\/<>&'`, r) })
	}
	if !plain || len(values) > needlesMax {
		s.needles = nil
	}
	s.buckets = strings.Join(buckets, ", ")
	return s, nil
}

// ReadValues reads a file of values, one a line. Empty lines are left out.
func ReadValues(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(f, fileMax+1))
	if err != nil {
		return nil, err
	}
	if len(b) > fileMax {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, fileMax)
	}
	var values []string
	for line := range strings.Lines(strings.TrimPrefix(string(b), "\ufeff")) { // which some editors write first
		if v := strings.TrimRight(line, "\r\n"); v != "" {
			values = append(values, v)
		}
	}
	return values, nil
}

// in tells whether attributes have one of the values under the key; each, where the key occurs more than once.
func (s *Subject) in(attributes pcommon.Map) bool {
	for key, v := range attributes.All() {
		if key != s.Attribute {
			continue
		}
		switch v.Type() {
		case pcommon.ValueTypeStr:
			if s.values[v.Str()] {
				return true
			}
		case pcommon.ValueTypeInt:
			if s.values[strconv.FormatInt(v.Int(), 10)] {
				return true
			}
		}
	}
	return false
}

func (s *Subject) inAny(of ...pcommon.Map) bool { return slices.ContainsFunc(of, s.in) }

// mayHave is false where no row of a batch can have one of the values.
func (s *Subject) mayHave(rec arrow.RecordBatch) bool {
	return s.needles == nil || slices.ContainsFunc(rec.Columns(), func(a arrow.Array) bool { return s.within(a.Data()) })
}

// within looks for the needles in the bytes of an array.
func (s *Subject) within(d arrow.ArrayData) bool {
	if dict := d.Dictionary(); dict != nil && d.DataType().ID() == arrow.DICTIONARY {
		return s.within(dict)
	}
	if slices.ContainsFunc(d.Children(), s.within) {
		return true
	}
	bytesAt := 0
	switch d.DataType().ID() {
	case arrow.STRING, arrow.LARGE_STRING, arrow.BINARY, arrow.LARGE_BINARY:
		bytesAt = 2
	case arrow.INT64:
		bytesAt = 1
	default:
		return false
	}
	b := d.Buffers()[bytesAt]
	return b != nil && slices.ContainsFunc(s.needles, func(n []byte) bool { return bytes.Contains(b.Bytes(), n) })
}

// may is a condition of ClickHouse on a text: true where it is one of the values, and for one in a thousand of all others.
func (s *Subject) may(text string) string {
	return fmt.Sprintf("(%[1]s != '' AND bitAnd(xxh3(concat('%[2]s', toString(%[1]s))), %[3]d) IN (%[4]s))", text, s.salt, s.mask, s.buckets)
}

// May is a condition of ClickHouse that holds for each row that Rows takes for the person's, and for few others; of the quarantine, for all.
func (s *Subject) May(t *columns.Table, texts []string) string {
	switch {
	case t == nil:
		either := []string{"0"}
		for _, c := range texts {
			either = append(either, s.may(identifier(c)))
		}
		return "(" + strings.Join(either, " OR ") + ")"
	case t.Items():
		return "1"
	}
	key := literal(s.Attribute)
	either := []string{
		s.may("attributes_string[" + key + "]"),
		"(mapContains(attributes_int, " + key + ") AND " + s.may("toString(attributes_int["+key+"])") + ")",
		"mapContains(attributes_other, " + key + ")", // of several values
	}
	for _, c := range t.Columns {
		switch {
		case c.Promote != s.Attribute, c.Kind == columns.Double:
		case c.Kind == columns.Int64:
			either = append(either, s.may("toString("+identifier(c.Name)+")"))
		default:
			either = append(either, s.may(identifier(c.Name)))
		}
	}
	inObject := s.Attribute // as objects have it (docs/formats/rows.md)
	if strings.HasPrefix(inObject, "$") {
		inObject = "$" + inObject
	}
	object := func(text string) string {
		of := func(f string) string { return s.may(f + "(" + text + ", " + literal(inObject) + ")") }
		// JSONExtract sees one of several equal keys.
		return "(" + of("JSONExtractString") + " OR " + of("JSONExtractRaw") + " OR countSubstrings(" + text + ", " + literal(`"`+inObject+`"`) + ") > 1)"
	}
	for _, name := range []string{"resource", "scope_attributes", "events_attributes", "links_attributes", "exemplars_attributes"} {
		c, ok := t.Column(name)
		switch {
		case !ok:
		case c.Kind == columns.ListJSON:
			either = append(either, "arrayExists(o -> "+object("o")+", "+name+")")
		default:
			either = append(either, object(name))
		}
	}
	return "(" + strings.Join(either, " OR ") + ")"
}

func identifier(name string) string {
	return "`" + strings.NewReplacer(`\`, `\\`, "`", "\\`").Replace(name) + "`"
}

func literal(text string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(text) + "'"
}
