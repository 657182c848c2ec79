package ingestreceiver

import (
	"errors"

	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/otlpjson"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// Bounds of OTLP/JSON: how deep it may be for a depth of attribute values, and how large a record of events that were rejected becomes.
const (
	jsonDepthPerValue = 3  // {"arrayValue": {"values": [ ... ]}}
	jsonDepthAround   = 20 // of resourceLogs, scopeLogs, ... an attribute
	rejectedBytes     = 256 << 10
)

// fromJSON makes q's body protobuf. Fields that this version of OTLP does not know are lost in that, and events with values that OTLP cannot have.
func (r *ingestReceiver) fromJSON(q *request, held *reservation) error {
	tooLarge := false
	limits := otlpjson.Limits{
		MaxDepth: jsonDepthPerValue*r.cfg.Limits.depth() + jsonDepthAround, MaxEvents: r.cfg.Limits.events(),
		Reserve: func(n int) bool {
			tooLarge = held.held+int64(n) > held.most() // it would be asked to come again for ever
			return held.grow(n)
		},
	}
	result, err := otlpjson.Transcode(q.signal, q.body, limits)
	switch {
	case errors.Is(err, otlpjson.ErrTooDeep):
		return refusedTooDeep.because("%v", err)
	case errors.Is(err, otlpjson.ErrTooManyEvents):
		return refusedTooMany.because("%v", err)
	case errors.Is(err, otlpjson.ErrMemory) && tooLarge:
		return refusedTooLarge.because("JSON of %d bytes takes more memory than the %d bytes that are allowed (max_in_flight_bytes); send less at a time, or protobuf", len(q.body), held.most())
	case errors.Is(err, otlpjson.ErrMemory):
		return refusedMemory
	case err != nil:
		return refusedMalformed.because("%v", err)
	case len(result.Rejected) > 0 && len(result.Rejected) == result.Events:
		return refusedMalformed.because("none of the %d events is OTLP: %v", result.Events, result.Rejected[0])
	}
	q.body, q.frames, q.json = result.Body, nil, result // frames hold JSON
	return nil
}

// rejectJSON hands the events that fromJSON has rejected to the quarantine, as JSON requests of just these, and has the sender told. Without a quarantine
// they are lost.
func (r *ingestReceiver) rejectJSON(q *request, ld plog.Logs) {
	rest := q.json.Rejected
	for r.cfg.QuarantineUndecodable && len(rest) > 0 {
		n, size := 0, 0
		for n < len(rest) && (n == 0 || size+rest[n].Size() <= rejectedBytes) {
			size += rest[n].Size()
			n++
		}
		undecodableEvents(q, rest[:n]).Append(ld)
		rest = rest[n:]
	}
}

func undecodableEvents(q *request, of []otlpjson.Rejected) envelope.Envelope {
	findings := make(schema.Findings, len(of))
	for i, event := range of {
		findings[i] = schema.Finding{Event: i, PII: true, Verdicts: []schema.Verdict{undecodable("an event of OTLP/JSON", event.Reason)}}
	}
	return quarantined(q, findings, len(of), original{q.json.Part(of), typeJSON, encodingNone})
}
