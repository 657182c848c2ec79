package otlpwire

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// AppendWithoutAttributes appends req without its log records' or spans' attributes to dst, and the number of each one's attributes,
// in order, to counts. It is for decoders that make the attributes themselves; metrics have no such decoder and are refused.
//
// Messages around an attribute shrink, so their lengths are written anew, as varints of five bytes, of which the last may be
// padding: that is well-formed, though no encoder writes it, and lets one pass over req do. Its errors say no more than that this
// cannot be done: req may be well-formed all the same.
func AppendWithoutAttributes(sig signal.Signal, req, dst []byte, counts []int32) ([]byte, []int32, error) {
	if sig == signal.Metrics {
		return dst, counts, fmt.Errorf("otlpwire: attributes of %s cannot be left out", sig)
	}
	// A nested message of one byte becomes one of six: lengths still fit five bytes.
	if len(req) > math.MaxInt32/8 {
		return dst, counts, fmt.Errorf("otlpwire: a request of %d bytes is too large", len(req))
	}
	s := stripper{attributes: (&Event{Signal: sig}).attributesField(), out: dst, counts: counts}
	if e := s.message(requestOf(sig), req); e != nil {
		return dst, counts, e
	}
	return s.out, s.counts, nil
}

type stripper struct {
	attributes int32 // number of the field to leave out of events
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
		if nested.kind == kWrappedOld {
			return &Error{Kind: ErrMalformed, Offset: f.start, Path: nested.name, Reason: "deprecated: which one counts is left to pdata"}
		}
		s.out = append(s.out, b[from:f.start]...)
		from = f.pos
		s.out = binary.AppendUvarint(s.out, uint64(f.num)<<3|wireLen)
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

// putLength writes n into five bytes.
func putLength(b []byte, n int) {
	for i := range 4 {
		b[i] = byte(n>>(7*i)) | 0x80
	}
	b[4] = byte(n >> 28)
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
