package lookup

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/pulsegrid/pulsegrid/internal/enriched"
)

// TenantColumn is the column that makes a row one of a tenant's own.
const TenantColumn = "tenant_id"

// Suffixes of files that hold tables.
const (
	csvSuffix  = ".csv"
	jsonSuffix = ".jsonl"
)

// Types of a CSV column, behind its name.
const (
	typeString = "string"
	typeInt    = "int"
	typeDouble = "double"
	typeBool   = "bool"
)

const maxQuoted = 80 // bytes of a value that an error quotes

// FileError is what is wrong with a table's file. The file as a whole is refused.
type FileError struct {
	File   string
	Line   int    // 0: the file as a whole
	Column string // empty: the line as a whole
	Value  string
	Reason string
}

func (e *FileError) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Column != "" {
		b.WriteString(": column " + e.Column)
	}
	if e.Value != "" {
		fmt.Fprintf(&b, ": %q", e.Value[:min(len(e.Value), maxQuoted)])
	}
	return b.String() + ": " + e.Reason
}

// parse reads a file whose name ends with one of the suffixes.
func parse(spec Spec, file string, content []byte) (*Table, error) {
	p := &parser{spec: spec, file: file, table: &Table{everyone: rows{}, own: map[string]rows{}}, attributes: map[string]string{}, texts: map[string]string{}}
	content = bytes.TrimPrefix(content, []byte("\uFEFF"))
	read := p.csv
	if strings.HasSuffix(file, jsonSuffix) {
		read = p.json
	}
	if err := read(content); err != nil {
		return nil, err
	}
	return p.table, nil
}

type parser struct {
	spec       Spec
	file       string
	line       int
	table      *Table
	cells      int
	attributes map[string]string // by column; without key and tenant
	texts      map[string]string // values of which many rows have the same
	row        Row
}

func (p *parser) bad(column, value, reason string, args ...any) error {
	return &FileError{File: p.file, Line: p.line, Column: column, Value: value, Reason: fmt.Sprintf(reason, args...)}
}

// column returns the attribute of a column that is neither key nor tenant.
func (p *parser) column(name string) (string, error) {
	if a, ok := p.attributes[name]; ok {
		return a, nil
	}
	if !ValidName(name) {
		return "", p.bad("", name, "is no column: want at most %d of letters, digits, _, - and . for its name", MaxNameBytes)
	}
	if len(p.attributes) == MaxColumns {
		return "", p.bad(name, "", "is more than %d columns", MaxColumns)
	}
	a := enriched.OfTable(p.spec.Table, strings.Clone(name))
	p.attributes[name] = a
	return a, nil
}

// add takes the row that was read.
func (p *parser) add(tenant, key string) error {
	switch {
	case key == "":
		return p.bad(p.spec.Key, "", "has no key: give the row one, or take it out")
	case len(key) > MaxKeyBytes:
		return p.bad(p.spec.Key, key, "is a key of more than %d bytes", MaxKeyBytes)
	case !utf8.ValidString(key):
		return p.bad(p.spec.Key, key, "is no UTF-8")
	}
	if p.table.n++; p.table.n > MaxRows {
		return p.bad("", "", "more than %d rows", MaxRows)
	}
	if p.cells += len(p.row); p.cells > MaxCells {
		return p.bad("", "", "more than %d values", MaxCells)
	}
	into := p.table.everyone
	if tenant != "" {
		if into = p.table.own[tenant]; into == nil {
			into = rows{}
			p.table.own[strings.Clone(tenant)] = into
		}
	}
	if _, twice := into[key]; twice {
		return p.bad(p.spec.Key, key, "is there twice")
	}
	into[strings.Clone(key)] = slices.Clone(p.row)
	p.row = p.row[:0]
	return nil
}

// text adds a text to the row.
func (p *parser) text(attribute, column, s string) error {
	if len(s) > MaxValueBytes {
		return p.bad(column, s, "is longer than %d bytes", MaxValueBytes)
	}
	if !utf8.ValidString(s) {
		return p.bad(column, s, "is no UTF-8")
	}
	own, known := p.texts[s]
	if !known {
		own = strings.Clone(s)
		p.texts[own] = own
	}
	p.row = append(p.row, Attribute{Name: attribute, value: pcommon.ValueTypeStr, text: own})
	return nil
}

func (p *parser) number(attribute string, kind pcommon.ValueType, bits int64) {
	p.row = append(p.row, Attribute{Name: attribute, value: kind, bits: bits})
}

func double(bits int64) float64 { return math.Float64frombits(uint64(bits)) }

// csvColumn is a column of a CSV file.
type csvColumn struct {
	name, attribute, typ string // attribute is empty for key and tenant
}

