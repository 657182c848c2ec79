package otlpwire

import (
	"fmt"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Defaults of Limits.
const (
	// DefaultMaxDepth is far beyond what is ever logged, and harmless to decoders that recurse.
	DefaultMaxDepth = 64
	// DefaultMaxEvents bounds what decoding may cost: an empty event takes two bytes here and some 200 in pdata.
	DefaultMaxEvents = 1 << 18
)

// Limits of a request. Zero means the default.
type Limits struct {
	// MaxWritten bounds the bytes of the events together with what each of them shares with others: resource, scope, description and what else lies
	// around it. Stores write it out for each event, a resource of 450 KB of 9,000 events as 4 GB. Default: no bound.
	MaxWritten int64

	MaxDepth  int // levels of AnyValue: a plain value is one level, an array or list of plain values is two
	MaxEvents int // events
}

// Size is what a request holds. Each of these has a place of its own where the request is decoded, however few bytes it takes here.
type Size struct {
	Events  int
	Holders int // messages that events lie in, or may lie in: of a resource, a scope, a metric
	Parts   int // messages in events and what lies around them: attributes, values in values, span events, links, exemplars, quantiles, buckets
	Scalars int // numbers of repeated fields: bucket counts and bounds
}

// Count is Measure's number of events.
func Count(sig signal.Signal, req []byte, lim Limits) (events int, err error) {
	size, err := Measure(sig, req, lim)
	return size.Events, err
}

// Measure walks the whole request and returns what it holds. It accepts what pdata accepts, within lim: see the package's description. The error wraps
// ErrMalformed, ErrTooDeep, ErrTooManyEvents or ErrRepetitive. It panics if sig is no signal.
func Measure(sig signal.Signal, req []byte, lim Limits) (Size, error) {
	w := walker{maxDepth: orDefault(lim.MaxDepth, DefaultMaxDepth)}
	events, e := w.wrapper(requestOf(sig), req)
	if e != nil {
		return Size{}, e
	}
	if limit := orDefault(lim.MaxEvents, DefaultMaxEvents); events > limit {
		return Size{}, fmt.Errorf("%w: %d, at most %d are allowed", ErrTooManyEvents, events, limit)
	}
	if lim.MaxWritten > 0 && w.written > lim.MaxWritten {
		return Size{}, fmt.Errorf("%w: with resource, scope and metric written out for each they are %d bytes, at most %d are allowed; send what is large in fewer events", ErrRepetitive, w.written, lim.MaxWritten)
	}
	return Size{events, w.holders, w.parts, w.scalars}, nil
}

func orDefault(v, def int) int {
	if v <= 0 {
		return def
	}
	return v
}

type walker struct {
	maxDepth int
	holders  int
	parts    int
	scalars  int
	written  int64 // bytes of the events so far, with what they share written out for each
}

// wrapper walks a message that holds events, and counts them.
func (w *walker) wrapper(m *message, b []byte) (int, *Error) {
	n, old, current := 0, 0, false
	shared := len(b) // without events and what holds them
	pos := 0
	for pos < len(b) {
		at := pos
		num, wire, p := tag(b, pos)
		if p < 0 {
			return 0, malformed("tag", at, p)
		}
		f := m.field(num)
		if f.kind < kEvents {
			var e *Error
			if pos, e = w.field(f, b, at, p, wire, 0); e != nil {
				return 0, e
			}
			continue
		}
		if wire != wireLen {
			return 0, wrongWire(f, at, wire)
		}
		start, next := length(b, p)
		if next < 0 {
			return 0, malformed(f.name, at, next)
		}
		shared -= next - at
		if f.kind == kEvents {
			if e := w.message(f.of, b[start:next], 0); e != nil {
				return 0, e.in(f.name, start)
			}
			n++
			w.written += int64(next - at)
			pos = next
			continue
		}
		w.holders++
		inner, e := w.wrapper(f.of, b[start:next])
		if e != nil {
			return 0, e.in(f.name, start)
		}
		switch f.kind {
		case kWrapped:
			n += inner
			current = true
		case kWrappedOneof:
			n = inner
		case kWrappedOld:
			old += inner
		}
		pos = next
	}
	if m.old != nil && !current {
		n = old
	}
	w.written += int64(n) * int64(shared)
	return n, nil
}

// message walks a message that holds no events. Depth is that of the AnyValue it lies in.
func (w *walker) message(m *message, b []byte, depth int) *Error {
	pos := 0
	for pos < len(b) {
		at := pos
		num, wire, p := int32(b[pos]>>3), b[pos]&7, pos+1 // a field number below 16
		if b[pos] >= 0x80 || num == 0 {
			if num, wire, p = tag(b, pos); p < 0 {
				return malformed("tag", at, p)
			}
		}
		f := m.field(num)
		if f.kind == kKeyValue && wire == wireLen { // most of what there is
			start, next := length(b, p)
			if next < 0 {
				return malformed(f.name, at, next)
			}
			w.parts++
			if e := w.keyValue(b[start:next], depth); e != nil {
				return e.in(f.name, start)
			}
			pos = next
			continue
		}
		var e *Error
		if pos, e = w.field(f, b, at, p, wire, depth); e != nil {
			return e
		}
	}
	return nil
}

// field walks the content, from pos on, of the field whose tag is at b[at:pos], and returns where the next one begins.
func (w *walker) field(f *field, b []byte, at, pos int, wire uint8, depth int) (int, *Error) {
	next := badWireType
	switch f.kind {
	case unknown:
		if next = skip(b, pos, wire); next < 0 {
			return 0, malformed("unknown field", at, next)
		}
		return next, nil
	case kVarint:
		if wire == wireVarint {
			_, next = varint(b, pos)
		}
	case kI64:
		if wire == wireI64 {
			next = fixed(b, pos, 8)
		}
	case kI32:
		if wire == wireI32 {
			next = fixed(b, pos, 4)
		}
	case kManyI64, kManyVarint:
		return w.many(f, b, at, pos, wire)
	default:
		if wire == wireLen {
			return w.delimited(f, b, at, pos, depth)
		}
	}
	if next == badWireType {
		return 0, wrongWire(f, at, wire)
	}
	if next < 0 {
		return 0, malformed(f.name, at, next)
	}
	return next, nil
}

func (w *walker) delimited(f *field, b []byte, at, pos, depth int) (int, *Error) {
	start, next := length(b, pos)
	if next < 0 {
		return 0, malformed(f.name, at, next)
	}
	var e *Error
	switch f.kind {
	case kKeyValue:
		w.parts++
		e = w.keyValue(b[start:next], depth)
	case kAnyValue:
		w.parts++
		e = w.anyValue(b[start:next], depth+1)
	case kMessage:
		w.parts++
		e = w.message(f.of, b[start:next], depth)
	case kTraceID:
		e = id(next-start, 16)
	case kSpanID:
		e = id(next-start, 8)
	}
	if e != nil {
		return 0, e.in(f.name, start)
	}
	return next, nil
}

func id(got, want int) *Error {
	if got == 0 || got == want {
		return nil
	}
	return &Error{Kind: ErrMalformed, Reason: fmt.Sprintf("has %d bytes, want %d or none", got, want)}
}

// many walks a repeated scalar, packed or not.
func (w *walker) many(f *field, b []byte, at, pos int, wire uint8) (int, *Error) {
	switch {
	case wire == wireLen:
		start, next := length(b, pos)
		if next < 0 {
			return 0, malformed(f.name, at, next)
		}
		if f.kind == kManyI64 {
			if (next-start)%8 != 0 {
				return 0, malformed(f.name, at, badEnd)
			}
			w.scalars += (next - start) / 8
			return next, nil
		}
		for start < next {
			p := start
			w.scalars++
			if _, start = varint(b[:next], start); start < 0 {
				return 0, malformed(f.name, p, start)
			}
		}
		return next, nil
	case wire == wireI64 && f.kind == kManyI64:
		pos = fixed(b, pos, 8)
	case wire == wireVarint && f.kind == kManyVarint:
		_, pos = varint(b, pos)
	default:
		return 0, wrongWire(f, at, wire)
	}
	if pos < 0 {
		return 0, malformed(f.name, at, pos)
	}
	w.scalars++
	return pos, nil
}

func wrongWire(f *field, at int, wire uint8) *Error {
	return &Error{Kind: ErrMalformed, Offset: at, Path: f.name, Reason: fmt.Sprintf("wire type is %d", wire)}
}
