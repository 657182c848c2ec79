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
	reason := why.msg
	if len(reason) > maxPartialBytes {
		reason = reason[:maxPartialBytes]
	}
	verdict := schema.Verdict{Code: schema.Undecodable, Path: "request", Expected: "an OTLP request of " + q.signal.String(), Got: encodableText(reason)}
	received := q.received
	if received.IsZero() {
		received = time.Now()
	}
	ld := plog.NewLogs()
	envelope.Envelope{
		Signal: q.signal, Tenant: q.tenant, Source: q.source, Received: received, Lane: envelope.LaneQuarantine, Body: q.original.bytes,
		Findings: schema.Findings{{PII: true, Verdicts: []schema.Verdict{verdict}}}.Append(nil),
		Quarantine: &envelope.Quarantine{
			Code: string(verdict.Code), Reason: verdict.String(), ContentType: q.original.contentType, ContentEncoding: q.original.encoding,
			PII: true, // nobody knows
		},
	}.Append(ld)
	if err := r.next.logs.ConsumeLogs(ctx, ld); err != nil {
		if a := answerTo(err, r.cfg.RetryAfter); retryable(a.status) {
			return err
		}
		return why.because("%s (and the body could not be kept in quarantine: %v)", why.msg, err)
	}
	return refused
}
