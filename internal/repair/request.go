package repair

import (
	"fmt"
	"iter"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// resource, scope and metric are what events have in common. They do not change once they are made: after gives what a step makes of one, the same for all
// events, so that a repair costs no more than the item and what its steps change.
type resource struct {
	resource  pcommon.Resource
	schemaURL string
	bytes     int // as protobuf, about; zero: not known yet
	made      map[*Step]*resource
}

type scope struct {
	scope     pcommon.InstrumentationScope
	schemaURL string
	bytes     int // likewise
	made      map[*Step]*scope
}

// metric is one without its points.
type metric struct {
	shell pmetric.Metric
	bytes int // likewise
	made  map[*Step]*metric
}

func (r *resource) after(s *Step, change func(*resource)) *resource {
	return after(&r.made, s, func() *resource {
		made := &resource{resource: pcommon.NewResource(), schemaURL: r.schemaURL}
		r.resource.CopyTo(made.resource)
		change(made)
		return made
	})
}

func (c *scope) after(s *Step, change func(*scope)) *scope {
	return after(&c.made, s, func() *scope {
		made := &scope{scope: c.scope, schemaURL: c.schemaURL} // steps change its URL only
		change(made)
		return made
	})
}

func (m *metric) after(s *Step, change func(*metric)) *metric {
	return after(&m.made, s, func() *metric {
		made := &metric{shell: pmetric.NewMetric()}
		m.shell.CopyTo(made.shell)
		change(made)
		return made
	})
}

func (r *resource) writeTo(to interface {
	Resource() pcommon.Resource
	SetSchemaUrl(string)
}) {
	r.resource.CopyTo(to.Resource())
	to.SetSchemaUrl(r.schemaURL)
}

func (c *scope) writeTo(to interface {
	Scope() pcommon.InstrumentationScope
	SetSchemaUrl(string)
}) {
	c.scope.CopyTo(to.Scope())
	to.SetSchemaUrl(c.schemaURL)
}

// size is about what a resource, scope or metric takes in a request.
func (r *resource) size() int {
	if r.bytes == 0 {
		ld := plog.NewLogs()
		r.resource.CopyTo(ld.ResourceLogs().AppendEmpty().Resource())
		r.bytes = (&plog.ProtoMarshaler{}).LogsSize(ld) + len(r.schemaURL)
	}
	return r.bytes
}

func (c *scope) size() int {
	if c.bytes == 0 {
		ld := plog.NewLogs()
		c.scope.CopyTo(ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().Scope())
		c.bytes = (&plog.ProtoMarshaler{}).LogsSize(ld) + len(c.schemaURL)
	}
	return c.bytes
}

func (m *metric) size() int {
	if m.bytes == 0 {
		md := pmetric.NewMetrics()
		m.shell.CopyTo(md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty())
		m.bytes = (&pmetric.ProtoMarshaler{}).MetricsSize(md)
	}
	return m.bytes
}

func after[T any](made *map[*Step]*T, s *Step, build func() *T) *T {
	if t := (*made)[s]; t != nil {
		return t
	}
	if *made == nil {
		*made = map[*Step]*T{}
	}
	t := build()
	(*made)[s] = t
	return t
}

// request gathers events of one signal. Those that follow each other share resource, scope and metric if they have the same.
type request struct {
	signal  signal.Signal
	logs    plog.Logs
	metrics pmetric.Metrics
	traces  ptrace.Traces
	events  int
	around  int // bytes of resources, scopes and metrics: what is around the events, and may be more than their item

	resource *resource // of the event appended last
	scope    *scope
	metric   *metric

	// Where the next event goes.
	records plog.LogRecordSlice
	spans   ptrace.SpanSlice
	inScope pmetric.MetricSlice
	points  pmetric.Metric
}

func newRequest(sig signal.Signal) *request {
	return &request{signal: sig, logs: plog.NewLogs(), metrics: pmetric.NewMetrics(), traces: ptrace.NewTraces()}
}

// add appends a copy of an event.
func (r *request) add(e *event) {
	if e.resource != r.resource {
		r.around += e.resource.size()
	}
	if e.resource != r.resource || e.scope != r.scope {
		r.around += e.scope.size()
		r.open(e)
		r.resource, r.scope, r.metric = e.resource, e.scope, nil
	}
	if e.metric != r.metric {
		r.points = r.inScope.AppendEmpty()
		e.metric.shell.CopyTo(r.points)
		r.around += e.metric.size()
		r.metric = e.metric
	}
	e.put(r)
	r.events++
}

// open begins a scope, and a resource if it is another one.
func (r *request) open(e *event) {
	switch r.signal {
	case signal.Logs:
		all := r.logs.ResourceLogs()
		if e.resource != r.resource {
			e.resource.writeTo(all.AppendEmpty())
		}
		sl := all.At(all.Len() - 1).ScopeLogs().AppendEmpty()
		e.scope.writeTo(sl)
		r.records = sl.LogRecords()
	case signal.Traces:
		all := r.traces.ResourceSpans()
		if e.resource != r.resource {
			e.resource.writeTo(all.AppendEmpty())
		}
		ss := all.At(all.Len() - 1).ScopeSpans().AppendEmpty()
		e.scope.writeTo(ss)
		r.spans = ss.Spans()
	case signal.Metrics:
		all := r.metrics.ResourceMetrics()
		if e.resource != r.resource {
			e.resource.writeTo(all.AppendEmpty())
		}
		sm := all.At(all.Len() - 1).ScopeMetrics().AppendEmpty()
		e.scope.writeTo(sm)
		r.inScope = sm.Metrics()
	}
}

func (r *request) marshal() ([]byte, error) {
	switch r.signal {
	case signal.Logs:
		return plogotlp.NewExportRequestFromLogs(r.logs).MarshalProto()
	case signal.Metrics:
		return pmetricotlp.NewExportRequestFromMetrics(r.metrics).MarshalProto()
	default:
		return ptraceotlp.NewExportRequestFromTraces(r.traces).MarshalProto()
	}
}

func (r *request) json() ([]byte, error) {
	switch r.signal {
	case signal.Logs:
		return plogotlp.NewExportRequestFromLogs(r.logs).MarshalJSON()
	case signal.Metrics:
		return pmetricotlp.NewExportRequestFromMetrics(r.metrics).MarshalJSON()
	default:
		return ptraceotlp.NewExportRequestFromTraces(r.traces).MarshalJSON()
	}
}

// explode takes a request apart, in the order of its events.
func explode(sig signal.Signal, body []byte) (iter.Seq[event], error) {
	switch sig {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			return nil, err
		}
		return func(yield func(event) bool) { logEvents(req.Logs(), yield) }, nil
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			return nil, err
		}
		return func(yield func(event) bool) { pointEvents(req.Metrics(), yield) }, nil
	case signal.Traces:
		req := ptraceotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			return nil, err
		}
		return func(yield func(event) bool) { spanEvents(req.Traces(), yield) }, nil
	}
	return nil, fmt.Errorf("%s is no signal", sig)
}

