package otlpjson

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// parser reads one request. Whatever it writes of a message that turns out to be wrong is cut off again.
type parser struct {
	b      []byte
	pos    int
	depth  int // of JSON
	limits Limits

	written   []byte // protobuf
	reserved  int    // bytes of the buffers, as far as they are accounted for
	unescaped []byte // of the last text that had an escape
	parts     []part // of the messages that are open, outermost first
	scratch   []byte

	events   int // seen, rejected ones too
	lists    []list
	rejected []Rejected
	unknown  string // the first name that OTLP does not have
}

// list is where a list of events lies in the body: b[from:to] are its items.
type list struct{ from, to int }

// wrong is the error for a value of another kind than its field has. The value is not read: whoever rejects its event does.
func (p *parser) wrong(want string) error {
	if p.pos >= len(p.b) {
		return p.unexpected(want)
	}
	got := p.b[p.pos:min(len(p.b), p.pos+12)]
	return &valueError{text: "want " + want + ", got " + quoted(got)}
}

// message writes the fields of a message; pos is at its value.
func (p *parser) message(m *message) error {
	switch p.space() {
	case '{':
	case 'n':
		if p.literal("null") { // in a list: an empty message
			return nil
		}
		fallthrough
	default:
		return p.wrong("an object")
	}
	first := len(p.parts)
	defer func() { p.parts = p.parts[:first] }()
	err := p.members(func(name []byte) error {
		f := m.fields[string(name)]
		if f == nil {
			if p.unknown == "" {
				p.unknown = quoted(name)
			}
			return p.skip()
		}
		if p.pos < len(p.b) && p.b[p.pos] == 'n' && p.literal("null") { // as if it were not there
			return nil
		}
		before := len(p.written)
		err := p.field(f)
		if e := valueErrorOf(err); e != nil {
			return e.in(f.name)
		}
		if len(p.written) > before {
			p.parts = append(p.parts, part{f.rank, before, len(p.written)})
		}
		return err
	})
	if err == nil {
		p.order(m, first)
	}
	return err
}

func (p *parser) field(f *field) error {
	switch {
	case !f.repeated:
		return p.single(f)
	case p.space() != '[':
		return p.wrong("a list")
	case f.events:
		return p.eventList(f)
	case f.packed:
		before := len(p.written)
		start := p.begin(f.num, 1)
		err := p.items(func(i int) error { return at(i, p.scalar(f)) })
		if len(p.written) == start {
			p.written = p.written[:before]
			return err
		}
		p.end(start, 1)
		return err
	}
	return p.items(func(i int) error { return at(i, p.item(f)) })
}

func at(i int, err error) error {
	if e := valueErrorOf(err); e != nil {
		return e.in("[" + strconv.Itoa(i) + "]")
	}
	return err
}

// item writes one of a list.
func (p *parser) item(f *field) error {
	if f.of == nil {
		return p.value(f)
	}
	reserve := 1
	if p.depth <= wrapperDepth {
		reserve = protowire.SizeVarint(uint64(len(p.b)-p.pos) / 2)
	}
	start := p.begin(f.num, reserve)
	err := p.message(f.of)
	p.end(start, reserve)
	return err
}

// wrapperDepth is how deep messages lie that hold events: what is written of them is long.
const wrapperDepth = 4

func (p *parser) single(f *field) error {
	if f.of != nil {
		return p.item(f)
	}
	before := len(p.written)
	if err := p.value(f); err != nil {
		return err
	}
	if !f.present && p.isZero(before) {
		p.written = p.written[:before]
	}
	return nil
}

// isZero tells whether the field that was written from there on has a value that protobuf leaves out.
func (p *parser) isZero(from int) bool {
	num, wire, n := protowire.ConsumeTag(p.written[from:])
	if num <= 0 {
		return false
	}
	content := p.written[from+n:]
	if wire == protowire.BytesType {
		return len(content) == 1
	}
	return len(bytes.Trim(content, "\x00")) == 0
}

// eventList writes events. One that has a wrong value is left out.
func (p *parser) eventList(f *field) error {
	of := len(p.lists)
	p.lists = append(p.lists, list{from: p.pos + 1})
	err := p.items(func(i int) error {
		if p.events++; p.events > p.limits.MaxEvents {
			return fmt.Errorf("%w: %d at byte %d, at most %d are allowed", ErrTooManyEvents, p.events, p.pos, p.limits.MaxEvents)
		}
		before, start, depth := len(p.written), p.pos, p.depth
		err := at(i, p.item(f))
		if e := valueErrorOf(err); e != nil {
			p.written, p.pos, p.depth = p.written[:before], start, depth
			if err := p.skip(); err != nil { // it may still be no JSON
				return err
			}
			p.rejected = append(p.rejected, Rejected{Event: p.events - 1, Reason: e.in(f.name).Error(), list: of, from: start, to: p.pos})
			return p.reserve(rejectedBytes)
		} else if err != nil {
			return err
		}
		return p.reserve(0)
	})
	p.lists[of].to = p.pos - 1
	return err
}

// rejectedBytes is more than a rejected event takes.
const rejectedBytes = 512

