package ingestreceiver

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/receiverhelper"
	"go.opentelemetry.io/otel/attribute"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// instruments are shared by the transports.
type instruments struct {
	requests, events, rejected, lost, repeats, compressed, uncompressed, refused, denied componentmeta.Counter
	duration                                                                             componentmeta.Histogram
	with                                                                                 func(...attribute.KeyValue) componentmeta.Attributes
}

func newInstruments(t *componentmeta.Telemetry, used func() int64) *instruments {
	t.Gauge("ingest_in_flight_bytes", func(record func(int64, ...attribute.KeyValue)) { record(used()) })
	return &instruments{
		requests:     t.Counter("ingest_requests"),
		events:       t.Counter("ingest_events"),
		rejected:     t.Counter("ingest_rejected_events"),
		lost:         t.Counter("ingest_lost_events"),
		repeats:      t.Counter("ingest_repeats"),
		compressed:   t.Counter("ingest_compressed_bytes"),
		uncompressed: t.Counter("ingest_uncompressed_bytes"),
		refused:      t.Counter("ingest_refused"),
		denied:       t.Counter("ingest_denied"),
		duration:     t.Histogram("ingest_request_duration"),
		with:         t.With,
	}
}

// Outcomes of a request.
const (
	outcomeAccepted = iota
	outcomeEmpty
	outcomeRefused
	outcomeRetry
	outcomes
)

var outcomeNames = [outcomes]string{"accepted", "empty", "refused", "retry"}

const signals = 4 // the three, and 0 for unknown

// transport is what requests of one transport are counted with. Attribute sets are made once: they cost more than a count.
type transport struct {
	name      string
	in        *instruments
	obs       *receiverhelper.ObsReport
	bySignal  [signals]componentmeta.Attributes
	byOutcome [signals][outcomes]componentmeta.Attributes
}

func newTransport(name string, set receiver.Settings, in *instruments) (*transport, error) {
	obs, err := receiverhelper.NewObsReport(receiverhelper.ObsReportSettings{ReceiverID: set.ID, Transport: name, ReceiverCreateSettings: set})
	if err != nil {
		return nil, err
	}
	t := &transport{name: name, in: in, obs: obs}
	for s := range t.bySignal {
		common := []attribute.KeyValue{attribute.String("signal", signalName(signal.Signal(s))), attribute.String("transport", name)}
		t.bySignal[s] = in.with(common...)
		for o, outcome := range outcomeNames {
			t.byOutcome[s][o] = in.with(append(common[:2:2], attribute.String("outcome", outcome))...)
		}
	}
	return t, nil
}

func signalName(s signal.Signal) string {
	if s == 0 {
		return "unknown"
	}
	return s.String()
}

// done counts a request; a is what its sender was told, nil for OK.
func (t *transport) done(ctx context.Context, q *request, a *answer) {
	outcome := outcomeAccepted
	switch {
	case a == nil && q.events == 0:
		outcome = outcomeEmpty
	case a == nil:
		t.in.events.Add(ctx, int64(q.events), t.bySignal[q.signal])
		if n := q.outcome.rejected; n > 0 {
			t.in.rejected.Add(ctx, int64(n), t.bySignal[q.signal])
		}
		if n := q.outcome.lost; n > 0 {
			t.in.lost.Add(ctx, int64(n), t.bySignal[q.signal])
		}
		t.in.compressed.Add(ctx, int64(q.compressed), t.bySignal[q.signal])
		t.in.uncompressed.Add(ctx, int64(len(q.body)), t.bySignal[q.signal])
	default:
		if outcome = outcomeRefused; retryable(a.status) {
			outcome = outcomeRetry
		}
		t.in.refused.Add(ctx, 1, t.in.with(
			attribute.String("signal", signalName(q.signal)), attribute.String("transport", t.name), attribute.String("reason", a.reason)))
	}
	t.in.requests.Add(ctx, 1, t.byOutcome[q.signal][outcome])
	t.in.duration.Record(ctx, time.Since(q.start).Seconds(), t.byOutcome[q.signal][outcome])
}

// begin and end are the Collector's own accounting of receivers.
func (t *transport) begin(ctx context.Context, s signal.Signal) context.Context {
	switch s {
	case signal.Logs:
		return t.obs.StartLogsOp(ctx)
	case signal.Metrics:
		return t.obs.StartMetricsOp(ctx)
	default:
		return t.obs.StartTracesOp(ctx)
	}
}

func (t *transport) end(ctx context.Context, s signal.Signal, events int, err error) {
	const format = "protobuf"
	switch s {
	case signal.Logs:
		t.obs.EndLogsOp(ctx, format, events, err)
	case signal.Metrics:
		t.obs.EndMetricsOp(ctx, format, events, err)
	default:
		t.obs.EndTracesOp(ctx, format, events, err)
	}
}
