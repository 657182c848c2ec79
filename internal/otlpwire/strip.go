package otlpwire

import (
	"fmt"
	"math"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// AppendWithoutAttributes appends req without its log records' or spans' attributes to dst, and the number of each one's attributes,
// in order, to counts. It is for decoders that make the attributes themselves; metrics have no such decoder and are refused.
//
// Messages around an attribute shrink, so their lengths are written anew, as varints of five bytes, of which the last may be
// padding: that is well-formed, though no encoder writes it, and lets one pass over req do. It fails with ErrMalformed where a
// fault is outside the attributes' own bytes.
func AppendWithoutAttributes(sig signal.Signal, req, dst []byte, counts []int32) ([]byte, []int32, error) {
	attributes := (&Event{Signal: sig}).attributesField()
	if sig == signal.Metrics {
		return dst, counts, fmt.Errorf("otlpwire: attributes of %s cannot be left out", sig)
	}
	if len(req) > math.MaxInt32 {
		return dst, counts, fmt.Errorf("otlpwire: a request of %d bytes is too large", len(req))
	}
	s := stripper{attributes: attributes, out: dst, counts: counts, of: requestOf(sig)}
	if e := s.message(s.of, req); e != nil {
		return dst, counts, e
	}
	if len(s.out)-len(dst) > math.MaxInt32 {
		return dst, counts, fmt.Errorf("otlpwire: a request of %d bytes is too large", len(req))
	}
	return s.out, s.counts, nil
}

type stripper struct {
	attributes int32 // number of the field to leave out of events
	of         *message
	out        []byte
	counts     []int32
}

// message appends a message's fields; those that hold events are gone into.
func (s *stripper) message(m *message, b []byte) *Error {
	from := 0 // b[from:] is still to be copied
	f := fields{b: b}
	for f.next() {
		nested := m.field(f.num)
		if f.wire != wireLen || nested.kind < kEvents {
			continue
		}
		s.out = append(s.out, b[from:f.value-lengthSize(f.value, f.pos)]...)
		from = f.pos
		at := len(s.out)
		s.out = append(s.out, 0, 0, 0, 0, 0)
		if nested.kind == kEvents {
			if e := s.event(f.content()); e != nil {
				return e.in(nested.name, f.value)
			}
		} else if e := s.message(nested.of, f.content()); e != nil {
			return e.in(nested.name, f.value)
		}
		putLength(s.out[at:at+5], len(s.out)-at-5)
	}
	if f.err < 0 {
		return malformed("field", f.pos, f.err)
	}
	s.out = append(s.out, b[from:]...)
	return nil
}

// event appends an event's fields but for its attributes, which it counts.
func (s *stripper) event(b []byte) *Error {
	from, n := 0, int32(0)
	f := fields{b: b}
	for f.next() {
		if f.num == s.attributes && f.wire == wireLen {
			s.out = append(s.out, b[from:f.start]...)
			from = f.pos
			n++
		}
	}
	if f.err < 0 {
		return malformed("field", f.pos, f.err)
	}
	s.out = append(s.out, b[from:]...)
	s.counts = append(s.counts, n)
	return nil
}
