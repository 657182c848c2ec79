package schemavalidationprocessor

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/pulsegrid/pulsegrid/internal/composition"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// logs is the processor of logs pipelines, which carry envelopes of any signal, or ordinary log records.
type logs struct {
	*validation
	next consumer.Logs
}

func (l *logs) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	if composition.Walking(ctx) {
		return l.next.ConsumeLogs(composition.Pass(ctx, l.step()), ld)
	}
	if !envelope.Is(ld) {
		return l.decoded(ctx, ld)
	}
	es, err := envelope.All(ld)
	if err != nil {
		return consumererror.NewPermanent(err)
	}
	out := plog.NewLogs()
	for _, e := range es {
		if e, err = l.envelope(ctx, e); err != nil {
			return consumererror.NewPermanent(fmt.Errorf("%s request of tenant %q: %w", e.Signal, e.Tenant, err))
		}
		e.Append(out) // its body is the same bytes, so the frames that they came out of are found again
	}
	return l.next.ConsumeLogs(ctx, out)
}

// envelope returns e with what was found of it.
func (l *logs) envelope(ctx context.Context, e envelope.Envelope) (envelope.Envelope, error) {
	if e.Lane == envelope.LaneQuarantine {
		return e, nil // nothing more can be said of it
	}
	policy := l.policy(e.Tenant)
	if policy.Mode == schema.Off {
		l.unchecked(ctx, e.Signal, e.Events)
		return e, nil
	}
	checking, began := l.current(), time.Now()
	received := e.Received
	if received.IsZero() {
		received = began
	}
	res, err := checking.checker.Check(e.Signal, e.Body, policy.Unknown, received)
	var beside schema.Result
	if err == nil && checking.asks(res) {
		beside, err = checking.beside.Check(e.Signal, e.Body, policy.Unknown, received)
	}
	if err != nil {
		return e, err
	}
	checking.count(e.Tenant, res, beside)
	if findings := l.judge(ctx, e.Signal, policy.Mode, res, time.Since(began)); findings != nil {
		e.Findings = findings.Append(nil)
	}
	e.SchemaVersion = checking.of.Registry.Version()
	return e, nil
}
