package backfill

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/legacy"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	"github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Stream is one kind of a job's blocks: of events of a signal, or of what goes to quarantine. Each has a topic of its own.
type Stream int

// The streams.
const (
	Logs Stream = iota
	Metrics
	Traces
	Quarantine
	streams
)

func (s Stream) String() string {
	return [streams]string{"logs", "metrics", "traces", "quarantine"}[s]
}

// signal is that of the stream's pipeline.
func (s Stream) signal() signal.Signal {
	return [streams]signal.Signal{signal.Logs, signal.Metrics, signal.Traces, signal.Logs}[s]
}

// codeLineTooLong is the quarantine's code of a line of more than Settings.MaxLineBytes.
const codeLineTooLong = "limit_exceeded"

// maxLineEvents bounds the events of one line, which may be an array.
const maxLineEvents = 10_000

// batch is what a chunk holds of a stream. The pdata of the other signals is zero.
type batch struct {
	logs    plog.Logs
	metrics pmetric.Metrics
	traces  ptrace.Traces
	records []eventid.Record // one a line, in the order of their offsets
	events  int
	bytes   int

	// Where events of a resource go, by its identity: nearly all lines share theirs with others.
	logsOf    map[string]plog.LogRecordSlice
	metricsOf map[string]pmetric.MetricSlice
	spansOf   map[string]ptrace.SpanSlice
}

// decoded is a chunk decoded: what it has nothing of is nil.
type decoded struct {
	*chunk
	batches [streams]*batch
	tally   Tally
}

// decoder makes events of lines. It is not safe for concurrent use.
type decoder struct {
	plan    *Plan
	mapping *legacy.Mapping
	readers [streams]*eventid.Reader
	origins [streams]lineage.Origin
}

func newDecoder(p *Plan, m *legacy.Mapping) *decoder {
	d := &decoder{plan: p, mapping: m}
	for s := range streams {
		d.readers[s] = eventid.NewReader(s.signal(), true)
		d.origins[s] = lineage.Origin{Tenant: p.Spec.Tenant, Received: p.Created, Topic: p.topic(s)}
	}
	return d
}

func (d *decoder) decode(c *chunk) *decoded {
	out := &decoded{chunk: c}
	appended := d.plan.Objects[c.object].Modified
	for s := range d.origins {
		d.origins[s].Appended = appended
	}
	out.tally.Lines = int64(len(c.lines))
	for _, l := range c.lines {
		d.line(out, l, appended.UnixMilli())
	}
	out.tally.Logs, out.tally.Metrics, out.tally.Traces = out.events(Logs), out.events(Metrics), out.events(Traces)
	return out
}

func (d *decoded) events(s Stream) int64 {
	if d.batches[s] == nil {
		return 0
	}
	return int64(d.batches[s].events)
}

// batch of a stream, which has something now.
func (d *decoded) batch(s Stream) *batch {
	b := d.batches[s]
	if b == nil {
		b = &batch{}
		switch s {
		case Metrics:
			b.metrics, b.metricsOf = pmetric.NewMetrics(), map[string]pmetric.MetricSlice{}
		case Traces:
			b.traces, b.spansOf = ptrace.NewTraces(), map[string]ptrace.SpanSlice{}
		default:
			b.logs, b.logsOf = plog.NewLogs(), map[string]plog.LogRecordSlice{}
		}
		d.batches[s] = b
	}
	return b
}