// reserve accounts for what has been written, and more.
func (p *parser) reserve(more int) error {
	buffers := cap(p.written) + cap(p.scratch) + cap(p.unescaped)
	grown := max(buffers-p.reserved, 0) + more
	if grown > 0 && !p.limits.Reserve(grown) {
		return ErrMemory
	}
	p.reserved = max(p.reserved, buffers)
	return nil
}

// begin writes the tag of a length-delimited field, and leaves so many bytes for its length. It returns where the content begins.
func (p *parser) begin(num protowire.Number, reserve int) int {
	p.written = protowire.AppendTag(p.written, num, protowire.BytesType)
	for range reserve {
		p.written = append(p.written, 0)
	}
	return len(p.written)
}

// end writes the length. The content is moved where that takes other than what was left.
func (p *parser) end(start, reserved int) {
	size := len(p.written) - start
	n := protowire.SizeVarint(uint64(size))
	if n != reserved {
		for range n - reserved {
			p.written = append(p.written, 0)
		}
		copy(p.written[start-reserved+n:], p.written[start:start+size])
		p.written = p.written[:start-reserved+n+size]
	}
	protowire.AppendVarint(p.written[:start-reserved], uint64(size))
}

// value writes a field that is no message and no packed list.
func (p *parser) value(f *field) error {
	switch f.kind {
	case protoreflect.StringKind, protoreflect.BytesKind:
		if p.space() != '"' {
			return p.wrong("a text")
		}
		text, err := p.text()
		if err != nil {
			return err
		}
		p.written = protowire.AppendTag(p.written, f.num, protowire.BytesType)
		switch {
		case f.kind == protoreflect.StringKind:
			p.written = protowire.AppendBytes(p.written, text)
			return nil
		case f.id > 0:
			return p.idOf(text, f.id)
		}
		return p.base64(text)
	case protoreflect.Fixed32Kind:
		p.written = protowire.AppendTag(p.written, f.num, protowire.Fixed32Type)
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		p.written = protowire.AppendTag(p.written, f.num, protowire.Fixed64Type)
	default:
		p.written = protowire.AppendTag(p.written, f.num, protowire.VarintType)
	}
	return p.scalar(f)
}

// scalar writes a number without its tag.
func (p *parser) scalar(f *field) error {
	var v uint64
	var err error
	switch f.kind {
	case protoreflect.BoolKind:
		switch {
		case p.literal("true"):
			v = 1
		case !p.literal("false"):
			return p.wrong("true or false")
		}
	case protoreflect.EnumKind:
		v, err = p.enum(f.enum)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind:
		v, err = p.integer(32, true)
	case protoreflect.Int64Kind, protoreflect.Sfixed64Kind:
		v, err = p.integer(64, true)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		v, err = p.integer(32, false)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		v, err = p.integer(64, false)
	case protoreflect.DoubleKind:
		var d float64
		d, err = p.double()
		v = math.Float64bits(d)
	default: // a kind that OTLP begins to use: TestEveryKindIsKnown
		return p.wrong("a field of " + f.kind.String())
	}
	if err != nil {
		return err
	}
	switch f.kind {
	case protoreflect.Fixed32Kind:
		p.written = protowire.AppendFixed32(p.written, uint32(v))
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		p.written = protowire.AppendFixed64(p.written, v)
	case protoreflect.Sint32Kind:
		p.written = protowire.AppendVarint(p.written, protowire.EncodeZigZag(int64(v)))
	default:
		p.written = protowire.AppendVarint(p.written, v)
	}
	return nil
}

// enum reads a name or a number. Numbers that have no name yet are taken.
func (p *parser) enum(names map[string]int32) (uint64, error) {
	if p.space() != '"' {
		return p.integer(32, true)
	}
	name, err := p.text()
	if err != nil {
		return 0, err
	}
	v, ok := names[string(name)]
	if !ok {
		return 0, &valueError{text: quoted(name) + " is not one of the names of its enum"}
	}
	return uint64(v), nil
}

// idOf writes a trace or span id, which may be empty.
func (p *parser) idOf(text []byte, size int) error {
	if len(text) != 0 && len(text) != 2*size {
		return &valueError{text: fmt.Sprintf("%s has not %d hexadecimal digits", quoted(text), 2*size)}
	}
	p.written = protowire.AppendVarint(p.written, uint64(len(text)/2))
	for i := 0; i < len(text); i += 2 {
		high, low := hexDigits[text[i]], hexDigits[text[i+1]]
		if high == 0 || low == 0 {
			return &valueError{text: fmt.Sprintf("%s has not %d hexadecimal digits", quoted(text), 2*size)}
		}
		p.written = append(p.written, (high-1)<<4|(low-1))
	}
	return nil
}

// base64 writes bytes: of the usual alphabet or that of URLs, padded or not.
func (p *parser) base64(text []byte) error {
	coding := base64.RawStdEncoding
	if bytes.ContainsAny(text, "-_") {
		coding = base64.RawURLEncoding
	}
	if len(text)%4 == 0 {
		coding = coding.WithPadding(base64.StdPadding)
	}
	p.written = protowire.AppendVarint(p.written, 0) // most likely too little
	start := len(p.written)
	var err error
	if p.written, err = coding.AppendDecode(p.written, text); err != nil {
		return &valueError{text: quoted(text) + " is not base64"}
	}
	p.end(start, 1)
	return nil
}