func logEvents(ld plog.Logs, yield func(event) bool) {
	for _, rl := range ld.ResourceLogs().All() {
		r := &resource{resource: rl.Resource(), schemaURL: rl.SchemaUrl()}
		for _, sl := range rl.ScopeLogs().All() {
			s := &scope{scope: sl.Scope(), schemaURL: sl.SchemaUrl()}
			for _, lr := range sl.LogRecords().All() {
				if !yield(logEvent(lr, event{resource: r, scope: s})) {
					return
				}
			}
		}
	}
}

func logEvent(l plog.LogRecord, e event) event {
	body := l.Body()
	e.attributes, e.body, e.text, e.setText, e.setSeverity = l.Attributes(), &body, l.EventName, l.SetEventName, l.SetSeverityText
	e.setTime = map[field]func(pcommon.Timestamp){fieldTime: l.SetTimestamp, fieldObservedTime: l.SetObservedTimestamp}
	e.put = func(to *request) { l.CopyTo(to.records.AppendEmpty()) }
	shared := event{resource: e.resource, scope: e.scope}
	e.clone = func() event {
		c := plog.NewLogRecord()
		l.CopyTo(c)
		return logEvent(c, shared)
	}
	return e
}

func spanEvents(td ptrace.Traces, yield func(event) bool) {
	for _, rs := range td.ResourceSpans().All() {
		r := &resource{resource: rs.Resource(), schemaURL: rs.SchemaUrl()}
		for _, ss := range rs.ScopeSpans().All() {
			s := &scope{scope: ss.Scope(), schemaURL: ss.SchemaUrl()}
			for _, span := range ss.Spans().All() {
				if !yield(spanEvent(span, event{resource: r, scope: s})) {
					return
				}
			}
		}
	}
}

