package mskexporter

import (
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// part is the body of a record and the events of its request that are in it.
type part struct {
	body    []byte
	events  int
	request []byte // header request; nil: the body is the request
}

func (p *part) size() int {
	if len(p.request) == 0 {
		return len(p.body)
	}
	return len(p.body) + headerOverhead + len(envelope.HeaderRequest) + len(p.request)
}

func (p *part) fits(room int) bool { return p.size() <= room }

// oneEvent is more than header request takes for a single event.
const oneEvent = headerOverhead + len(envelope.HeaderRequest) + 18 + 2*(1+2*5)

// split divides a body. Events that are too large alone are returned apart.
func (c *client) split(e envelope.Envelope, room int) (parts []part, large []largeEvent, err error) {
	if room <= oneEvent {
		return nil, nil, permanent(reasonInvalid, "%s request of tenant %q: key and headers alone exceed max_record_bytes %d", e.Signal, e.Tenant, c.cfg.MaxRecordBytes)
	}
	bodies, counts, err := otlpwire.SplitBySize(e.Signal, e.Body, room-oneEvent)
	if err != nil {
		return nil, nil, c.cannotSplit(e, err)
	}
	division, err := eventid.Divide(e.Signal, e.Body, e.Request, e.Events)
	if err != nil {
		return nil, nil, c.cannotSplit(e, err)
	}
	s := splitter{division: division, signal: e.Signal, room: room, request: len(e.Body)}
	first := 0
	for i, body := range bodies {
		if counts[i] == 1 && len(body) > room-oneEvent {
			request := division.Part(eventid.Range(first, first+1))
			large = append(large, largeEvent{index: first, body: body, request: request.Encode(), room: room - oneEvent})
			first++
			continue
		}
		if err := s.add(body, first, counts[i]); err != nil {
			return nil, nil, c.cannotSplit(e, err)
		}
		first += counts[i]
	}
	return s.parts, large, nil
}

func (c *client) cannotSplit(e envelope.Envelope, err error) error {
	return permanent(reasonInvalid, "%s request of tenant %q, %d bytes, cannot be split into records of max_record_bytes %d: %w", e.Signal, e.Tenant, len(e.Body), c.cfg.MaxRecordBytes, err)
}

type splitter struct {
	division *eventid.Division
	signal   signal.Signal
	room     int
	request  int // bytes
	parts    []part
	bytes    int // of their bodies
}

// add appends a part, or its halves where the header that says which events it has is too large beside them: of many small events that are equal.
func (s *splitter) add(body []byte, first, events int) error {
	request := s.division.Part(eventid.Range(first, first+events))
	p := part{body, events, request.Encode()}
	if events <= 1 || p.fits(s.room) {
		s.parts = append(s.parts, p)
		s.bytes += len(body)
		return otlpwire.Amplified(s.request, s.bytes)
	}
	half := events / 2
	left, right, err := otlpwire.Split(s.signal, body, func(i int) bool { return i < half })
	if err != nil {
		return err
	}
	if err := s.add(left, first, half); err != nil {
		return err
	}
	return s.add(right, first+half, events-half)
}
