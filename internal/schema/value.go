package schema

import (
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
)

func (r *run) checkAttributes(h *otlpwire.Head) {
	s := r.schema
	if s == nil {
		r.tooMany(r.set(nil, nil, h.Attributes(), false))
		return
	}
	strict := r.strict
	if s.strict != nil {
		strict = *s.strict
	}
	r.tooMany(r.set(s, s.table, h.Attributes(), strict))
}

// set checks a set of attributes against a table and the limits, or without a table against the limits alone. It returns how many there are.
func (r *run) set(s *Schema, t *table, attrs otlpwire.Cursor, strict bool) (n int) {
	most := r.limits.ValueBytesMax
	if most <= 0 {
		most = math.MaxInt
	}
	if t == nil {
		return r.limited(attrs, most)
	}
	if r.orderOf != t {
		r.orderOf, r.order, r.strange = t, [maxOrder]uint16{}, [maxOrder][]byte{}
	}
	clear(r.seen[:(len(t.checks)+63)/64])
	for {
		key, raw, plain, ok := attrs.NextRaw()
		if !ok {
			break
		}
		var i int
		if n < maxOrder {
			if last := r.order[n]; last > 0 && string(key) == t.checks[last-1].key {
				i = int(last) - 1
			} else {
				i = r.ordinal(t, key, n)
			}
		} else {
			i = t.find(key)
		}
		n++
		if i < 0 {
			r.foreign(s, t, key, raw, plain, strict)
			continue
		}
		c := &t.checks[i]
		word, mask := i/64, uint64(1)<<(i%64)
		if r.seen[word]&mask != 0 {
			r.add(s, Verdict{Code: AttributeDuplicate, Path: r.path(key), Expected: "one value"})
		}
		r.seen[word] |= mask
		// Nearly all values are seen to be valid here. What is not is looked at again, for what is wrong with it.
		if plain != otlpwire.TypeEmpty && c.types.has(plain) && (plain != otlpwire.TypeString || textual(raw.Text(), most)) && (c.more == nil || c.more.takes(plain, raw)) {
			continue
		}
		r.checked(place{run: r, schema: s, check: c, key: key}, raw.Value())
	}
	for _, i := range t.required {
		if r.seen[i/64]&(1<<(i%64)) == 0 {
			r.add(s, Verdict{Code: AttributeMissing, Path: r.path(t.checks[i].key), Expected: t.checks[i].expected()})
		}
	}
	return n
}

// limited is set without a table.
func (r *run) limited(attrs otlpwire.Cursor, most int) (n int) {
	for {
		key, raw, plain, ok := attrs.NextRaw()
		if !ok {
			return n
		}
		n++
		if len(key) == 0 || !textual(key, r.limits.KeyBytesMax) {
			r.key(key)
		}
		if plain == otlpwire.TypeEmpty || plain == otlpwire.TypeString && !textual(raw.Text(), most) {
			r.value(place{run: r, key: key}, raw.Value(), r.limits.ValueBytesMax)
		}
	}
}

// textual tells whether a text is at most so long and plainly valid: ASCII, eight bytes at a time, or else what the library says.
func textual(s []byte, most int) bool {
	if len(s) > most {
		return false
	}
	i := 0
	for ; i+8 <= len(s); i += 8 {
		if binary.LittleEndian.Uint64(s[i:])&0x8080808080808080 != 0 {
			return utf8.Valid(s)
		}
	}
	if i > 0 && i < len(s) { // the last eight bytes, some of them for the second time
		if binary.LittleEndian.Uint64(s[len(s)-8:])&0x8080808080808080 != 0 {
			return utf8.Valid(s)
		}
		return true
	}
	for ; i < len(s); i++ {
		if s[i] >= 0x80 {
			return utf8.Valid(s)
		}
	}
	return true
}

// ordinal of the check of a key that is an event's n-th, and not the one that it was last; -1: the table has none.
func (r *run) ordinal(t *table, key []byte, n int) int {
	if r.order[n] == 0 && len(key) > 0 && string(key) == string(r.strange[n]) {
		return -1
	}
	i := t.find(key)
	if r.order[n] = uint16(i + 1); i < 0 {
		r.strange[n] = key
	}
	return i
}

