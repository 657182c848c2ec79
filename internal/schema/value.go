package schema

import (
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
)

// noTable asks for nothing: what remains are the limits.
var noTable = &table{}

// rules are what the attributes of an event of the schema at hand are held against.
func (r *run) rules() (t *table, strict bool) {
	switch s := r.schema; {
	case s == nil:
		return noTable, false
	case s.strict != nil:
		return s.table, *s.strict
	default:
		return s.table, r.strict
	}
}

// readHead reads the event's head. Most events are of the schema of the event before: their attributes are checked by that on the way, so that they are read
// once. It tells whether all of them were seen to be valid so, and by which schema; what else there is to say of them is left to checkAttributes.
func (r *run) readHead(e *otlpwire.Event) (by *Schema, valid bool) {
	if !r.named { // another resource or scope: another schema perhaps
		e.Head(&r.head)
		return nil, false
	}
	t, strict := r.rules()
	r.begins(t)
	e.HeadToAttributes(&r.head, &r.attrs)
	odd := r.pass(t, &r.attrs, strict)
	return r.schema, e.HeadFrom(&r.head, &r.attrs) && !odd
}

// checkAttributes: valid tells that readHead has seen them to be valid by the event's schema.
func (r *run) checkAttributes(valid bool) {
	t, strict := r.rules()
	if valid {
		r.missing(r.schema, t)
		r.tooMany(r.count)
		return
	}
	r.tooMany(r.set(r.schema, t, r.head.Attributes(), strict))
}

// set checks a set of attributes against a table and the limits. It returns how many there are.
func (r *run) set(s *Schema, t *table, attrs otlpwire.Cursor, strict bool) (n int) {
	r.begins(t)
	for r.pass(t, &attrs, strict) {
		r.judge(s, t, strict)
	}
	r.missing(s, t)
	return r.count
}

// begins a set of attributes.
func (r *run) begins(t *table) {
	r.count = 0
	clear(r.seen[:(len(t.checks)+63)/64])
	if t != noTable && r.orderOf != t {
		r.orderOf, r.order, r.strange = t, [maxOrder]*check{}, [maxOrder][]byte{}
	}
}

// odd is an attribute that was not seen to be valid at once.
type odd struct {
	key   []byte
	raw   otlpwire.RawValue
	check *check // nil: it has none of its own
}

// pass moves over the attributes that are seen to be valid at once, which nearly all are. It stops behind the first that is not, r.odd; false: there is none.
func (r *run) pass(t *table, attrs *otlpwire.Cursor, strict bool) bool {
	most, keyMost := orAny(r.limits.ValueBytesMax), orAny(r.limits.KeyBytesMax)
	foreign := !strict && len(t.templates) == 0
	for n := r.count; ; {
		key, raw, plain, ok := attrs.NextRaw()
		if !ok {
			r.count = n
			return false
		}
		var c *check
		switch {
		case t == noTable:
		case n >= maxOrder:
			c = t.find(key)
		default:
			if c = r.order[n]; c == nil || string(key) != c.key {
				c = r.other(t, key, n)
			}
		}
		n++
		if plain != otlpwire.TypeEmpty && (plain != otlpwire.TypeString || textual(raw.Text(), most)) {
			if c == nil {
				if foreign && len(key) > 0 && textual(key, keyMost) {
					continue
				}
			} else if seen, mask := &r.seen[c.ordinal/64], uint64(1)<<(c.ordinal%64); *seen&mask == 0 && c.types.has(plain) && (c.more == nil || c.more.takes(plain, raw)) {
				*seen |= mask
				continue
			}
		}
		r.count, r.odd = n, odd{key, raw, c}
		return true
	}
}

// orAny is a limit; 0 stands for none.
func orAny(most int) int {
	if most <= 0 {
		return math.MaxInt
	}
	return most
}

