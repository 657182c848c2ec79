package otlpjson

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"
)

// What may be wrong with a request as a whole.
var (
	// ErrMalformed: the body is no JSON, or something outside of its events is not what OTLP has there.
	ErrMalformed = errors.New("malformed OTLP/JSON")
	// ErrTooDeep: it is nested deeper than Limits.MaxDepth.
	ErrTooDeep = errors.New("JSON is nested too deeply")
	// ErrTooManyEvents: it holds more than Limits.MaxEvents.
	ErrTooManyEvents = errors.New("OTLP/JSON request holds too many events")
	// ErrMemory: Limits.Reserve has refused.
	ErrMemory = errors.New("no memory for the request")
)

// valueError is a value that its field cannot have. The JSON around it is sound as far as it has been read.
type valueError struct {
	path string
	text string
}

func (e *valueError) Error() string {
	if e.path == "" {
		return e.text
	}
	return e.path + ": " + e.text
}

// valueErrorOf is err if it is a wrong value. Such errors are never wrapped.
func valueErrorOf(err error) *valueError {
	if err == nil { // as nearly always: errors.As would allocate
		return nil
	}
	var e *valueError
	errors.As(err, &e)
	return e
}

// in says that the value lies in a field or item.
func (e *valueError) in(name string) *valueError {
	switch {
	case e.path == "":
		e.path = name
	case e.path[0] == '[':
		e.path = name + e.path
	default:
		e.path = name + "." + e.path
	}
	return e
}

// quoted is the beginning of what a sender sent, for an error.
func quoted(b []byte) string { return fmt.Sprintf("%.40q", b) }

func (p *parser) bad(format string, args ...any) error {
	return fmt.Errorf("%w: at byte %d: %s", ErrMalformed, p.pos, fmt.Sprintf(format, args...))
}

// unexpected is the error for what stands where something else must.
func (p *parser) unexpected(want string) error {
	if p.pos >= len(p.b) {
		return p.bad("the body ends, want %s", want)
	}
	return p.bad("want %s, got %q", want, p.b[p.pos])
}

// space skips white space and returns the byte behind it, 0 at the end.
func (p *parser) space() byte {
	for p.pos < len(p.b) {
		switch c := p.b[p.pos]; c {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return c
		}
	}
	return 0
}

// in enters an object or list.
func (p *parser) in() error {
	if p.depth++; p.depth > p.limits.MaxDepth {
		return fmt.Errorf("%w: at byte %d, at most %d levels are allowed", ErrTooDeep, p.pos, p.limits.MaxDepth)
	}
	p.pos++
	return nil
}

// leave leaves it.
func (p *parser) leave() {
	p.depth--
	p.pos++
}

// members calls fn for the members of the object that begins at pos, with pos at the member's value and its name, which fn must not keep.
func (p *parser) members(fn func(name []byte) error) error {
	if err := p.in(); err != nil {
		return err
	}
	if p.space() == '}' {
		p.leave()
		return nil
	}
	for {
		if p.space() != '"' {
			return p.unexpected("a name")
		}
		name, err := p.text()
		if err != nil {
			return err
		}
		if p.space() != ':' {
			return p.unexpected("a colon")
		}
		p.pos++
		p.space()
		if err := fn(name); err != nil {
			return err
		}
		switch p.space() {
		case ',':
			p.pos++
		case '}':
			p.leave()
			return nil
		default:
			return p.unexpected("a comma or }")
		}
	}
}

// items calls fn for the items of the list that begins at pos, with pos at the item.
func (p *parser) items(fn func(i int) error) error {
	if err := p.in(); err != nil {
		return err
	}
	if p.space() == ']' {
		p.leave()
		return nil
	}
	for i := 0; ; i++ {
		p.space()
		if err := fn(i); err != nil {
			return err
		}
		switch p.space() {
		case ',':
			p.pos++
		case ']':
			p.leave()
			return nil
		default:
			return p.unexpected("a comma or ]")
		}
	}
}

// text reads the text that begins at pos. It is valid until the next one is read.
func (p *parser) text() ([]byte, error) {
	start := p.pos + 1
	for i := start; i < len(p.b); i++ {
		switch c := p.b[i]; {
		case c == '"':
			p.pos = i + 1
			return p.b[start:i], nil
		case c == '\\':
			return p.escaped(start, i)
		case c < ' ':
			p.pos = i
			return nil, p.bad("a text has the control character %q", c)
		}
	}
	p.pos = len(p.b)
	return nil, p.unexpected("the end of a text")
}

var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// escaped reads on where the first escape is.
func (p *parser) escaped(start, at int) ([]byte, error) {
	p.unescaped = append(p.unescaped[:0], p.b[start:at]...)
	for i := at; i < len(p.b); i++ {
		switch c := p.b[i]; {
		case c == '"':
			p.pos = i + 1
			return p.unescaped, nil
		case c < ' ':
			p.pos = i
			return nil, p.bad("a text has the control character %q", c)
		case c != '\\':
			p.unescaped = append(p.unescaped, c)
		case i+1 < len(p.b) && p.b[i+1] == 'u':
			r, ok := hex4(p.b[i+2:])
			if !ok {
				p.pos = i
				return nil, p.bad("want four hexadecimal digits behind \\u")
			}
			i += 5
			if utf16.IsSurrogate(r) {
				if low, ok := hex4(bytes.TrimPrefix(p.b[i+1:], []byte(`\u`))); ok && bytes.HasPrefix(p.b[i+1:], []byte(`\u`)) && utf16.DecodeRune(r, low) != utf8.RuneError {
					r = utf16.DecodeRune(r, low)
					i += 6
				} else {
					r = utf8.RuneError
				}
			}
			p.unescaped = utf8.AppendRune(p.unescaped, r)
		default:
			i++
			if i >= len(p.b) || escapes[p.b[i]] == 0 {
				p.pos = i
				return nil, p.unexpected("an escape")
			}
			p.unescaped = append(p.unescaped, escapes[p.b[i]])
		}
	}
	p.pos = len(p.b)
	return nil, p.unexpected("the end of a text")
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		d := hexDigits[c]
		if d == 0 {
			return 0, false
		}
		r = r<<4 | rune(d-1)
	}
	return r, true
}

// hexDigits are the values of hexadecimal digits, plus one.
var hexDigits = func() (t [256]byte) {
	for i, c := range "0123456789abcdef" {
		t[c] = byte(i) + 1
	}
	for i, c := range "ABCDEF" {
		t[c] = byte(i) + 11
	}
	return t
}()

// literal reads a word, and tells whether it is there.
func (p *parser) literal(word string) bool {
	if len(p.b)-p.pos < len(word) || string(p.b[p.pos:p.pos+len(word)]) != word {
		return false
	}
	p.pos += len(word)
	return true
}

// skip reads a value of any kind. It takes the numbers that are none (NaN), which some encoders write bare: what they cost is decided by their field.
func (p *parser) skip() error {
	switch c := p.space(); {
	case c == '{':
		return p.members(func([]byte) error { return p.skip() })
	case c == '[':
		return p.items(func(int) error { return p.skip() })
	case c == '"':
		_, err := p.text()
		return err
	case p.literal("true"), p.literal("false"), p.literal("null"), p.literal("NaN"), p.literal("Infinity"), p.literal(minusInfinity):
		return nil
	case c == '-' || c >= '0' && c <= '9':
		_, err := p.number()
		return err
	}
	return p.unexpected("a value")
}

const minusInfinity = "-Infinity"
