package quarantineprocessor

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/otel/attribute"

	"github.com/pulsegrid/pulsegrid/internal/componentmeta"
	"github.com/pulsegrid/pulsegrid/internal/composition"
	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/schema"
)

// maxReasons are told to the sender.
const maxReasons = 3

type quarantineProcessor struct {
	id        component.ID
	cfg       *Config
	next      consumer.Logs
	telemetry *componentmeta.Telemetry
	events    componentmeta.Counter
	records   componentmeta.Counter
	bytes     componentmeta.Counter
	objects   componentmeta.Counter
	store     *oversized // nil: none
}

func newProcessor(set processor.Settings, cfg *Config, next consumer.Logs) (*quarantineProcessor, error) {
	t := metadata.Telemetry(set.ID, set.TelemetrySettings)
	p := &quarantineProcessor{
		id: set.ID, cfg: cfg, next: next, telemetry: t,
		events: t.Counter("quarantine_events"), records: t.Counter("quarantine_records"), bytes: t.Counter("quarantine_bytes"), objects: t.Counter("quarantine_objects"),
	}
	return p, t.Err()
}

// Start opens the object store, if there is one.
func (p *quarantineProcessor) Start(ctx context.Context, _ component.Host) (err error) {
	if p.cfg.Oversized.URL != "" {
		p.store, err = openOversized(ctx, p.cfg.Oversized)
	}
	return err
}

// Shutdown may be called without Start, and twice.
func (p *quarantineProcessor) Shutdown(context.Context) error {
	p.telemetry.Shutdown()
	if p.store == nil {
		return nil
	}
	store := p.store
	p.store = nil
	return store.bucket.Close()
}

// Capabilities: what is divided is made anew.
func (*quarantineProcessor) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: false}
}

// ConsumeLogs hands on both parts of each envelope in one call, so that whoever acknowledges the one has the other too. Ordinary log records pass.
func (p *quarantineProcessor) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	if composition.Walking(ctx) {
		return p.next.ConsumeLogs(composition.Pass(ctx, composition.Step{ID: p.id.String(), MaxRecordBytes: p.cfg.MaxRecordBytes}), ld)
	}
	if !envelope.Is(ld) {
		return p.next.ConsumeLogs(ctx, ld)
	}
	es, err := envelope.All(ld)
	if err != nil {
		return consumererror.NewPermanent(err)
	}
	out, quarantined, rejected, reasons := plog.NewLogs(), []envelope.Envelope(nil), 0, []string(nil)
	divided := false
	for _, e := range es {
		switch {
		case e.Lane == envelope.LaneQuarantine:
			size := len(e.Body)
			if err := p.shrink(ctx, &e); err != nil {
				return err
			}
			divided = divided || len(e.Body) != size
			quarantined = append(quarantined, e)
			e.Append(out)
			continue
		case len(e.Findings) == 0:
			e.Append(out)
			continue
		}
		findings, err := schema.DecodeFindings(e.Findings)
		if err != nil {
			return consumererror.NewPermanent(fmt.Errorf("%s request of tenant %q: findings: %w", e.Signal, e.Tenant, err))
		}
		divided = true
		healthy, bad, err := p.divide(e, findings)
		if err != nil {
			return consumererror.NewPermanent(fmt.Errorf("%s request of tenant %q: %w", e.Signal, e.Tenant, err))
		}
		if healthy != nil {
			healthy.Append(out)
		}
		for i := range bad {
			if err := p.shrink(ctx, &bad[i]); err != nil {
				return err
			}
			bad[i].Append(out)
		}
		quarantined = append(quarantined, bad...)
		rejected += len(findings)
		for _, f := range findings[:min(len(findings), maxReasons)] {
			reasons = append(reasons, fmt.Sprintf("event %d: %s", f.Event, f.Verdicts[0]))
		}
	}
	if !divided {
		out = ld
	}
	if p.store != nil && slices.ContainsFunc(es, func(e envelope.Envelope) bool { return len(e.Body) > p.cfg.MaxRecordBytes }) {
		ctx = envelope.WithKeeper(ctx, func(ctx context.Context, e *envelope.Envelope) error {
			if err := p.keep(ctx, e); err != nil {
				return err
			}
			quarantined = append(quarantined, *e)
			return nil
		})
	}
	if err := p.next.ConsumeLogs(ctx, out); err != nil {
		return err
	}
	if rejected > 0 {
		envelope.ResultOf(ctx).Reject(rejected, reasons...)
	}
	p.count(ctx, quarantined)
	return nil
}

// shrink puts the body of an envelope that is larger than a record into the object store. Its error is worth another try: nothing of the request has gone
// on.
func (p *quarantineProcessor) shrink(ctx context.Context, e *envelope.Envelope) error {
	if p.store == nil || len(e.Body)+len(e.Findings)+headerRoom <= p.cfg.MaxRecordBytes {
		return nil
	}
	return p.keep(ctx, e)
}

func (p *quarantineProcessor) keep(ctx context.Context, e *envelope.Envelope) error {
	if err := p.store.keep(ctx, e); err != nil {
		return err
	}
	p.objects.Add(ctx, 1, p.telemetry.With(attribute.String("signal", e.Signal.String())))
	return nil
}

