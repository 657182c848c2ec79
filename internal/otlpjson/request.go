package otlpjson

import (
	"fmt"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Limits of a request. All must be set.
type Limits struct {
	MaxDepth  int            // levels of JSON objects and lists
	MaxEvents int            // events
	Reserve   func(int) bool // so many more bytes of memory; false: there are none
}

// Result is a request in protobuf.
type Result struct {
	Body     []byte     // without the events that were rejected
	Events   int        // that the JSON has, rejected ones too
	Rejected []Rejected // by Event
	Unknown  string     // a name that OTLP does not have at its place, quoted; empty: there is none

	json  []byte
	lists []list
}

// Rejected is an event that has a value which OTLP cannot have there.
type Rejected struct {
	Event    int    // its number in the request, from 0
	Reason   string // path and value
	list     int
	from, to int // where it is in the body
}

// Transcode makes an OTLP/JSON request protobuf. The error wraps ErrMalformed, ErrTooDeep, ErrTooManyEvents or ErrMemory. The result aliases body.
func Transcode(sig signal.Signal, body []byte, limits Limits) (*Result, error) {
	p := &parser{b: body, limits: limits, written: make([]byte, 0, len(body)/2+64)}
	if err := p.reserve(0); err != nil {
		return nil, err
	}
	if p.space() != '{' {
		return nil, p.unexpected("an object")
	}
	if err := p.message(requests[sig]); err != nil {
		if e := valueErrorOf(err); e != nil {
			return nil, p.bad("%v", e)
		}
		return nil, err
	}
	if p.space(); p.pos < len(body) {
		return nil, p.bad("the request has ended, and %d bytes follow: send one JSON object a request", len(body)-p.pos)
	}
	if err := p.reserve(0); err != nil {
		return nil, err
	}
	return &Result{Body: p.written, Events: p.events, Rejected: p.rejected, Unknown: p.unknown, json: body, lists: p.lists}, nil
}

// Part returns the JSON request of just these events of Rejected, which must follow one another there: everything around events is as it was sent.
func (r *Result) Part(of []Rejected) []byte {
	var out []byte
	at := 0
	for i, l := range r.lists {
		out = append(out, r.json[at:l.from]...)
		for first := true; len(of) > 0 && of[0].list == i; of = of[1:] {
			if !first {
				out = append(out, ',')
			}
			first = false
			out = append(out, r.json[of[0].from:of[0].to]...)
		}
		at = l.to
	}
	return append(out, r.json[at:]...)
}

// Size is how many bytes of the body the event has.
func (r Rejected) Size() int { return r.to - r.from }

// String is for logs and errors.
func (r Rejected) String() string { return fmt.Sprintf("event %d: %s", r.Event, r.Reason) }