// line decodes a line: one event, an array of events, or several. What cannot be an event goes to quarantine.
func (d *decoder) line(out *decoded, l line, appended int64) {
	text := out.text(l)
	if most := d.plan.Settings.MaxLineBytes; l.size > int64(most) {
		d.item(out, l, item{code: codeLineTooLong, reason: fmt.Sprintf("the line has %d bytes, at most %d are read (--max-line-bytes): its first %d are kept here", l.size, most, len(text)), body: text, events: 0})
		return
	}
	events, err := legacy.Split(text, legacy.Limits{MaxEvents: maxLineEvents})
	if err != nil {
		d.undecodable(out, l, err)
		return
	}
	result := d.mapping.Convert(events)
	err = errors.Join(
		d.add(out, l, Logs, result.Logs.LogRecordCount(), appended, plogotlp.NewExportRequestFromLogs(result.Logs).MarshalProto, func(s *lineage.Stamper, b *batch) {
			b.addLogs(s, result.Logs)
		}),
		d.add(out, l, Metrics, result.Metrics.DataPointCount(), appended, pmetricotlp.NewExportRequestFromMetrics(result.Metrics).MarshalProto, func(s *lineage.Stamper, b *batch) {
			b.addMetrics(s, result.Metrics)
		}),
		d.add(out, l, Traces, result.Traces.SpanCount(), appended, ptraceotlp.NewExportRequestFromTraces(result.Traces).MarshalProto, func(s *lineage.Stamper, b *batch) {
			b.addTraces(s, result.Traces)
		}),
	)
	if err != nil {
		d.undecodable(out, l, err)
	}
	if len(result.Rejected) > 0 {
		body, findings := legacy.Unmapped(result.Rejected)
		first := findings[0].Verdicts[0]
		d.item(out, l, item{code: string(first.Code), reason: first.String(), body: body, events: len(result.Rejected), findings: findings})
	}
}

// add stamps a line's events of a stream and moves them to their batch. A line is a request of its own (decision 0030).
func (d *decoder) add(out *decoded, l line, s Stream, events int, appended int64, marshal func() ([]byte, error), move func(*lineage.Stamper, *batch)) error {
	if events == 0 {
		return nil
	}
	value, err := marshal()
	if err != nil {
		return err
	}
	if events, err = otlpwire.Count(s.signal(), value, otlpwire.Limits{}); err != nil {
		return fmt.Errorf("%s that cannot be written as OTLP: %w", s, err)
	}
	from := eventid.From{Tenant: d.plan.Spec.Tenant, Source: []byte(otlpwire.Source(s.signal(), value))}
	if d.plan.Settings.EqualLines == EqualEvents {
		r := eventid.Request{Whole: true, Digest: eventid.Digest(strconv.AppendInt(value, l.offset, 10))}
		from.Request = r.Encode()
	}
	r := eventid.Record{Offset: l.offset, Appended: appended}
	if err := d.readers[s].Read(&r, value, events, from); err != nil {
		return err
	}
	b := out.batch(s)
	origin := d.origins[s]
	origin.Source = string(from.Source)
	move(&lineage.Stamper{Origin: origin, Offset: l.offset, ID: r.ID}, b)
	b.records = append(b.records, r)
	b.events += events
	b.bytes += len(value)
	return nil
}

// identity is the same for equal resources.
func identity(r pcommon.Resource) string {
	var key []byte
	for k, v := range r.Attributes().All() {
		key = strconv.AppendQuote(append(strconv.AppendQuote(key, k), byte(v.Type())), v.AsString())
	}
	return string(key)
}

// addLogs moves a line's log records, whose order it keeps, to those of their resource.
func (b *batch) addLogs(s *lineage.Stamper, ld plog.Logs) {
	for _, rl := range ld.ResourceLogs().All() {
		key := identity(rl.Resource())
		to, known := b.logsOf[key]
		for _, sl := range rl.ScopeLogs().All() {
			if !known {
				s.Resource(rl.Resource())
				r := b.logs.ResourceLogs().AppendEmpty()
				rl.Resource().MoveTo(r.Resource())
				scope := r.ScopeLogs().AppendEmpty()
				sl.Scope().MoveTo(scope.Scope())
				to, known = scope.LogRecords(), true
				b.logsOf[key] = to
			}
			for _, lr := range sl.LogRecords().All() {
				s.Event(lr.Attributes())
			}
			sl.LogRecords().MoveAndAppendTo(to)
		}
	}
}

