package otlpwire

import (
	"fmt"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Split divides req by event index into a request of the events for which keep returns true and one of the rest. Both keep
// the order of events, and of the resources, scopes and metrics around them every field, known or not; those without an event
// on a side are left out there, so a side without events is nil. Neither side aliases req.
func Split(sig signal.Signal, req []byte, keep func(index int) bool) (kept, rest []byte, err error) {
	var sides [2]builder
	var changed [2]int // the outermost level that changed since the side's last event
	index := 0
	err = descend(sig, req, func(p *path) bool {
		side := 1
		if keep(index) {
			side = 0
		}
		index++
		changed[0], changed[1] = min(changed[0], p.changed), min(changed[1], p.changed)
		p.changed = changed[side]
		sides[side].add(p)
		changed[side] = levels
		return true
	})
	if err != nil {
		return nil, nil, err
	}
	return sides[0].finish(), sides[1].finish(), nil
}

// maxAmplification bounds what the parts of a request may come to: so many times the request. Any request may be divided in two.
const maxAmplification = 2

// Amplified returns ErrAmplified if parts of so many bytes altogether are too much for a request of so many bytes.
func Amplified(request, parts int) error {
	if parts <= maxAmplification*request {
		return nil
	}
	return fmt.Errorf("%w: %d bytes would become more than %d", ErrAmplified, request, maxAmplification*request)
}

// SplitBySize divides req into parts of at most maxBytes, as few as keeping the order of events allows, and returns the count
// of events in each. Every part repeats the fields of the resources, scopes and metrics around its events. A part is larger
// than maxBytes only if it holds a single event, which with what is around it does not fit: the caller has to find that by
// its length. A request that fits is returned as it is, as the only part; one without events has no parts.
//
// It fails with ErrAmplified when the parts come to more than twice the request: when what is around the events is more than half of maxBytes, and there
// are many of them.
func SplitBySize(sig signal.Signal, req []byte, maxBytes int) (parts [][]byte, counts []int, err error) {
	b := builder{hint: max(0, min(maxBytes, len(req)))}
	count, total := 0, 0
	flush := func() {
		parts = append(parts, b.finish())
		counts = append(counts, count)
		total += len(parts[len(parts)-1])
		count = 0
	}
	fits := len(req) <= maxBytes
	err = descend(sig, req, func(p *path) bool {
		count++
		if fits {
			return true
		}
		if count > 1 && b.sizeWith(p) > maxBytes {
			count--
			flush()
			count = 1
		}
		b.add(p)
		return Amplified(len(req), total) == nil
	})
	if err != nil {
		return nil, nil, err
	}
	switch {
	case count == 0:
		return nil, nil, nil
	case fits:
		return [][]byte{req}, []int{count}, nil
	}
	flush()
	if err := Amplified(len(req), total); err != nil {
		return nil, nil, fmt.Errorf("%w, in parts of %d", err, maxBytes)
	}
	return parts, counts, nil
}
