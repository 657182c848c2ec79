package ingestreceiver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/jsonshape"
	"github.com/pulsegrid/pulsegrid/internal/legacy"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/signal"
	"github.com/pulsegrid/pulsegrid/internal/tenant"
)

const (
	legacyPath        = "/v1/events"
	legacyObjectBytes = 192 // of what is decoded, for an object
	typeLines         = legacy.TypeLines
)

// mapping reads the mapping file. nil: the path is not served.
func (c *LegacyConfig) mapping() (*legacy.Mapping, error) {
	if !c.Enabled {
		return nil, nil
	}
	if c.MappingFile == "" {
		return legacy.Default(), nil
	}
	b, err := os.ReadFile(c.MappingFile)
	if err != nil {
		return nil, fmt.Errorf("legacy_events::mapping_file: %w", err)
	}
	m, err := legacy.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("legacy_events::mapping_file: %s: %w", c.MappingFile, err)
	}
	return m, nil
}

// serveLegacy takes a body of the old REST collectors: its events become an envelope a signal, those that cannot be mapped one for the quarantine, and
// all of them are acknowledged together.
func (r *ingestReceiver) serveLegacy(w http.ResponseWriter, req *http.Request, q *request, held *reservation) error {
	q.legacy = true
	if req.Method != http.MethodPost {
		return refusedMethod.because("method is %.20q, want POST", req.Method)
	}
	if t := mediaType(req); t != typeJSON && t != typeLines { // no web page sends these without asking first (CORS)
		return refusedContentType.because("content type is %.100q, want %s or %s", req.Header.Get("Content-Type"), typeJSON, typeLines)
	}
	ctx, encoding, err := r.admitHTTP(req, q, held)
	if err != nil {
		return err
	}
	b, err := r.readHTTP(w, req, encoding, held)
	if err != nil {
		return err
	}
	q.received, q.compressed, q.body = time.Now(), b.compressed, b.bytes
	cost := jsonshape.Of(b.bytes).Objects*legacyObjectBytes + 4*len(b.bytes) // its fields, twice, and what they become
	if held.held+int64(cost) > held.most() {
		return refusedTooLarge.because("JSON in %d bytes takes %d bytes of memory, at most %d are allowed (max_in_flight_bytes); send less at a time", len(b.bytes), held.held+int64(cost), held.most())
	}
	if !held.grow(cost) {
		return refusedMemory
	}
	events, err := legacy.Split(b.bytes, legacy.Limits{MaxEvents: r.cfg.Limits.MaxEvents, MaxDepth: r.cfg.Limits.depth()})
	switch {
	case errors.Is(err, legacy.ErrTooDeep):
		return refusedTooDeep.because("%v", err)
	case errors.Is(err, legacy.ErrTooManyEvents):
		return refusedTooMany.because("%v", err)
	case err != nil:
		return refusedMalformed.because("%v", err)
	}
	if len(events) == 0 {
		return nil
	}
	q.events = len(events)
	return r.exportLegacy(ctx, q, r.legacy.Convert(events))
}

func (r *ingestReceiver) exportLegacy(ctx context.Context, q *request, result legacy.Result) error {
	ld := plog.NewLogs()
	add := func(s signal.Signal, events int, marshal func() ([]byte, error)) error {
		if events == 0 {
			return nil
		}
		if id, known := tenant.FromContext(ctx); known && r.httpGate.registry != nil {
			if refusal := tenant.Admit(r.httpGate.registry, id.Tenant, s); refusal != nil {
				return deniedFor(refusal)
			}
		}
		body, err := marshal()
		if err != nil {
			return refusedMalformed.because("%v", err)
		}
		source := q.source
		if source == "" {
			source = otlpwire.Source(s, body)
		}
		envelope.Envelope{Signal: s, Tenant: q.tenant, Source: source, Events: events, Received: q.received, Lane: envelope.LaneFast, Body: body}.Append(ld)
		return nil
	}
	if err := errors.Join(
		add(signal.Logs, result.Logs.LogRecordCount(), plogotlp.NewExportRequestFromLogs(result.Logs).MarshalProto),
		add(signal.Metrics, result.Metrics.DataPointCount(), pmetricotlp.NewExportRequestFromMetrics(result.Metrics).MarshalProto),
		add(signal.Traces, result.Traces.SpanCount(), ptraceotlp.NewExportRequestFromTraces(result.Traces).MarshalProto),
	); err != nil {
		return err // nothing of the body is taken: its sender may send the rest again
	}
	if len(result.Rejected) > 0 {
		unmapped(q, result.Rejected).Append(ld)
	}
	ctx = q.transport.begin(ctx, signal.Logs)
	ctx, said := envelope.WithResult(ctx)
	err := r.next.logs.ConsumeLogs(ctx, ld)
	q.transport.end(ctx, signal.Logs, q.events, err)
	q.outcome = outcomeOf(said)
	q.outcome.rejected += len(result.Rejected)
	for _, bad := range result.Rejected[:min(len(result.Rejected), 3)] {
		q.outcome.reasons = append(q.outcome.reasons, fmt.Sprintf("event %d: %s: %s", bad.Index, bad.Code, encodableText(bad.Reason)))
	}
	return err
}

// unmapped is the envelope of the events that cannot be mapped, as they came, one a line.
func unmapped(q *request, rejected []legacy.Rejected) envelope.Envelope {
	body, findings := legacy.Unmapped(rejected)
	first := findings[0].Verdicts[0]
	return envelope.Envelope{
		Signal: signal.Logs, Tenant: q.tenant, Source: q.source, Events: len(rejected), Received: q.received, Lane: envelope.LaneQuarantine, Body: body,
		Findings:   findings.Append(nil),
		Quarantine: &envelope.Quarantine{Code: string(first.Code), Reason: first.String(), ContentType: typeLines, PII: true}, // nobody knows what it holds
	}
}
