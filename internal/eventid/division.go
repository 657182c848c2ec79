package eventid

import (
	"fmt"
	"iter"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Division says which events of their request lie in a body that is about to be divided, so that each part keeps them.
type Division struct {
	of       Request
	events   int
	ordinals []int // of a whole request
}

// Divide begins to divide a body of so many events. header says which request it is of, as an envelope or a Kafka record carries it; nothing, or a header
// that is not about these events: the body is the request.
func Divide(sig signal.Signal, body, header []byte, events int) (*Division, error) {
	d := &Division{events: events}
	if d.of = OfBody(body, header, events); !d.of.Whole {
		return d, nil
	}
	var err error
	if d.ordinals, err = otlpwire.Ordinals(sig, body); err == nil && len(d.ordinals) != events {
		err = fmt.Errorf("eventid: a body of %d events has %d", events, len(d.ordinals))
	}
	return d, err
}

// OfBody says which request a body of so many events is of.
func OfBody(body, header []byte, events int) Request {
	if len(header) > 0 {
		if r, ok := ParseRequest(header, events); ok {
			return r
		}
	}
	return Request{Digest: Digest(body), Whole: true}
}

// Part is the identity of the part that has the events at these positions of the body, in ascending order.
func (d *Division) Part(positions iter.Seq[int]) Request {
	part := Request{Digest: d.of.Digest, Resent: d.of.Resent}
	for position := range positions {
		index, nth := d.of.At(position)
		if d.of.Whole {
			nth = d.ordinals[position]
		}
		part.Add(index, nth)
	}
	if d.of.Whole && part.Events() == d.events {
		return d.of
	}
	return part
}

// Range are the positions from one to before another, for Part.
func Range(from, to int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for position := from; position < to; position++ {
			if !yield(position) {
				return
			}
		}
	}
}
