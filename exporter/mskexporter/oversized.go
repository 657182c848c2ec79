package mskexporter

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// largeEvent is an event that no record can hold.
type largeEvent struct {
	index   int
	body    []byte // the request of just this event
	request []byte // header request of it
	room    int    // what a record has for a body
}

// leftOut are events of a request that no record can hold. The others are written, and the sender is told of these.
type leftOut struct {
	signal      signal.Signal
	events      int
	quarantined bool     // by the component before: it counts them as rejected
	kept        bool     // in the object store of the quarantine; there is a record that points to them
	failure     *failure // what the sender is told if nothing of the request can be written
	reason      string   // what it is told else
}

// leaveOut makes the records of events that are too large: of their objects in the quarantine's store, where there is one.
func (c *client) leaveOut(ctx context.Context, e envelope.Envelope, key []byte, large []largeEvent) (out []record, left []leftOut, err error) {
	keep := envelope.KeeperOf(ctx)
	for _, event := range large {
		verdict := schema.Verdict{
			Code: schema.EventTooLarge, Path: "event", Expected: fmt.Sprintf("at most %d bytes with its resource and scope", event.room),
			Got: fmt.Sprintf("%d bytes", len(event.body)),
		}
		l := leftOut{
			signal: e.Signal, events: 1, kept: keep != nil, reason: fmt.Sprintf("event %d: %s", event.index, verdict),
			failure: permanent(reasonEventTooLarge, "%s request of tenant %q: event %d is %d bytes with its resource and scope, a record takes %d (max_record_bytes %d); nothing of the request's %d events is stored",
				e.Signal, e.Tenant, event.index, len(event.body), event.room, c.cfg.MaxRecordBytes, e.Events),
		}
		left = append(left, l)
		if keep == nil {
			continue
		}
		q := e
		q.Lane, q.Body, q.Events, q.Request = envelope.LaneQuarantine, event.body, 1, event.request
		q.Findings = schema.Findings{{PII: true, Verdicts: []schema.Verdict{verdict}}}.Append(nil) // nobody knows what it holds
		q.Quarantine = &envelope.Quarantine{Code: string(verdict.Code), Reason: verdict.String(), ContentType: envelope.TypeOTLP, PII: true}
		if err := keep(ctx, &q); err != nil {
			return nil, nil, retryable(reasonEventTooLarge, retryAfterOutage, "%s request of tenant %q: event %d is too large for a record, and the store of the quarantine does not take it; nothing was sent: %w",
				e.Signal, e.Tenant, event.index, err)
		}
		rs, more, err := c.quarantined(q, key, c.headers(q))
		if err != nil {
			return nil, nil, err
		}
		out, left = append(out, rs...), append(left, more...)
	}
	return out, left, nil
}

// tell has the sender hear of the events that were left out, once the others are stored.
func (c *client) tell(ctx context.Context, left []leftOut) {
	result := envelope.ResultOf(ctx)
	for _, l := range left {
		if !l.quarantined {
			result.Reject(l.events, l.reason)
		}
		fate := "quarantined"
		if !l.kept {
			fate = "lost"
			result.Lose(l.events)
		}
		c.metrics.oversized.Add(ctx, int64(l.events), c.metrics.telemetry.With(attribute.String("signal", l.signal.String()), attribute.String("fate", fate)))
	}
}