func spanEvent(sp ptrace.Span, e event) event {
	e.attributes, e.text, e.setText = sp.Attributes(), sp.Name, sp.SetName
	e.setTime = map[field]func(pcommon.Timestamp){fieldTime: sp.SetStartTimestamp, fieldEndTime: sp.SetEndTimestamp}
	e.put = func(to *request) { sp.CopyTo(to.spans.AppendEmpty()) }
	shared := event{resource: e.resource, scope: e.scope}
	e.clone = func() event {
		c := ptrace.NewSpan()
		sp.CopyTo(c)
		return spanEvent(c, shared)
	}
	return e
}

func pointEvents(md pmetric.Metrics, yield func(event) bool) {
	for _, rm := range md.ResourceMetrics().All() {
		r := &resource{resource: rm.Resource(), schemaURL: rm.SchemaUrl()}
		for _, sm := range rm.ScopeMetrics().All() {
			s := &scope{scope: sm.Scope(), schemaURL: sm.SchemaUrl()}
			for _, m := range sm.Metrics().All() {
				if !pointsOf(m, event{resource: r, scope: s, metric: &metric{shell: shellOf(m)}}, yield) {
					return
				}
			}
		}
	}
}

// shellOf copies a metric without its points.
func shellOf(m pmetric.Metric) pmetric.Metric {
	shell := pmetric.NewMetric()
	shell.SetName(m.Name())
	shell.SetDescription(m.Description())
	shell.SetUnit(m.Unit())
	m.Metadata().CopyTo(shell.Metadata())
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		shell.SetEmptyGauge()
	case pmetric.MetricTypeSum:
		sum := shell.SetEmptySum()
		sum.SetAggregationTemporality(m.Sum().AggregationTemporality())
		sum.SetIsMonotonic(m.Sum().IsMonotonic())
	case pmetric.MetricTypeHistogram:
		shell.SetEmptyHistogram().SetAggregationTemporality(m.Histogram().AggregationTemporality())
	case pmetric.MetricTypeExponentialHistogram:
		shell.SetEmptyExponentialHistogram().SetAggregationTemporality(m.ExponentialHistogram().AggregationTemporality())
	case pmetric.MetricTypeSummary:
		shell.SetEmptySummary()
	}
	return shell
}

func pointsOf(m pmetric.Metric, around event, yield func(event) bool) bool {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return eachPoint(m.Gauge().DataPoints(), around, pmetric.NewNumberDataPoint, func(m pmetric.Metric) pmetric.NumberDataPoint { return m.Gauge().DataPoints().AppendEmpty() }, yield)
	case pmetric.MetricTypeSum:
		return eachPoint(m.Sum().DataPoints(), around, pmetric.NewNumberDataPoint, func(m pmetric.Metric) pmetric.NumberDataPoint { return m.Sum().DataPoints().AppendEmpty() }, yield)
	case pmetric.MetricTypeHistogram:
		return eachPoint(m.Histogram().DataPoints(), around, pmetric.NewHistogramDataPoint, func(m pmetric.Metric) pmetric.HistogramDataPoint { return m.Histogram().DataPoints().AppendEmpty() }, yield)
	case pmetric.MetricTypeExponentialHistogram:
		return eachPoint(m.ExponentialHistogram().DataPoints(), around, pmetric.NewExponentialHistogramDataPoint,
			func(m pmetric.Metric) pmetric.ExponentialHistogramDataPoint {
				return m.ExponentialHistogram().DataPoints().AppendEmpty()
			}, yield)
	case pmetric.MetricTypeSummary:
		return eachPoint(m.Summary().DataPoints(), around, pmetric.NewSummaryDataPoint, func(m pmetric.Metric) pmetric.SummaryDataPoint { return m.Summary().DataPoints().AppendEmpty() }, yield)
	}
	return true
}

// point is a data point of any kind.
type point[T any] interface {
	Attributes() pcommon.Map
	SetTimestamp(pcommon.Timestamp)
	CopyTo(T)
}

func eachPoint[T point[T]](points interface{ All() iter.Seq2[int, T] }, around event, fresh func() T, appendTo func(pmetric.Metric) T, yield func(event) bool) bool {
	for _, p := range points.All() {
		if !yield(pointEvent(p, around, fresh, appendTo)) {
			return false
		}
	}
	return true
}

func pointEvent[T point[T]](p T, around event, fresh func() T, appendTo func(pmetric.Metric) T) event {
	e := around
	e.attributes = p.Attributes()
	e.setTime = map[field]func(pcommon.Timestamp){fieldTime: p.SetTimestamp}
	e.put = func(to *request) { p.CopyTo(appendTo(to.points)) }
	e.clone = func() event {
		c := fresh()
		p.CopyTo(c)
		return pointEvent(c, around, fresh, appendTo)
	}
	return e
}
