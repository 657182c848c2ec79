package mskexporter

import (
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
)

// quarantined makes the record of an envelope in the quarantine lane. It is one record, or none: its findings count the events of just this
// body, so it cannot be split; who makes such envelopes keeps them small. Of one that is too large all the same its events are left out.
func (c *client) quarantined(e envelope.Envelope, key []byte, common []kgo.RecordHeader) ([]record, []leftOut, error) {
	headers := append(common[:len(common):len(common)], kgo.RecordHeader{Key: envelope.HeaderEvents, Value: strconv.AppendInt(nil, int64(e.Events), 10)})
	if len(e.Request) > 0 {
		headers = append(headers, kgo.RecordHeader{Key: envelope.HeaderRequest, Value: e.Request})
	}
	add := func(key, value string) {
		if value != "" {
			headers = append(headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
		}
	}
	q := e.Quarantine
	add(envelope.HeaderQuarantineCode, q.Code)
	add(envelope.HeaderQuarantineReason, q.Reason)
	add(envelope.HeaderSource, e.Source)
	add(envelope.HeaderContentType, q.ContentType)
	add(envelope.HeaderContentEncoding, q.ContentEncoding)
	add(envelope.HeaderObject, q.Object)
	if q.PII {
		add(envelope.HeaderPII, "true")
	}
	if len(e.Findings) > 0 {
		headers = append(headers, kgo.RecordHeader{Key: envelope.HeaderFindings, Value: e.Findings})
	}
	r := record{
		kafka:  &kgo.Record{Topic: c.cfg.Topics.Quarantine, Key: key, Value: e.Body, Headers: headers},
		events: e.Events, signal: e.Signal, tenant: e.Tenant,
	}
	if size := r.size() + batchOverhead; size > int64(c.cfg.MaxRecordBytes) {
		f := permanent(reasonEventTooLarge, "%s of tenant %q, quarantined for %s: the record would have %d bytes, max_record_bytes are %d; nothing of it is stored",
			e.Signal, e.Tenant, q.Code, size, c.cfg.MaxRecordBytes)
		if e.Events == 0 { // a body of which nobody knows what it is: its request is refused anyway
			return nil, nil, f
		}
		return nil, []leftOut{{signal: e.Signal, events: e.Events, quarantined: true, failure: f}}, nil
	}
	return []record{r}, nil, nil
}
