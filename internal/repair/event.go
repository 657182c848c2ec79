package repair

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// event is one event in a request of its own, with what steps may change of it. What its signal does not have is nil.
type event struct {
	resource, attributes pcommon.Map
	body                 *pcommon.Value
	name                 func() string
	setName, setUnit     func(string)
	setSeverity          func(string)
	setSchemaURL         func(string)
	setTime              map[field]func(pcommon.Timestamp)

	marshal func() ([]byte, error) // as a request
	json    func() ([]byte, error)
	moveTo  func(*request)
}

// request gathers events of one signal.
type request struct {
	signal  signal.Signal
	logs    plog.Logs
	metrics pmetric.Metrics
	traces  ptrace.Traces
	events  int
}

func newRequest(sig signal.Signal) *request {
	return &request{signal: sig, logs: plog.NewLogs(), metrics: pmetric.NewMetrics(), traces: ptrace.NewTraces()}
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

// explode takes a request apart, in the order of its events.
func explode(sig signal.Signal, body []byte) ([]event, error) {
	switch sig {
	case signal.Logs:
		req := plogotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			return nil, err
		}
		return logEvents(req.Logs()), nil
	case signal.Metrics:
		req := pmetricotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			return nil, err
		}
		return pointEvents(req.Metrics()), nil
	case signal.Traces:
		req := ptraceotlp.NewExportRequest()
		if err := req.UnmarshalProto(body); err != nil {
			return nil, err
		}
		return spanEvents(req.Traces()), nil
	}
	return nil, fmt.Errorf("%s is no signal", sig)
}

func logEvents(ld plog.Logs) (out []event) {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				one := plog.NewLogs()
				r := one.ResourceLogs().AppendEmpty()
				rl.Resource().CopyTo(r.Resource())
				r.SetSchemaUrl(rl.SchemaUrl())
				s := r.ScopeLogs().AppendEmpty()
				sl.Scope().CopyTo(s.Scope())
				s.SetSchemaUrl(sl.SchemaUrl())
				l := s.LogRecords().AppendEmpty()
				lr.CopyTo(l)
				body := l.Body()
				out = append(out, event{
					resource: r.Resource().Attributes(), attributes: l.Attributes(), body: &body, name: l.EventName, setName: l.SetEventName,
					setSeverity: l.SetSeverityText, setSchemaURL: s.SetSchemaUrl,
					setTime: map[field]func(pcommon.Timestamp){fieldTime: l.SetTimestamp, fieldObservedTime: l.SetObservedTimestamp},
					marshal: plogotlp.NewExportRequestFromLogs(one).MarshalProto,
					json:    func() ([]byte, error) { return plogotlp.NewExportRequestFromLogs(one).MarshalJSON() },
					moveTo:  func(to *request) { one.ResourceLogs().MoveAndAppendTo(to.logs.ResourceLogs()); to.events++ },
				})
			}
		}
	}
	return out
}

func spanEvents(td ptrace.Traces) (out []event) {
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				one := ptrace.NewTraces()
				r := one.ResourceSpans().AppendEmpty()
				rs.Resource().CopyTo(r.Resource())
				r.SetSchemaUrl(rs.SchemaUrl())
				s := r.ScopeSpans().AppendEmpty()
				ss.Scope().CopyTo(s.Scope())
				s.SetSchemaUrl(ss.SchemaUrl())
				sp := s.Spans().AppendEmpty()
				span.CopyTo(sp)
				out = append(out, event{
					resource: r.Resource().Attributes(), attributes: sp.Attributes(), name: sp.Name, setName: sp.SetName, setSchemaURL: s.SetSchemaUrl,
					setTime: map[field]func(pcommon.Timestamp){fieldTime: sp.SetStartTimestamp, fieldEndTime: sp.SetEndTimestamp},
					marshal: ptraceotlp.NewExportRequestFromTraces(one).MarshalProto,
					json:    func() ([]byte, error) { return ptraceotlp.NewExportRequestFromTraces(one).MarshalJSON() },
					moveTo:  func(to *request) { one.ResourceSpans().MoveAndAppendTo(to.traces.ResourceSpans()); to.events++ },
				})
			}
		}
	}
	return out
}

func pointEvents(md pmetric.Metrics) (out []event) {
	for _, rm := range md.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				// The same resource, scope and metric around each point. Only the point differs, so it is picked by its ordinal.
				for i := range points(m) {
					one := pmetric.NewMetrics()
					r := one.ResourceMetrics().AppendEmpty()
					rm.Resource().CopyTo(r.Resource())
					r.SetSchemaUrl(rm.SchemaUrl())
					s := r.ScopeMetrics().AppendEmpty()
					sm.Scope().CopyTo(s.Scope())
					s.SetSchemaUrl(sm.SchemaUrl())
					copied := s.Metrics().AppendEmpty()
					m.CopyTo(copied)
					attributes, setTime := onlyPoint(copied, i)
					out = append(out, event{
						resource: r.Resource().Attributes(), attributes: attributes, name: copied.Name, setName: copied.SetName, setUnit: copied.SetUnit,
						setSchemaURL: s.SetSchemaUrl, setTime: map[field]func(pcommon.Timestamp){fieldTime: setTime},
						marshal: pmetricotlp.NewExportRequestFromMetrics(one).MarshalProto,
						json:    func() ([]byte, error) { return pmetricotlp.NewExportRequestFromMetrics(one).MarshalJSON() },
						moveTo:  func(to *request) { one.ResourceMetrics().MoveAndAppendTo(to.metrics.ResourceMetrics()); to.events++ },
					})
				}
			}
		}
	}
	return out
}