// takes tells whether a scalar is valid as far as can be told at once.
func (m *more) takes(typ otlpwire.ValueType, raw otlpwire.RawValue) bool {
	switch typ {
	case otlpwire.TypeString:
		text := raw.Text()
		if m.bytesMax > 0 && len(text) > m.bytesMax || m.pattern != nil && !m.pattern.Match(text) {
			return false
		}
		if m.strings != nil {
			_, ok := m.strings[string(text)]
			return ok
		}
		return true
	case otlpwire.TypeInt:
		v := raw.Value().Int()
		if m.ints != nil {
			if _, ok := m.ints[v]; !ok {
				return false
			}
		}
		return !m.ranged || float64(v) >= m.min && float64(v) <= m.max
	case otlpwire.TypeDouble:
		if !m.ranged {
			return true
		}
		v := raw.Value().Double()
		return v >= m.min && v <= m.max
	}
	return true
}

// foreign is an attribute that the table has no check of its own for.
func (r *run) foreign(s *Schema, t *table, key []byte, raw otlpwire.RawValue, plain otlpwire.ValueType, strict bool) {
	if len(key) == 0 || !textual(key, r.limits.KeyBytesMax) {
		r.key(key)
	}
	if c := t.template(key); c != nil {
		r.checked(place{run: r, schema: s, check: c, key: key}, raw.Value())
		return
	}
	if strict {
		r.add(s, Verdict{Code: AttributeUnknown, Path: r.path(key), Expected: "an attribute of the schema", Got: typeName(raw.Value().Type())})
	}
	if plain == otlpwire.TypeEmpty || plain == otlpwire.TypeString && !textual(raw.Text(), r.limits.ValueBytesMax) {
		r.value(place{run: r, key: key}, raw.Value(), r.limits.ValueBytesMax)
	}
}

func (r *run) key(key []byte) {
	if r.schemaOnly {
		return
	}
	switch most := r.limits.KeyBytesMax; {
	case len(key) == 0:
		r.add(nil, Verdict{Code: KeyEmpty, Path: r.path(key), Expected: "a key"})
	case most > 0 && len(key) > most:
		r.add(nil, Verdict{Code: KeyTooLong, Path: r.path(key), Expected: "at most " + strconv.Itoa(most) + " bytes", Got: strconv.Itoa(len(key)) + " bytes"})
	}
	if !utf8.Valid(key) {
		r.add(nil, Verdict{Code: InvalidUTF8, Path: r.path(key), Expected: "a key in UTF-8", Got: strconv.Itoa(len(key)) + " bytes"})
	}
}

func (r *run) path(key any) string {
	switch k := key.(type) {
	case []byte:
		return r.at + "attributes[" + quote(k) + "]"
	case string:
		return r.at + "attributes[" + quote(k) + "]"
	}
	return r.at
}

// quote is the beginning of a text in quotes; bytes that are no text are escaped.
func quote[T string | []byte](s T) string {
	if len(s) > maxTextBytes {
		return strconv.Quote(string(s[:maxTextBytes])) + "…"
	}
	return strconv.Quote(string(s))
}

// place is where a value is: in an attribute of that key, or in the body, and there within arrays and maps.
type place struct {
	run    *run
	schema *Schema // nil: only limits are checked
	check  *check
	key    []byte
	body   bool
	within string // from the attribute or body on
	pii    bool
}

func (p *place) path() string {
	if p.body {
		return p.run.at + "body" + p.within
	}
	return p.run.path(p.key) + p.within
}

func (p *place) add(code Code, expected, got string) {
	p.run.add(p.schema, Verdict{Code: code, Path: p.path(), Expected: expected, Got: got})
}

