package otlpwire

import (
	"encoding/binary"
	"math"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Head is what an event says outside of its attributes, read in one pass: for callers that want most of it. Fields that the event's
// signal has not are zero. Slices alias the request.
type Head struct {
	Time, ObservedTime, EndTime uint64 // as the Event's methods of these names
	Name                        []byte // a log record's event name, a span's or a metric's name
	SeverityText                []byte
	TraceState                  []byte
	StatusMessage               []byte
	Kind                        int32 // a span's
	Body                        Value // a log record's
	Number                      Value // a number data point's value: an int, a double, or empty
	Parts                       int   // span events, links or exemplars: see Event.Parts

	event           []byte
	pos             int // as far as it has been read
	firstAttribute  int // where the field of the first attribute begins
	pastAttributes  int // behind the last one's; 0: there is none so far
	attributeField  int32
	untilAttributes bool // reading stops at the first attribute
}

// Attributes iterates over the event's attributes.
func (h *Head) Attributes() Cursor {
	return Attributes{h.event[h.firstAttribute:h.pastAttributes], h.attributeField}.Cursor()
}

// Head reads e into h.
func (e *Event) Head(h *Head) {
	*h = Head{event: e.Bytes, attributeField: e.attributesField()}
	e.head(h)
}

// HeadToAttributes reads into h what comes before e's attributes, and puts c at the first of these, so that they are read once and not twice: c ends at
// the first field that is no attribute as nearly all are written. HeadFrom reads on from there.
func (e *Event) HeadToAttributes(h *Head, c *Cursor) {
	*h = Head{event: e.Bytes, attributeField: e.attributesField(), untilAttributes: true}
	e.head(h)
	c.f.b, c.f.pos, c.field, c.plain = e.Bytes, h.pos, h.attributeField, true
}

// HeadFrom reads into h what comes behind c's attributes. It tells whether c has passed all that e has; h is complete either way.
func (e *Event) HeadFrom(h *Head, c *Cursor) bool {
	h.untilAttributes = false
	if c.f.pos > h.pos {
		h.firstAttribute, h.pastAttributes, h.pos = h.pos, c.f.pos, c.f.pos
	}
	passed := h.pastAttributes
	e.head(h)
	return h.pastAttributes == passed
}

func (e *Event) head(h *Head) {
	switch e.Signal {
	case signal.Logs:
		h.log(e.Bytes)
	case signal.Traces:
		h.span(e.Bytes)
	default:
		h.point(e)
	}
}

// next moves f to the next field, past attributes that are shorter than 128 bytes: most of an event's fields are these.
func (h *Head) next(f *fields) bool {
	b, pos, tag := f.b, f.pos, byte(h.attributeField<<3|wireLen)
	if h.untilAttributes && pos < len(b) && b[pos] == tag {
		h.pos = pos
		return false
	}
	for pos+1 < len(b) && b[pos] == tag && b[pos+1] < 0x80 && pos+2+int(b[pos+1]) <= len(b) {
		pos += 2 + int(b[pos+1])
	}
	if pos > f.pos {
		h.attribute(f.pos, pos)
		f.pos = pos
	}
	if !f.next() {
		h.pos = f.pos
		return false
	}
	return true
}

// attribute notes that attributes lie there.
func (h *Head) attribute(start, end int) {
	if h.pastAttributes == 0 {
		h.firstAttribute = start
	}
	h.pastAttributes = end
}

func (h *Head) log(event []byte) {
	f := fields{b: event, pos: h.pos}
	for {
		// Both times are there in nearly all records: they are read without the detour.
		if b, pos := f.b, f.pos; pos+9 <= len(b) && (b[pos] == 1<<3|wireI64 || b[pos] == 11<<3|wireI64) {
			if at := binary.LittleEndian.Uint64(b[pos+1:]); b[pos] == 1<<3|wireI64 {
				h.Time = at
			} else {
				h.ObservedTime = at
			}
			f.pos += 9
			continue
		}
		if !h.next(&f) {
			return
		}
		switch {
		case f.wire == wireLen:
			switch f.num {
			case 6:
				h.attribute(f.start, f.pos)
			case 3:
				h.SeverityText = f.content()
			case 5:
				h.Body = h.Body.merge(f.content())
			case 12:
				h.Name = f.content()
			}
		case f.wire == wireI64 && f.num == 1: // behind attributes, or with an overlong tag
			h.Time = f.uint()
		case f.wire == wireI64 && f.num == 11:
			h.ObservedTime = f.uint()
		}
	}
}

func (h *Head) span(event []byte) {
	f := fields{b: event, pos: h.pos}
	for h.next(&f) {
		switch {
		case f.wire == wireLen:
			switch f.num {
			case 9:
				h.attribute(f.start, f.pos)
			case 3:
				h.TraceState = f.content()
			case 5:
				h.Name = f.content()
			case 11, 13:
				h.Parts++
			case 15: // merged as messages are: a piece without a message leaves that of the piece before
				g := fields{b: f.content()}
				for g.next() {
					if g.num == 2 && g.wire == wireLen {
						h.StatusMessage = g.content()
					}
				}
			}
		case f.wire == wireI64 && f.num == 7:
			h.Time = f.uint()
		case f.wire == wireI64 && f.num == 8:
			h.EndTime = f.uint()
		case f.wire == wireVarint && f.num == 6:
			h.Kind = int32(f.uint())
		}
	}
}

func (h *Head) point(e *Event) {
	h.Name = e.Metric.Name
	exemplars := e.exemplarsField()
	number := e.Metric.Type == Gauge || e.Metric.Type == Sum
	f := fields{b: e.Bytes, pos: h.pos}
	for h.next(&f) {
		switch {
		case f.wire == wireLen && f.num == h.attributeField:
			h.attribute(f.start, f.pos)
		case f.wire == wireLen && f.num == exemplars:
			h.Parts++
		case f.wire == wireI64 && f.num == 3:
			h.Time = f.uint()
		case f.wire == wireI64 && f.num == 4 && number:
			h.Number = Value{typ: TypeDouble, num: f.uint()}
		case f.wire == wireI64 && f.num == 6 && number:
			h.Number = Value{typ: TypeInt, num: f.uint()}
		}
	}
}

func (e *Event) exemplarsField() int32 {
	switch e.Metric.Type {
	case Gauge, Sum:
		return 5
	case Histogram:
		return 8
	case ExponentialHistogram:
		return 11
	}
	return math.MaxInt32
}

// PartKind is what a part of an event is.
type PartKind uint8

// The kinds of part.
const (
	SpanEvent PartKind = iota
	SpanLink
	Exemplar
)

// String is the name of the field that holds parts of this kind.
func (k PartKind) String() string { return [...]string{"events", "links", "exemplars"}[k] }

// Part is something within an event that has attributes of its own.
type Part struct {
	Kind       PartKind
	Index      int    // among the event's parts of this kind
	Text       []byte // a span event's name, a link's trace state
	Attributes Attributes
}

// Parts calls fn for each part of the event until fn returns false: for span events, then for links, however they were sent; or for exemplars.
func (e *Event) Parts(fn func(Part) bool) {
	switch e.Signal {
	case signal.Traces:
		_ = e.parts(SpanEvent, 11, 2, 3, fn) && e.parts(SpanLink, 13, 3, 4, fn)
	case signal.Metrics:
		e.parts(Exemplar, e.exemplarsField(), 0, 7, fn)
	}
}

// parts are those of one field, with their text and attributes in these fields of theirs.
func (e *Event) parts(kind PartKind, num, text, attributes int32, fn func(Part) bool) bool {
	index := 0
	f := fields{b: e.Bytes}
	for f.next() {
		if f.num != num || f.wire != wireLen {
			continue
		}
		p := Part{Kind: kind, Index: index, Attributes: Attributes{f.content(), attributes}}
		if text != 0 {
			p.Text = lastBytes(f.content(), text)
		}
		index++
		if !fn(p) {
			return false
		}
	}
	return true
}

// Cursor iterates over attributes without a call for each: c := a.Cursor(); for c.Next() { c.Key ... }.
type Cursor struct {
	Key   []byte
	Value Value

	f     fields
	field int32
	plain bool // it ends at the first field that is no attribute as nearly all are written
}

// Cursor returns one that stands before the first attribute.
func (a Attributes) Cursor() Cursor { return Cursor{f: fields{b: a.msg}, field: a.field} }

// Next moves to the next attribute; false: there is none.
func (c *Cursor) Next() bool {
	key, raw, _, ok := c.NextRaw()
	if ok {
		c.Key, c.Value = key, raw.Value()
	}
	return ok
}

// NextRaw moves to the next attribute and returns it with its value not read yet. plain is the value's type where it is written as nearly all are: a
// string shorter than 128 bytes (which is v.Text()), a bool, an int or a double, and nothing else; TypeEmpty says nothing about the value. It is made of
// one piece, and leaves Key and Value as they are, because most of what is done with requests is to walk their attributes.
func (c *Cursor) NextRaw() (key []byte, v RawValue, plain ValueType, ok bool) {
	b, pos := c.f.b, c.f.pos
	if pos+6 <= len(b) && b[pos] == byte(c.field<<3|wireLen) && b[pos+1] < 0x80 {
		end := pos + 2 + int(b[pos+1])
		if m := pos + 4 + int(b[pos+3]); end <= len(b) && b[pos+3] < 0x80 && m+2 <= end && m+2+int(b[m+1]) == end { // two fields, shorter than 128 bytes
			key, v = b[pos+4:m:m], b[m+2:end:end]
			first, second := b[pos+2], b[m]
			if first == 2<<3|wireLen { // as pdata writes it
				key, v, first, second = v, key, second, first
			}
			if first == 1<<3|wireLen && second == 2<<3|wireLen {
				c.f.pos = end
				if len(v) > 1 && v[0] == 1<<3|wireLen && int(v[1]) == len(v)-2 { // plain says the same, and is not inlined
					return key, v, TypeString, true
				}
				return key, v, v.plain(), true
			}
		}
	}
	return c.nextOfAny()
}

func (c *Cursor) nextOfAny() (key []byte, v RawValue, plain ValueType, ok bool) {
	for !c.plain && c.f.next() {
		if c.f.num != c.field || c.f.wire != wireLen {
			continue
		}
		if key, value, ok := usualParts(c.f.content()); ok {
			return key, value, RawValue(value).plain(), true
		}
		key, v = rawKeyValue(c.f.content())
		return key, v, v.plain(), true
	}
	return nil, nil, TypeEmpty, false
}

// rawKeyValue is keyValue without reading the value. A value in pieces is put together: protobuf merges messages by concatenating them.
func rawKeyValue(msg []byte) (key []byte, v RawValue) {
	f := fields{b: msg}
	for f.next() {
		switch {
		case f.num == 1 && f.wire == wireLen:
			key = f.content()
		case f.num == 2 && f.wire == wireLen && v == nil:
			v = f.content() // its capacity ends with it, so that append copies
		case f.num == 2 && f.wire == wireLen:
			v = append(v, f.content()...)
		}
	}
	return key, v
}

// RawValue is an AnyValue message.
type RawValue []byte

// Value reads the value.
func (v RawValue) Value() Value { return Value{}.merge(v) }

// Int of a value of which NextRaw has said that it is a plain int.
func (v RawValue) Int() int64 {
	n, _ := varint(v, 1)
	return int64(n)
}

// Text of a value of which NextRaw has said that it is a plain string.
func (v RawValue) Text() []byte { return v[2:] }

func (v RawValue) plain() ValueType {
	if len(v) < 2 {
		return TypeEmpty
	}
	switch v[0] {
	case 1<<3 | wireLen:
		if int(v[1]) == len(v)-2 && v[1] < 0x80 {
			return TypeString
		}
	case 3<<3 | wireVarint:
		if len(v) == 2 && v[1] < 0x80 || v.oneVarint() {
			return TypeInt
		}
	case 4<<3 | wireI64:
		if len(v) == 9 {
			return TypeDouble
		}
	case 2<<3 | wireVarint:
		if len(v) == 2 && v[1] < 0x80 {
			return TypeBool
		}
	}
	return TypeEmpty
}

// oneVarint tells whether a varint begins behind the first byte and ends with v.
func (v RawValue) oneVarint() bool {
	last := len(v) - 1
	if last > 10 || v[last] >= 0x80 {
		return false
	}
	for _, c := range v[1:last] {
		if c < 0x80 {
			return false
		}
	}
	return true
}