// addMetrics does the same with data points.
func (b *batch) addMetrics(s *lineage.Stamper, md pmetric.Metrics) {
	for _, rm := range md.ResourceMetrics().All() {
		key := identity(rm.Resource())
		to, known := b.metricsOf[key]
		for _, sm := range rm.ScopeMetrics().All() {
			if !known {
				s.Resource(rm.Resource())
				r := b.metrics.ResourceMetrics().AppendEmpty()
				rm.Resource().MoveTo(r.Resource())
				scope := r.ScopeMetrics().AppendEmpty()
				sm.Scope().MoveTo(scope.Scope())
				to, known = scope.Metrics(), true
				b.metricsOf[key] = to
			}
			for _, m := range sm.Metrics().All() {
				s.Points(m)
			}
			sm.Metrics().MoveAndAppendTo(to)
		}
	}
}

// addTraces does the same with spans.
func (b *batch) addTraces(s *lineage.Stamper, td ptrace.Traces) {
	for _, rs := range td.ResourceSpans().All() {
		key := identity(rs.Resource())
		to, known := b.spansOf[key]
		for _, ss := range rs.ScopeSpans().All() {
			if !known {
				s.Resource(rs.Resource())
				r := b.traces.ResourceSpans().AppendEmpty()
				rs.Resource().MoveTo(r.Resource())
				scope := r.ScopeSpans().AppendEmpty()
				ss.Scope().MoveTo(scope.Scope())
				to, known = scope.Spans(), true
				b.spansOf[key] = to
			}
			for _, span := range ss.Spans().All() {
				s.Event(span.Attributes())
			}
			ss.Spans().MoveAndAppendTo(to)
		}
	}
}

// item is what goes to quarantine of a line.
type item struct {
	code, reason string
	body         []byte
	events       int
	findings     schema.Findings
}

// undecodable puts a line into quarantine that is not JSON.
func (d *decoder) undecodable(out *decoded, l line, err error) {
	v := schema.Verdict{Code: schema.Undecodable, Path: "line", Expected: "an event of the old collectors as JSON", Got: err.Error()}
	d.item(out, l, item{code: string(v.Code), reason: v.String(), body: out.text(l), events: 1, findings: schema.Findings{{PII: true, Verdicts: []schema.Verdict{v}}}})
}

// item adds an item of the quarantine, as the aggregator makes it of a record of quarantine.v1.
func (d *decoder) item(out *decoded, l line, i item) {
	at := d.plan.line(l.offset)
	r := &kgo.Record{Topic: d.plan.topic(Quarantine), Offset: l.offset, Timestamp: d.plan.Created, Key: []byte(at), Value: i.body}
	header := func(key, value string) {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
	header(envelope.HeaderTenant, d.plan.Spec.Tenant)
	header(envelope.HeaderSource, at)
	header(envelope.HeaderGateway, d.plan.Spec.Job())
	header(envelope.HeaderReceivedNanos, strconv.FormatInt(d.plan.Created.UnixNano(), 10))
	header(envelope.HeaderEvents, strconv.Itoa(i.events))
	header(envelope.HeaderContentType, legacy.TypeLines)
	header(envelope.HeaderPII, "true") // nobody knows what it holds
	header(envelope.HeaderQuarantineCode, i.code)
	header(envelope.HeaderQuarantineReason, i.reason)
	if len(i.findings) > 0 {
		header(envelope.HeaderFindings, string(i.findings.Append(nil)))
	}
	b := out.batch(Quarantine)
	rl := b.logs.ResourceLogs().AppendEmpty()
	origin := d.origins[Quarantine]
	origin.Source = at
	lineage.StampResource(rl.Resource().Attributes(), origin)
	lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	quarantine.ToLog(r, lr)
	id := quarantine.FromRecord(r).ID()
	index := 0
	if n := len(b.records); n > 0 && b.records[n-1].Offset == l.offset {
		index = len(b.records[n-1].Keys)
	} else {
		b.records = append(b.records, eventid.Record{Offset: l.offset, Appended: d.plan.Created.UnixMilli()})
	}
	lineage.StampEvent(lr.Attributes(), lineage.Event{ID: id, Offset: l.offset, Index: int32(index)})
	d.readers[Quarantine].Item(&b.records[len(b.records)-1], d.plan.Spec.Tenant, id)
	b.events++
	b.bytes += len(i.body)
	out.tally.Quarantined += int64(max(i.events, 1))
}