// checked holds a value against its check and the limits.
func (r *run) checked(p place, v otlpwire.Value) {
	c := p.check
	p.pii = p.pii || c.pii
	most := r.limits.ValueBytesMax
	if p.body {
		most = r.limits.BodyBytesMax
	}
	if c.more != nil && c.more.bytesMax > 0 {
		most = c.more.bytesMax
	}
	r.value(place{run: r, key: p.key, body: p.body, within: p.within}, v, most)
	typ := v.Type()
	if !c.types.has(typ) {
		code := AttributeType
		if p.body && p.within == "" {
			code = BodyType
		}
		p.add(code, c.expected(), p.show(v))
		return
	}
	if typ == otlpwire.TypeArray {
		p.items(v)
		return
	}
	p.scalar(v)
}

// items checks each value of an array. Items are checked until one is at fault: an array is wrong as a whole.
func (p *place) items(v otlpwire.Value) {
	c := p.check
	if c.items == 0 && c.more == nil {
		return
	}
	i := 0
	for item := range v.Items() {
		q := *p
		q.within += "[" + strconv.Itoa(i) + "]"
		if !c.items.has(item.Type()) {
			q.add(AttributeType, c.items.String(), q.show(item))
			return
		}
		before := len(p.run.verdicts)
		q.scalar(item)
		if len(p.run.verdicts) > before {
			return
		}
		i++
	}
}

// scalar holds a value of the right type against what else is asked of it.
func (p *place) scalar(v otlpwire.Value) {
	m := p.check.more
	if m == nil {
		return
	}
	switch v.Type() {
	case otlpwire.TypeString:
		if m.strings != nil {
			if _, ok := m.strings[string(v.Bytes())]; !ok {
				p.add(AttributeEnum, m.members, p.show(v))
			}
		}
		if m.pattern != nil && !m.pattern.Match(v.Bytes()) {
			p.add(AttributePattern, "a match of "+m.pattern.String(), p.show(v))
		}
	case otlpwire.TypeInt:
		if m.ints != nil {
			if _, ok := m.ints[v.Int()]; !ok {
				p.add(AttributeEnum, m.members, p.show(v))
			}
		}
		p.ranged(float64(v.Int()), v)
	case otlpwire.TypeDouble:
		p.ranged(v.Double(), v)
	case otlpwire.TypeMap:
		if m.fields != nil {
			p.fields(v.Map().Cursor())
		}
	}
}

func (p *place) ranged(x float64, v otlpwire.Value) {
	m := p.check.more
	if !m.ranged || x >= m.min && x <= m.max {
		return
	}
	expected := "at most " + strconv.FormatFloat(m.max, 'g', -1, 64)
	switch {
	case !math.IsInf(m.min, -1) && !math.IsInf(m.max, 1):
		expected = strconv.FormatFloat(m.min, 'g', -1, 64) + " to " + strconv.FormatFloat(m.max, 'g', -1, 64)
	case !math.IsInf(m.min, -1):
		expected = "at least " + strconv.FormatFloat(m.min, 'g', -1, 64)
	}
	p.add(AttributeRange, expected, p.show(v))
}

// fields checks the fields of a map in a body.
func (p *place) fields(entries otlpwire.Cursor) {
	t := p.check.more.fields
	seen := make([]bool, len(t.checks))
	for entries.Next() {
		i := t.find(entries.Key)
		if i < 0 {
			continue // events may grow
		}
		seen[i] = true
		q := place{run: p.run, schema: p.schema, check: &t.checks[i], key: p.key, body: p.body, within: p.within + "[" + quote(entries.Key) + "]", pii: p.pii || t.checks[i].pii}
		if typ := entries.Value.Type(); !q.check.types.has(typ) {
			q.add(AttributeType, q.check.expected(), q.show(entries.Value))
		} else if typ == otlpwire.TypeArray {
			q.items(entries.Value)
		} else {
			q.scalar(entries.Value)
		}
	}
	for _, i := range t.required {
		if !seen[i] {
			q := place{run: p.run, schema: p.schema, key: p.key, body: p.body, within: p.within + "[" + quote(t.checks[i].key) + "]"}
			q.add(AttributeMissing, t.checks[i].expected(), "")
		}
	}
}