// judge finds out what is wrong with the odd attribute, if anything is.
func (r *run) judge(s *Schema, t *table, strict bool) {
	a := &r.odd
	if c := a.check; c != nil {
		seen, mask := &r.seen[c.ordinal/64], uint64(1)<<(c.ordinal%64)
		if *seen&mask != 0 {
			r.add(s, Verdict{Code: AttributeDuplicate, Path: r.path(a.key), Expected: "one value"})
		}
		*seen |= mask
		r.checked(place{run: r, schema: s, check: c, key: a.key}, a.raw.Value())
		return
	}
	r.key(a.key)
	if c := t.template(a.key); c != nil {
		r.checked(place{run: r, schema: s, check: c, key: a.key}, a.raw.Value())
		return
	}
	v := a.raw.Value()
	if strict {
		r.add(s, Verdict{Code: AttributeUnknown, Path: r.path(a.key), Expected: "an attribute of the schema", Got: typeName(v.Type())})
	}
	r.value(place{run: r, key: a.key}, v, r.limits.ValueBytesMax)
}

// missing notes what the table requires and the set did not have.
func (r *run) missing(s *Schema, t *table) {
	for _, i := range t.required {
		if r.seen[i/64]&(1<<(i%64)) == 0 {
			r.add(s, Verdict{Code: AttributeMissing, Path: r.path(t.checks[i].key), Expected: t.checks[i].expected()})
		}
	}
}

// textual tells whether a text is at most so long and plainly valid: ASCII, or else what the library says. Nearly all texts are shorter than 32 bytes: these are
// looked at without a loop, whose end the processor would guess wrong, and some of their bytes for the second time.
func textual(s []byte, most int) bool {
	if len(s) > most {
		return false
	}
	var all uint64
	switch n := len(s); {
	case n >= 16:
		i := 0
		for ; i+32 <= n; i += 16 {
			all |= binary.LittleEndian.Uint64(s[i:]) | binary.LittleEndian.Uint64(s[i+8:])
		}
		all |= binary.LittleEndian.Uint64(s[i:]) | binary.LittleEndian.Uint64(s[i+8:]) | binary.LittleEndian.Uint64(s[n-16:]) | binary.LittleEndian.Uint64(s[n-8:])
	case n >= 8:
		all = binary.LittleEndian.Uint64(s) | binary.LittleEndian.Uint64(s[n-8:])
	case n >= 4:
		all = uint64(binary.LittleEndian.Uint32(s) | binary.LittleEndian.Uint32(s[n-4:]))
	case n > 0:
		all = uint64(s[0] | s[n/2] | s[n-1])
	}
	return all&0x8080808080808080 == 0 || utf8.Valid(s)
}

// other is the check of a key that is an event's n-th, and not the one that it was last; nil: the table has none.
func (r *run) other(t *table, key []byte, n int) *check {
	if r.order[n] == nil && len(key) > 0 && string(key) == string(r.strange[n]) {
		return nil
	}
	c := t.find(key)
	if r.order[n] = c; c == nil {
		r.strange[n] = key
	}
	return c
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
		v := raw.Int()
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
		c := t.find(entries.Key)
		if c == nil {
			continue // events may grow
		}
		seen[c.ordinal] = true
		q := place{run: p.run, schema: p.schema, check: c, key: p.key, body: p.body, within: p.within + "[" + quote(entries.Key) + "]", pii: p.pii || c.pii}
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
		c := v.Map().Cursor()
		for c.Next() {
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
	if r.schema == nil || r.schema.body == nil {
		if v.Type() != otlpwire.TypeEmpty && (v.Type() != otlpwire.TypeString || !textual(v.Bytes(), orAny(r.limits.BodyBytesMax))) {
			r.value(place{run: r, body: true}, v, r.limits.BodyBytesMax)
		}
		return
	}
	p := place{run: r, schema: r.schema, check: r.schema.body, body: true}
	if v.Type() == otlpwire.TypeEmpty {
		if p.check.required {
			p.add(BodyMissing, p.check.expected(), "")
		}
		return
	}
	r.checked(p, v)
}
