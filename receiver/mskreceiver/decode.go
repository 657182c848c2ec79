package mskreceiver

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/envelope"
	"github.com/pulsegrid/pulsegrid/internal/eventid"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpdecode"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire"
	items "github.com/pulsegrid/pulsegrid/internal/quarantine"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Codes of a refusal: the quarantine_code header and the metric's reason.
const (
	codeUndecodable   = "undecodable"    // not an OTLP request of the topic's signal
	codeLimitExceeded = "limit_exceeded" // nested too deeply, or too many events
	codeWrongSignal   = "wrong_signal"   // its header names another signal than the topic's
	codeRefused       = "refused"        // the pipeline refused it for good
	codeReplaced      = "replaced"       // its offset had been delivered before with another record
)

// refusal says why a record goes to quarantine.
type refusal struct{ code, reason string }

// origin is what a record's headers, key and place say about its events.
type origin struct {
	lineage.Origin
	gateway bool // Received is the gateway's time, not the record's timestamp
}

// inspector looks at records of one signal before they are decoded.
type inspector struct {
	signal        signal.Signal
	defaultTenant string
	items         bool // records are items of the quarantine: whatever they hold is taken
}

func (c *Config) inspector(s signal.Signal) inspector {
	return inspector{signal: s, defaultTenant: c.DefaultTenant, items: len(c.Topics.Quarantine) > 0}
}

// inspect fills in e. It reads the whole value, but allocates next to nothing: that bounds what decoding may cost, since pdata
// itself recurses as deep as a value is nested.
func (i inspector) inspect(e *entry) {
	r := e.record
	e.origin = i.origin(r)
	if i.items {
		e.item, e.events = true, 1
		return
	}
	if name, ok := header(r, envelope.HeaderSignal); ok && name != i.signal.String() {
		e.refusal = &refusal{codeWrongSignal, fmt.Sprintf("header %s is %q, but the topic carries %s", envelope.HeaderSignal, name, i.signal)}
		return
	}
	events, err := otlpwire.Count(i.signal, r.Value, otlpwire.Limits{})
	switch {
	case err == nil:
		e.events = events
	case errors.Is(err, otlpwire.ErrTooDeep), errors.Is(err, otlpwire.ErrTooManyEvents):
		e.refusal = &refusal{codeLimitExceeded, err.Error()}
	default:
		e.refusal = &refusal{codeUndecodable, err.Error()}
	}
}

func (i inspector) origin(r *kgo.Record) origin {
	o := origin{Origin: lineage.Origin{
		Tenant:    i.defaultTenant,
		Source:    strings.ToValidUTF8(string(r.Key), "\uFFFD"),
		Received:  r.Timestamp,
		Topic:     r.Topic,
		Partition: r.Partition,
		Appended:  r.Timestamp,
	}}
	if tenant, ok := header(r, envelope.HeaderTenant); ok && tenant != "" {
		o.Tenant = strings.ToValidUTF8(tenant, "\uFFFD")
	}
	if v, ok := header(r, envelope.HeaderReceivedNanos); ok {
		if ns, err := strconv.ParseInt(v, 10, 64); err == nil && ns > 0 {
			o.Received, o.gateway = time.Unix(0, ns), true
		}
	}
	return o
}

func header(r *kgo.Record, key string) (string, bool) {
	for i := range r.Headers {
		if r.Headers[i].Key == key {
			return string(r.Headers[i].Value), true
		}
	}
	return "", false
}

// batch is a block decoded: pdata of its signal; the other two are zero.
type batch struct {
	signal  signal.Signal
	logs    plog.Logs
	metrics pmetric.Metrics
	traces  ptrace.Traces
	events  int
	decoder *otlpdecode.Decoder
}

func newBatch(s signal.Signal, decoder *otlpdecode.Decoder) *batch {
	b := &batch{signal: s, decoder: decoder}
	switch s {
	case signal.Logs:
		b.logs = plog.NewLogs()
	case signal.Metrics:
		b.metrics = pmetric.NewMetrics()
	case signal.Traces:
		b.traces = ptrace.NewTraces()
	}
	return b
}