// divide makes the envelope of an envelope's healthy events, nil where it has none, and those of its events at fault.
func (p *quarantineProcessor) divide(e envelope.Envelope, findings schema.Findings) (healthy *envelope.Envelope, bad []envelope.Envelope, err error) {
	if last := findings[len(findings)-1].Event; last >= e.Events {
		return nil, nil, fmt.Errorf("findings: event %d is at fault, and there are %d", last, e.Events)
	}
	next := 0 // of findings
	good, rest, err := otlpwire.Split(e.Signal, e.Body, func(i int) bool {
		if next < len(findings) && findings[next].Event == i {
			next++
			return false
		}
		return true
	})
	if err != nil {
		return nil, nil, err
	}
	if next != len(findings) {
		return nil, nil, fmt.Errorf("findings: event %d is at fault, and the request has fewer events", findings[next].Event)
	}
	of, err := eventid.Divide(e.Signal, e.Body, e.Request, e.Events)
	if err != nil {
		return nil, nil, err
	}
	if bad, err = p.quarantine(e, of, rest, findings); err != nil {
		return nil, nil, err
	}
	if good == nil {
		return nil, bad, nil
	}
	h := e
	request := of.Part(healthyOf(e.Events, findings))
	h.Body, h.Events, h.Findings, h.Request = good, e.Events-len(findings), nil, request.Encode()
	return &h, bad, nil
}

// healthyOf are the events without findings.
func healthyOf(events int, findings schema.Findings) iter.Seq[int] {
	return func(yield func(int) bool) {
		next := 0 // of findings
		for event := range events {
			if next < len(findings) && findings[next].Event == event {
				next++
			} else if !yield(event) {
				return
			}
		}
	}
}

// atFault are the events of findings.
func atFault(findings schema.Findings) iter.Seq[int] {
	return func(yield func(int) bool) {
		for _, f := range findings {
			if !yield(f.Event) {
				return
			}
		}
	}
}

// quarantine makes envelopes of a request whose events are all at fault, as large as is allowed.
func (p *quarantineProcessor) quarantine(e envelope.Envelope, division *eventid.Division, rest []byte, findings schema.Findings) ([]envelope.Envelope, error) {
	parts, counts, err := otlpwire.SplitBySize(e.Signal, rest, p.cfg.MaxRecordBytes/2)
	if err != nil {
		return nil, err
	}
	var out []envelope.Envelope
	total := 0
	for i, part := range parts {
		of := findings[:counts[i]]
		findings = findings[counts[i]:]
		made := len(out)
		if out, err = p.add(out, e, division, part, of); err != nil {
			return nil, err
		}
		for _, e := range out[made:] {
			total += len(e.Body)
		}
		if err := otlpwire.Amplified(len(rest), total); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// add appends the envelope of a part, or of its halves where its verdicts are too long for one.
func (p *quarantineProcessor) add(out []envelope.Envelope, e envelope.Envelope, division *eventid.Division, part []byte, of schema.Findings) ([]envelope.Envelope, error) {
	q := envelope.Quarantine{Code: string(of[0].Verdicts[0].Code), Reason: of[0].Verdicts[0].String(), ContentType: envelope.TypeOTLP}
	own := make(schema.Findings, len(of))
	for i, f := range of {
		f.Event = i // in the part
		own[i] = f
		q.PII = q.PII || f.PII
	}
	encoded, request := own.Append(nil), division.Part(atFault(of))
	header := request.Encode()
	if half := len(of) / 2; half > 0 && len(encoded)+len(header) > p.cfg.MaxRecordBytes/2 {
		first, second, err := otlpwire.Split(e.Signal, part, func(i int) bool { return i < half })
		if err != nil {
			return nil, err
		}
		if out, err = p.add(out, e, division, first, of[:half]); err != nil {
			return nil, err
		}
		return p.add(out, e, division, second, of[half:])
	}
	e.Lane, e.Body, e.Events, e.Findings, e.Quarantine, e.Request = envelope.LaneQuarantine, part, len(of), encoded, &q, header
	return append(out, e), nil
}

// count counts what has been acknowledged.
func (p *quarantineProcessor) count(ctx context.Context, es []envelope.Envelope) {
	for _, e := range es {
		sig := attribute.String("signal", e.Signal.String())
		p.records.Add(ctx, 1, p.telemetry.With(sig, attribute.String("code", e.Quarantine.Code)))
		p.bytes.Add(ctx, int64(len(e.Body)), p.telemetry.With(sig))
		findings, err := schema.DecodeFindings(e.Findings)
		if err != nil || e.Events == 0 {
			continue // a body that is not OTLP has no events; findings that another component wrote are its business
		}
		codes := map[schema.Code]int64{}
		for _, f := range findings {
			codes[f.Verdicts[0].Code]++
		}
		for code, n := range codes {
			p.events.Add(ctx, n, p.telemetry.With(sig, attribute.String("code", string(code))))
		}
	}
}
