package schema

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
)

// valueType is the `type` of an attribute or a body.
type valueType struct {
	base     string // string, int, double, boolean, bytes, map or any
	array    bool
	template bool
	members  []yaml.Node
	custom   *bool // allow_custom_values
}

func (t valueType) String() string {
	s := t.base
	if t.members != nil {
		s = "enum of " + s
	}
	if t.array {
		s += "[]"
	}
	if t.template {
		s = "template[" + s + "]"
	}
	return s
}

func (t valueType) same(o valueType) bool {
	return t.base == o.base && t.array == o.array && t.template == o.template && (t.members == nil) == (o.members == nil)
}

var baseTypes = map[string]string{
	"string": "string", "int": "int", "double": "double", "boolean": "boolean", "any": "any", "undefined": "any", "map": "map",
	"byte": "bytes", "bytes": "bytes", "number": "double",
}

func parseType(n *yaml.Node) (valueType, error) {
	if n.Kind == yaml.MappingNode {
		var e enumDefinition
		if err := n.Decode(&e); err != nil {
			return valueType{}, fmt.Errorf("type: %w", err)
		}
		return enumType(e.Members, e.Custom)
	}
	t := valueType{base: n.Value}
	if inner, ok := strings.CutPrefix(t.base, "template["); ok && strings.HasSuffix(inner, "]") {
		t.template, t.base = true, strings.TrimSuffix(inner, "]")
	}
	if t.base == "byte[]" {
		t.base = "bytes"
	}
	t.base, t.array = strings.CutSuffix(t.base, "[]")
	base, ok := baseTypes[t.base]
	if !ok {
		return t, fmt.Errorf("type: is %q, want string, int, double, boolean, any, one of them with [], template[...] or members", n.Value)
	}
	t.base = base
	return t, nil
}

func enumType(members []enumMember, custom *bool) (valueType, error) {
	if len(members) == 0 {
		return valueType{}, errors.New("type: members: are none")
	}
	t := valueType{custom: custom}
	for _, m := range members {
		base := "string"
		switch m.Value.Tag {
		case "!!int":
			base = "int"
		case "!!bool":
			base = "boolean"
		case "!!float":
			base = "double"
		}
		if t.base != "" && t.base != base {
			base = "string"
		}
		t.base = base
		t.members = append(t.members, m.Value)
	}
	return t, nil
}

// typeSet has a bit for each otlpwire.ValueType that is allowed; 0: any is.
type typeSet uint16

func bit(t otlpwire.ValueType) typeSet { return 1 << t }

func (s typeSet) has(t otlpwire.ValueType) bool { return s == 0 || s&bit(t) != 0 }

// setOf is the values that a base type allows. An int is taken for a double: encoders of some languages write whole numbers so.
func setOf(base string) typeSet {
	switch base {
	case "string":
		return bit(otlpwire.TypeString)
	case "int":
		return bit(otlpwire.TypeInt)
	case "double":
		return bit(otlpwire.TypeDouble) | bit(otlpwire.TypeInt)
	case "boolean":
		return bit(otlpwire.TypeBool)
	case "bytes":
		return bit(otlpwire.TypeBytes)
	case "map":
		return bit(otlpwire.TypeMap)
	}
	return 0
}

// check is what is asked of one attribute's value. It is kept small: most values are judged by key and types alone.
type check struct {
	key      string
	types    typeSet
	items    typeSet // of an array
	pii      bool
	required bool
	ordinal  uint16 // in its table
	more     *more  // nil: no more than the type
}

// more are the checks that few attributes have.
type more struct {
	strings  map[string]struct{}
	ints     map[int64]struct{}
	members  string // for verdicts
	pattern  *regexp.Regexp
	bytesMax int
	min, max float64
	ranged   bool
	fields   *table // of a map
}

// template is a check for all keys that begin with a prefix.
type template struct {
	prefix string
	check  check
}

// table is what is asked of a set of attributes.
type table struct {
	checks    []check
	index     map[string]uint16
	templates []template
	required  []uint16
	pii       bool // at least one attribute is personal data
}

// find returns a key's check; nil: it has none of its own.
func (t *table) find(key []byte) *check {
	if i, ok := t.index[string(key)]; ok {
		return &t.checks[i]
	}
	return nil
}

func (t *table) template(key []byte) *check {
	for i := range t.templates {
		if p := t.templates[i].prefix; len(key) > len(p) && string(key[:len(p)]) == p {
			return &t.templates[i].check
		}
	}
	return nil
}

func compileTable(attrs []attribute, enumsClosed bool) (*table, error) {
	t := &table{index: make(map[string]uint16, len(attrs))}
	for _, a := range attrs {
		c, err := compileCheck(a.key, a.typ, a.note, enumsClosed)
		if err != nil {
			return nil, fmt.Errorf("attribute %q: %w", a.key, err)
		}
		t.pii = t.pii || c.pii
		if a.typ.template {
			t.templates = append(t.templates, template{a.key + ".", c})
			continue
		}
		c.required = a.required
		t.add(c)
	}
	return t, nil
}