// append decodes e's record, stamps it and adds it to b. It changes nothing where it refuses the record. b refers to the record's
// value from then on, so the client must not be given pools that it would come from (kgo.WithPools).
func (b *batch) append(e *entry) *refusal {
	var err error
	if e.item {
		b.appendItem(e)
		return nil
	}
	var stamped int
	s := stamperOf(e)
	switch b.signal {
	case signal.Logs:
		var ld plog.Logs
		if ld, err = b.decoder.Logs(e.record.Value); err == nil {
			stamped = s.logs(ld)
			ld.ResourceLogs().MoveAndAppendTo(b.logs.ResourceLogs())
		}
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		if err = req.UnmarshalProto(e.record.Value); err == nil {
			stamped = s.metrics(req.Metrics())
			req.Metrics().ResourceMetrics().MoveAndAppendTo(b.metrics.ResourceMetrics())
		}
	case signal.Traces:
		var td ptrace.Traces
		if td, err = b.decoder.Traces(e.record.Value); err == nil {
			stamped = s.traces(td)
			td.ResourceSpans().MoveAndAppendTo(b.traces.ResourceSpans())
		}
	}
	if err != nil {
		return &refusal{codeUndecodable, err.Error()}
	}
	b.events += stamped
	return nil
}

// appendItem adds an item of the quarantine to b, which is of logs.
func (b *batch) appendItem(e *entry) {
	rl := b.logs.ResourceLogs().AppendEmpty()
	lineage.StampResource(rl.Resource().Attributes(), e.origin.Origin)
	lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	items.ToLog(e.record, lr)
	lineage.StampEvent(lr.Attributes(), lineage.Event{ID: items.FromRecord(e.record).ID(), Offset: e.record.Offset})
	b.events++
}

// stamper goes through the events of one record in their order, and stamps them; or, with ids, collects their ids only.
type stamper struct {
	offset int64
	index  int32
	origin *lineage.Origin
	ids    *[][16]byte
}

func stamperOf(e *entry) stamper { return stamper{offset: e.record.Offset, origin: &e.origin.Origin} }

func (s *stamper) stamp(attrs pcommon.Map, id [16]byte) {
	if s.ids != nil {
		*s.ids = append(*s.ids, id)
		return
	}
	lineage.StampEvent(attrs, lineage.Event{ID: id, Offset: s.offset, Index: s.index})
	s.index++
}

// resource returns the source of r's events.
func (s *stamper) resource(r pcommon.Resource) string {
	source := eventid.Source(s.origin.Source, r)
	if s.ids == nil {
		lineage.StampResource(r.Attributes(), *s.origin)
	}
	return source
}

func (s *stamper) logs(ld plog.Logs) int {
	for _, rl := range ld.ResourceLogs().All() {
		source := s.resource(rl.Resource())
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				s.stamp(lr.Attributes(), eventid.Log(lr, source))
			}
		}
	}
	return int(s.index)
}

func (s *stamper) traces(td ptrace.Traces) int {
	for _, rs := range td.ResourceSpans().All() {
		source := s.resource(rs.Resource())
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				s.stamp(span.Attributes(), eventid.Span(span, source))
			}
		}
	}
	return int(s.index)
}

func (s *stamper) metrics(md pmetric.Metrics) int {
	for _, rm := range md.ResourceMetrics().All() {
		source := s.resource(rm.Resource())
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				s.points(m, sm.Scope(), source)
			}
		}
	}
	return int(s.index)
}

func (s *stamper) points(m pmetric.Metric, scope pcommon.InstrumentationScope, source string) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		for _, dp := range m.Gauge().DataPoints().All() {
			s.stamp(dp.Attributes(), eventid.NumberPoint(m, scope, dp, source))
		}
	case pmetric.MetricTypeSum:
		for _, dp := range m.Sum().DataPoints().All() {
			s.stamp(dp.Attributes(), eventid.NumberPoint(m, scope, dp, source))
		}
	case pmetric.MetricTypeHistogram:
		for _, dp := range m.Histogram().DataPoints().All() {
			s.stamp(dp.Attributes(), eventid.HistogramPoint(m, scope, dp, source))
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, dp := range m.ExponentialHistogram().DataPoints().All() {
			s.stamp(dp.Attributes(), eventid.ExponentialHistogramPoint(m, scope, dp, source))
		}
	case pmetric.MetricTypeSummary:
		for _, dp := range m.Summary().DataPoints().All() {
			s.stamp(dp.Attributes(), eventid.SummaryPoint(m, scope, dp, source))
		}
	}
}
