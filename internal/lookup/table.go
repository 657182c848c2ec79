package lookup

import (
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
)

// Bounds of a table. Beyond them it is a database, which an aggregator is not the place for.
const (
	MaxRows       = 500_000
	MaxCells      = 2_000_000 // values, without keys: 48 bytes each, and their text
	MaxColumns    = 32        // without key and tenant
	MaxKeyBytes   = 1024
	MaxValueBytes = 4096
	MaxNameBytes  = 64 // of a table or a column
)

// Attribute is one value of a row, under the attribute's name.
type Attribute struct {
	Name  string // enriched.TABLE.COLUMN
	text  string
	bits  int64
	value pcommon.ValueType // Str, Int, Double or Bool
}

// Put gives it to m, over the one that m has.
func (a *Attribute) Put(m pcommon.Map) {
	switch a.value {
	case pcommon.ValueTypeInt:
		m.PutInt(a.Name, a.bits)
	case pcommon.ValueTypeDouble:
		m.PutDouble(a.Name, double(a.bits))
	case pcommon.ValueTypeBool:
		m.PutBool(a.Name, a.bits != 0)
	default:
		m.PutStr(a.Name, a.text)
	}
}

// Row is the values of one key; columns without a value are not in it.
type Row []Attribute

// rows by key.
type rows map[string]Row

// Table is one file, read.
type Table struct {
	everyone rows
	own      map[string]rows // by tenant
	n        int
}

// Rows is how many there are.
func (t *Table) Rows() int { return t.n }

// Outcome is what came of a search.
type Outcome uint8

// The outcomes.
const (
	Found  Outcome = iota
	Missed         // the table has no such key
	NoKey          // the value is of a type that is no key
)

// Find returns the row of an attribute's value: the tenant's own, or else the one that is for everyone. Keys are texts; an integer is found by its
// digits, a boolean as true or false. It does not allocate.
func (t *Table) Find(tenant string, key pcommon.Value) (Row, Outcome) {
	var digits [20]byte
	switch key.Type() {
	case pcommon.ValueTypeStr:
		return t.find(tenant, key.Str())
	case pcommon.ValueTypeBool:
		return t.find(tenant, strconv.FormatBool(key.Bool()))
	case pcommon.ValueTypeInt:
		b := strconv.AppendInt(digits[:0], key.Int(), 10)
		if row, ok := t.own[tenant][string(b)]; ok {
			return row, Found
		}
		if row, ok := t.everyone[string(b)]; ok {
			return row, Found
		}
		return nil, Missed
	}
	return nil, NoKey
}

func (t *Table) find(tenant, key string) (Row, Outcome) {
	if row, ok := t.own[tenant][key]; ok {
		return row, Found
	}
	if row, ok := t.everyone[key]; ok {
		return row, Found
	}
	return nil, Missed
}

// ValidName tells whether s may name a table or a column: it becomes a part of an attribute's name.
func ValidName(s string) bool {
	if s == "" || len(s) > MaxNameBytes {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' && (c != '.' || i == 0) {
			return false
		}
	}
	return true
}