func (t *table) add(c check) {
	c.ordinal = uint16(len(t.checks)) // at most maxAttributes
	if c.required {
		t.required = append(t.required, c.ordinal)
	}
	t.index[c.key] = c.ordinal
	t.checks = append(t.checks, c)
}

func compileCheck(key string, typ valueType, note *attributeAnnotation, enumsClosed bool) (check, error) {
	c := check{key: key, types: setOf(typ.base)}
	m := more{}
	if typ.array {
		c.types, c.items = bit(otlpwire.TypeArray), c.types
	}
	if note == nil {
		note = &attributeAnnotation{}
	}
	c.pii = note.PII != nil && *note.PII
	if note.Enum != nil {
		enumsClosed = *note.Enum == closed
	} else if typ.custom != nil {
		enumsClosed = !*typ.custom
	}
	if note.Enum != nil && typ.members == nil {
		return c, errors.New("annotations: pulsegrid: enum: the attribute's type has no members")
	}
	asked := false
	if typ.members != nil && enumsClosed {
		asked = true
		if err := m.enum(typ); err != nil {
			return c, err
		}
	}
	if note.pattern != nil {
		if typ.base != "string" {
			return c, fmt.Errorf("annotations: pulsegrid: pattern: the type is %s, want string", typ)
		}
		asked, m.pattern = true, note.pattern
	}
	if note.BytesMax != nil {
		asked, m.bytesMax = true, *note.BytesMax
	}
	if note.Min != nil || note.Max != nil {
		if typ.base != "int" && typ.base != "double" {
			return c, fmt.Errorf("annotations: pulsegrid: min and max: the type is %s, want int or double", typ)
		}
		asked, m.ranged, m.min, m.max = true, true, math.Inf(-1), math.Inf(1)
		replace(&m.min, note.Min)
		replace(&m.max, note.Max)
	}
	if asked {
		c.more = &m
	}
	return c, nil
}

// expected is the type as verdicts write it.
func (c *check) expected() string {
	if c.types == bit(otlpwire.TypeArray) && c.items != 0 {
		return c.items.String() + "[]"
	}
	return c.types.String()
}

func (s typeSet) String() string {
	switch {
	case s == 0:
		return "any"
	case s.has(otlpwire.TypeDouble):
		return "double"
	}
	for _, t := range [...]otlpwire.ValueType{otlpwire.TypeString, otlpwire.TypeInt, otlpwire.TypeBool, otlpwire.TypeBytes, otlpwire.TypeMap, otlpwire.TypeArray} {
		if s.has(t) {
			return typeName(t)
		}
	}
	return "any"
}

// typeName is a type as the conventions name it.
func typeName(t otlpwire.ValueType) string {
	if t == otlpwire.TypeBool {
		return "boolean"
	}
	return t.String()
}

func (m *more) enum(typ valueType) error {
	if typ.base != "string" && typ.base != "int" {
		return nil // both booleans are members, and doubles are not compared
	}
	var shown []string
	for _, v := range typ.members {
		shown = append(shown, v.Value)
		if typ.base == "int" {
			n, err := strconv.ParseInt(v.Value, 0, 64)
			if err != nil {
				return fmt.Errorf("type: members: value: %w", err)
			}
			if m.ints == nil {
				m.ints = map[int64]struct{}{}
			}
			m.ints[n] = struct{}{}
			continue
		}
		if m.strings == nil {
			m.strings = map[string]struct{}{}
		}
		m.strings[v.Value] = struct{}{}
	}
	m.members = "one of " + strings.Join(shown, ", ")
	return nil
}

// compileBody makes the check of an event's body, and of the fields of a map.
func compileBody(b *bodyDefinition, depth int, enumsClosed bool) (check, error) {
	if depth > maxBodyDepth {
		return check{}, fmt.Errorf("body: fields: nested deeper than %d", maxBodyDepth)
	}
	typ, err := bodyType(b)
	if err != nil {
		return check{}, err
	}
	note, err := readAttributeAnnotation(b.Annotate)
	if err != nil {
		return check{}, err
	}
	c, err := compileCheck(b.ID, typ, note, enumsClosed)
	if err != nil {
		return c, err
	}
	if c.required, err = parseLevel(&b.Level); err != nil {
		return c, err
	}
	if typ.base != "map" || typ.array || len(b.Fields) == 0 {
		return c, nil
	}
	t := &table{index: make(map[string]uint16, len(b.Fields))}
	for i := range b.Fields {
		f, err := compileBody(&b.Fields[i], depth+1, enumsClosed)
		if err != nil {
			return c, fmt.Errorf("field %q: %w", b.Fields[i].ID, err)
		}
		if len(t.checks) >= maxAttributes {
			return c, fmt.Errorf("body: has more than %d fields", maxAttributes)
		}
		t.pii = t.pii || f.pii || f.more != nil && f.more.fields != nil && f.more.fields.pii
		t.add(f)
	}
	c.more = &more{fields: t}
	return c, nil
}

func bodyType(b *bodyDefinition) (valueType, error) {
	if b.Type.Kind == yaml.ScalarNode && b.Type.Value == "enum" {
		return enumType(b.Members, b.Custom)
	}
	if b.Type.Kind == 0 {
		return valueType{base: "any"}, nil
	}
	return parseType(&b.Type)
}