func points(m pmetric.Metric) int {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return m.Gauge().DataPoints().Len()
	case pmetric.MetricTypeSum:
		return m.Sum().DataPoints().Len()
	case pmetric.MetricTypeHistogram:
		return m.Histogram().DataPoints().Len()
	case pmetric.MetricTypeExponentialHistogram:
		return m.ExponentialHistogram().DataPoints().Len()
	case pmetric.MetricTypeSummary:
		return m.Summary().DataPoints().Len()
	}
	return 0
}

// onlyPoint removes all points of a metric but one.
func onlyPoint(m pmetric.Metric, keep int) (attributes pcommon.Map, setTime func(pcommon.Timestamp)) {
	i := -1
	drop := func() bool { i++; return i != keep }
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		ps := m.Gauge().DataPoints()
		ps.RemoveIf(func(pmetric.NumberDataPoint) bool { return drop() })
		return ps.At(0).Attributes(), ps.At(0).SetTimestamp
	case pmetric.MetricTypeSum:
		ps := m.Sum().DataPoints()
		ps.RemoveIf(func(pmetric.NumberDataPoint) bool { return drop() })
		return ps.At(0).Attributes(), ps.At(0).SetTimestamp
	case pmetric.MetricTypeHistogram:
		ps := m.Histogram().DataPoints()
		ps.RemoveIf(func(pmetric.HistogramDataPoint) bool { return drop() })
		return ps.At(0).Attributes(), ps.At(0).SetTimestamp
	case pmetric.MetricTypeExponentialHistogram:
		ps := m.ExponentialHistogram().DataPoints()
		ps.RemoveIf(func(pmetric.ExponentialHistogramDataPoint) bool { return drop() })
		return ps.At(0).Attributes(), ps.At(0).SetTimestamp
	default:
		ps := m.Summary().DataPoints()
		ps.RemoveIf(func(pmetric.SummaryDataPoint) bool { return drop() })
		return ps.At(0).Attributes(), ps.At(0).SetTimestamp
	}
}

// apply carries out a step. What an event does not have, no step changes.
func (e *event) apply(s *Step, receivedAt time.Time) {
	switch {
	case s.Set != nil:
		e.set(s.Set.at, s.Set.Value, receivedAt)
	case s.Remove != nil:
		e.attrs(s.Remove.at).Remove(s.Remove.at.key)
	case s.Rename != nil:
		attrs := e.attrs(s.Rename.from)
		if v, ok := attrs.Get(s.Rename.from.key); ok && s.Rename.from.key != s.Rename.to.key {
			moved := pcommon.NewValueEmpty()
			v.CopyTo(moved)
			attrs.Remove(s.Rename.from.key)
			moved.CopyTo(attrs.PutEmpty(s.Rename.to.key))
		}
	case s.Cast != nil:
		if v, ok := e.value(s.Cast.at); ok {
			cast(v, s.Cast.To)
		}
	case s.Retag != nil:
		if s.Retag.Name != "" {
			e.setName(s.Retag.Name)
		}
		if s.Retag.SchemaURL != nil {
			e.setSchemaURL(*s.Retag.SchemaURL)
		}
	}
}

func (e *event) attrs(p path) pcommon.Map {
	if p.field == fieldResource {
		return e.resource
	}
	return e.attributes
}

func (e *event) value(p path) (pcommon.Value, bool) {
	if p.field == fieldBody {
		if e.body == nil {
			return pcommon.Value{}, false
		}
		return *e.body, true
	}
	return e.attrs(p).Get(p.key)
}

func (e *event) set(p path, value any, receivedAt time.Time) {
	switch {
	case p.isTime():
		if set := e.setTime[p.field]; set != nil {
			set(pcommon.NewTimestampFromTime(timeOf(value, receivedAt)))
		}
	case p.field == fieldBody:
		if e.body != nil {
			put(*e.body, value)
		}
	case p.isValue():
		put(e.attrs(p).PutEmpty(p.key), value)
	default:
		set := map[field]func(string){fieldName: e.setName, fieldUnit: e.setUnit, fieldSeverityText: e.setSeverity}[p.field]
		if set != nil {
			set(fmt.Sprint(value))
		}
	}
}

func timeOf(value any, receivedAt time.Time) time.Time {
	switch v := value.(type) {
	case time.Time:
		return v
	case string:
		if t, err := time.Parse(time.RFC3339Nano, v); err == nil {
			return t
		}
	}
	return receivedAt
}

func put(v pcommon.Value, value any) {
	if items, ok := value.([]any); ok {
		list := v.SetEmptySlice()
		for _, item := range items {
			put(list.AppendEmpty(), item)
		}
		return
	}
	switch x := value.(type) {
	case string:
		v.SetStr(x)
	case int:
		v.SetInt(int64(x))
	case int64:
		v.SetInt(x)
	case float64:
		v.SetDouble(x)
	case bool:
		v.SetBool(x)
	}
}

// cast makes v of another type if it says the same then.
func cast(v pcommon.Value, to string) {
	text := strings.TrimSpace(v.AsString())
	switch to {
	case "string":
		v.SetStr(strings.ToValidUTF8(v.AsString(), "\uFFFD"))
	case "int":
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			v.SetInt(n)
		} else if d, err := strconv.ParseFloat(text, 64); err == nil && d == math.Trunc(d) && math.Abs(d) < 1<<53 {
			v.SetInt(int64(d))
		}
	case "double":
		if d, err := strconv.ParseFloat(text, 64); err == nil {
			v.SetDouble(d)
		}
	case "bool":
		if b, err := strconv.ParseBool(text); err == nil {
			v.SetBool(b)
		}
	}
}