// show is a value for a verdict: its type, and where it is not personal data its beginning.
func (p *place) show(v otlpwire.Value) string {
	name := typeName(v.Type())
	switch v.Type() {
	case otlpwire.TypeString:
		if p.pii {
			return name + " of " + strconv.Itoa(len(v.Bytes())) + " bytes"
		}
		return name + " " + quote(v.Bytes())
	case otlpwire.TypeInt, otlpwire.TypeDouble, otlpwire.TypeBool:
		if p.pii {
			return name
		}
		if v.Type() == otlpwire.TypeBool {
			return name + " " + strconv.FormatBool(v.Bool())
		}
		return name + " " + number(v)
	}
	return name
}

func number(v otlpwire.Value) string {
	if v.Type() == otlpwire.TypeInt {
		return strconv.FormatInt(v.Int(), 10)
	}
	return strconv.FormatFloat(v.Double(), 'g', -1, 64)
}

// value holds any value against the limits: bytes, depth, UTF-8.
func (r *run) value(p place, v otlpwire.Value, most int) {
	if r.schemaOnly {
		return
	}
	switch v.Type() {
	case otlpwire.TypeString:
		b := v.Bytes()
		if most > 0 && len(b) > most {
			r.tooLong(&p, len(b), most)
		}
		if !utf8.Valid(b) {
			p.add(InvalidUTF8, "UTF-8", strconv.Itoa(len(b))+" bytes")
		}
	case otlpwire.TypeBytes:
		if n := len(v.Bytes()); most > 0 && n > most {
			r.tooLong(&p, n, most)
		}
	case otlpwire.TypeArray, otlpwire.TypeMap:
		if n := len(v.Bytes()); most > 0 && n > most {
			r.tooLong(&p, n, most)
		}
		r.nested(&p, v, 1)
	}
}

func (r *run) tooLong(p *place, n, most int) {
	code := ValueTooLong
	if p.body {
		code = BodyTooLarge
	}
	p.add(code, "at most "+strconv.Itoa(most)+" bytes", strconv.Itoa(n)+" bytes")
}

// hardDepth bounds the recursion where no limit is set; otlpwire.Count allows less in envelopes.
const hardDepth = 1000

// nested looks into an array or a map at that depth. It stops at the first fault: one verdict is enough of a value, and an attacker shall not
// make many of one. It returns false then.
func (r *run) nested(p *place, v otlpwire.Value, depth int) bool {
	switch v.Type() {
	case otlpwire.TypeString:
		if !utf8.Valid(v.Bytes()) {
			p.add(InvalidUTF8, "UTF-8 within", strconv.Itoa(len(v.Bytes()))+" bytes")
			return false
		}
	case otlpwire.TypeArray, otlpwire.TypeMap:
		if most := r.limits.DepthMax; most > 0 && depth >= most || depth >= hardDepth {
			p.add(TooDeep, "at most "+strconv.Itoa(most)+" levels", "more")
			return false
		}
		if v.Type() == otlpwire.TypeArray {
			for item := range v.Items() {
				if !r.nested(p, item, depth+1) {
					return false
				}
			}
			return true
		}
		for c := v.Map().Cursor(); c.Next(); {
			if !utf8.Valid(c.Key) {
				p.add(InvalidUTF8, "keys in UTF-8 within", strconv.Itoa(len(c.Key))+" bytes")
				return false
			}
			if !r.nested(p, c.Value, depth+1) {
				return false
			}
		}
	}
	return true
}

// checkBody holds a log record's body against the schema and the limits.
func (r *run) checkBody(h *otlpwire.Head) {
	if r.kind != eventGroup {
		return
	}
	v := h.Body
	p := place{run: r, body: true}
	if r.schema == nil || r.schema.body == nil {
		if v.Type() != otlpwire.TypeEmpty {
			r.value(p, v, r.limits.BodyBytesMax)
		}
		return
	}
	p.schema, p.check = r.schema, r.schema.body
	if v.Type() == otlpwire.TypeEmpty {
		if p.check.required {
			p.add(BodyMissing, p.check.expected(), "")
		}
		return
	}
	r.checked(p, v)
}