func (p *parser) csv(content []byte) error {
	r := csv.NewReader(bytes.NewReader(content))
	r.ReuseRecord = true
	header, err := r.Read()
	p.line = 1
	if errors.Is(err, io.EOF) {
		return p.bad("", "", "is empty, want a line with the names of the columns")
	}
	if err != nil {
		return p.csvError(err)
	}
	columns, key, tenant, err := p.header(header)
	if err != nil {
		return err
	}
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return p.csvError(err)
		}
		p.line, _ = r.FieldPos(0)
		for i, c := range columns {
			if c.attribute == "" || record[i] == "" {
				continue
			}
			if err := p.csvValue(c, record[i]); err != nil {
				return err
			}
		}
		of := ""
		if tenant >= 0 {
			of = record[tenant]
		}
		if err := p.add(of, record[key]); err != nil {
			return err
		}
	}
}

func (p *parser) csvError(err error) error {
	if pe, ok := errors.AsType[*csv.ParseError](err); ok {
		p.line = pe.Line
		err = pe.Err
	}
	return p.bad("", "", "is no CSV: %v", err)
}

func (p *parser) header(header []string) (columns []csvColumn, key, tenant int, err error) {
	key, tenant = -1, -1
	for i, h := range header {
		name, typ, typed := strings.Cut(strings.TrimSpace(h), ":")
		c := csvColumn{name: strings.Clone(name), typ: typeString}
		if typed {
			c.typ = strings.Clone(typ)
		}
		if slices.ContainsFunc(columns, func(o csvColumn) bool { return o.name == name }) {
			return nil, 0, 0, p.bad(name, "", "is there twice")
		}
		switch name {
		case p.spec.Key:
			key = i
		case TenantColumn:
			tenant = i
		default:
			if !slices.Contains([]string{typeString, typeInt, typeDouble, typeBool}, c.typ) {
				return nil, 0, 0, p.bad(name, c.typ, "is no type, want string, int, double or bool")
			}
			if c.attribute, err = p.column(c.name); err != nil {
				return nil, 0, 0, err
			}
		}
		columns = append(columns, c)
	}
	if key < 0 {
		return nil, 0, 0, p.bad("", "", "has no column %q, which the configuration names as the key", p.spec.Key)
	}
	return columns, key, tenant, nil
}

func (p *parser) csvValue(c csvColumn, s string) error {
	switch c.typ {
	case typeInt:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return p.bad(c.name, s, "is no integer of 64 bits")
		}
		p.number(c.attribute, pcommon.ValueTypeInt, n)
	case typeDouble:
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return p.bad(c.name, s, "is no finite number")
		}
		p.number(c.attribute, pcommon.ValueTypeDouble, int64(math.Float64bits(f)))
	case typeBool:
		switch s {
		case "true":
			p.number(c.attribute, pcommon.ValueTypeBool, 1)
		case "false":
			p.number(c.attribute, pcommon.ValueTypeBool, 0)
		default:
			return p.bad(c.name, s, "is neither true nor false")
		}
	default:
		return p.text(c.attribute, c.name, s)
	}
	return nil
}

// json reads one object a line; empty lines are passed over.
func (p *parser) json(content []byte) error {
	for line := range bytes.Lines(content) {
		p.line++
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if err := p.object(line); err != nil {
			return err
		}
	}
	if p.table.n == 0 {
		p.line = 0
		return p.bad("", "", "is empty, want a JSON object a line")
	}
	return nil
}

func (p *parser) object(line []byte) error {
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.UseNumber()
	var object map[string]any
	if err := dec.Decode(&object); err != nil {
		return p.bad("", string(line), "is no JSON object: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) || object == nil {
		return p.bad("", string(line), "is not one JSON object")
	}
	key, tenant := "", ""
	for name, v := range object {
		switch name {
		case p.spec.Key:
			switch v := v.(type) {
			case string:
				key = v
			case json.Number:
				if _, err := v.Int64(); err != nil {
					return p.bad(name, v.String(), "is no key: want a string or an integer")
				}
				key = v.String()
			default:
				return p.bad(name, fmt.Sprint(v), "is no key: want a string or an integer")
			}
		case TenantColumn:
			var ok bool
			if tenant, ok = v.(string); !ok && v != nil {
				return p.bad(name, fmt.Sprint(v), "is not a tenant id: want a string")
			}
		default:
			attribute, err := p.column(name)
			if err != nil {
				return err
			}
			if err := p.jsonValue(attribute, name, v); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(p.row, func(a, b Attribute) int { return strings.Compare(a.Name, b.Name) }) // objects have no order
	return p.add(tenant, key)
}

func (p *parser) jsonValue(attribute, column string, v any) error {
	switch v := v.(type) {
	case nil:
	case string:
		return p.text(attribute, column, v)
	case bool:
		bits := int64(0)
		if v {
			bits = 1
		}
		p.number(attribute, pcommon.ValueTypeBool, bits)
	case json.Number:
		if n, err := v.Int64(); err == nil {
			p.number(attribute, pcommon.ValueTypeInt, n)
			return nil
		}
		f, err := v.Float64()
		if err != nil || math.IsInf(f, 0) {
			return p.bad(column, v.String(), "is no number of 64 bits")
		}
		p.number(attribute, pcommon.ValueTypeDouble, int64(math.Float64bits(f)))
	default:
		return p.bad(column, fmt.Sprint(v), "is an array or an object: want a string, a number or a boolean")
	}
	return nil
}
