package ingestreceiver

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// original is a body as it came, for the quarantine: what it is compressed with is said only where it could not be decompressed.
type original struct {
	bytes       []byte
	contentType string
	encoding    string
}

// keep puts the body of a refused request into quarantine, where that is configured and the body is at fault: what cannot be read today may be
// read once somebody knows what it is. It returns what the sender is told: that its request is refused, unless the body could not be put there and may be
// the next time.
func (r *ingestReceiver) keep(ctx context.Context, q *request, refused error) error {
	var why *refusal
	if !r.cfg.QuarantineUndecodable || len(q.original.bytes) == 0 || !errors.As(refused, &why) {
		return refused
	}
	switch why.reason {
	case refusedMalformed.reason, refusedTooDeep.reason, refusedCompression.reason:
	default: // too large, too slow, or nothing to do with the body
		return refused
	}
	ld := plog.NewLogs()
	findings := schema.Findings{{PII: true, Verdicts: []schema.Verdict{undecodable("an OTLP request of "+q.signal.String(), why.msg)}}}
	quarantined(q, findings, 0, q.original).Append(ld)
	if err := r.next.logs.ConsumeLogs(ctx, ld); err != nil {
		if a := answerTo(err, r.cfg.RetryAfter); retryable(a.status) {
			return err
		}
		return why.because("%s (and the body could not be kept in quarantine: %v)", why.msg, err)
	}
	return refused
}

func undecodable(want, reason string) schema.Verdict {
	return schema.Verdict{Code: schema.Undecodable, Path: "request", Expected: want, Got: encodableText(reason[:min(len(reason), maxPartialBytes)])}
}

// quarantined is the envelope of what cannot be decoded: so many events, 0 where nobody knows how many there are.
func quarantined(q *request, findings schema.Findings, events int, body original) envelope.Envelope {
	received := q.received
	if received.IsZero() {
		received = time.Now()
	}
	first := findings[0].Verdicts[0]
	return envelope.Envelope{
		Signal: q.signal, Tenant: q.tenant, Source: q.source, Events: events, Received: received, Lane: envelope.LaneQuarantine, Body: body.bytes,
		Findings: findings.Append(nil),
		Quarantine: &envelope.Quarantine{
			Code: string(first.Code), Reason: first.String(), ContentType: body.contentType, ContentEncoding: body.encoding,
			PII: true, // nobody knows
		},
	}
}
