package legacy

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/eventid"
)

// Scope is the instrumentation scope of everything that was converted.
const Scope = "github.com/pulsegrid/pulsegrid/legacy"

// Codes of a Rejected event.
const (
	CodeNotAnObject  = "not_an_object"
	CodeUnknownType  = "unknown_type"
	CodeMissingField = "missing_field"
	CodeBadField     = "bad_field"
)

// Rejected is an event that cannot be mapped.
type Rejected struct {
	Index  int // of the event in what Convert was given
	Raw    json.RawMessage
	Code   string
	Field  string // the mapping's key that could not be filled, e.g. "metric::value"
	Reason string // for people; quotes at most the field's name and the beginning of its value
}

// Result of a conversion. Events of one signal that have the same resource attributes share a resource; order is kept within it.
type Result struct {
	Logs     plog.Logs
	Metrics  pmetric.Metrics
	Traces   ptrace.Traces
	Rejected []Rejected
}

// Convert makes OTLP of the events that Split returns. Others must be valid JSON, or it panics.
func (m *Mapping) Convert(events []json.RawMessage) Result {
	c := &converter{
		mapping: m,
		result:  Result{Logs: plog.NewLogs(), Metrics: pmetric.NewMetrics(), Traces: ptrace.NewTraces()},
		logs:    map[string]plog.LogRecordSlice{}, metrics: map[string]pmetric.MetricSlice{}, spans: map[string]ptrace.SpanSlice{},
	}
	for i, raw := range events {
		if err := c.event(raw); err != nil {
			err.Index, err.Raw = i, raw
			c.result.Rejected = append(c.result.Rejected, *err)
		}
	}
	return c.result
}

type converter struct {
	mapping *Mapping
	key     []byte // of the last resource
	result  Result
	// By resource.
	logs    map[string]plog.LogRecordSlice
	metrics map[string]pmetric.MetricSlice
	spans   map[string]ptrace.SpanSlice
}

// event is one event's fields; what is taken is removed.
type event struct {
	fields map[string]any
}

func reject(code, field, format string, args ...any) *Rejected {
	return &Rejected{Code: code, Field: field, Reason: fmt.Sprintf(format, args...)}
}

// take removes and returns the first of the fields that the event has with a value other than null.
func (e *event) take(names []string) (value any, name string, ok bool) {
	for _, name := range names {
		in, key := e.fields, name
		for {
			if v, has := in[key]; has && v != nil {
				delete(in, key)
				return v, name, true
			}
			head, rest, dotted := strings.Cut(key, ".")
			inner, isObject := in[head].(map[string]any)
			if !dotted || !isObject {
				break
			}
			in, key = inner, rest
		}
	}
	return nil, "", false
}

// text takes a text; numbers and booleans are written as text.
func (e *event) text(key string, names []string) (string, *Rejected) {
	v, name, ok := e.take(names)
	if !ok {
		return "", nil
	}
	switch v := v.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		return strconv.FormatBool(v), nil
	}
	return "", reject(CodeBadField, key, "field %s: want a text", name)
}

func (e *event) time(key string, names []string) (pcommon.Timestamp, *Rejected) {
	v, name, ok := e.take(names)
	if !ok {
		return 0, nil
	}
	at, err := parseTime(v)
	if err != nil {
		return 0, reject(CodeBadField, key, "field %s: %v", name, err)
	}
	return at, nil
}

// parseTime reads RFC 3339, or a number since 1970 whose magnitude tells its unit: up to 1e11 seconds (the year 5138), up to 1e14
// milliseconds, up to 1e17 microseconds, else nanoseconds. Numbers may come as text.
func parseTime(v any) (pcommon.Timestamp, error) {
	text := ""
	switch v := v.(type) {
	case json.Number:
		text = v.String()
	case string:
		if at, err := time.Parse(time.RFC3339Nano, v); err == nil {
			if at.Year() < 1970 || at.Year() > 2261 {
				return 0, fmt.Errorf("%.40q is not between 1970 and 2261", v)
			}
			return pcommon.NewTimestampFromTime(at), nil
		}
		text = v
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= 0 {
		for _, unit := range []struct{ below, nanos int64 }{{1e11, 1e9}, {1e14, 1e6}, {1e17, 1e3}} {
			if n < unit.below {
				if n > math.MaxInt64/unit.nanos {
					break
				}
				return pcommon.Timestamp(n * unit.nanos), nil
			}
		}
		return pcommon.Timestamp(n), nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f >= 9.2e18 {
		return 0, fmt.Errorf("%.40q is no time: want RFC 3339, or a number since 1970", fmt.Sprint(v))
	}
	switch { // a fraction of a unit that is told by its magnitude
	case f < 1e11:
		f *= 1e9
	case f < 1e14:
		f *= 1e6
	case f < 1e17:
		f *= 1e3
	}
	if f >= 9.2e18 {
		return 0, fmt.Errorf("%.40q is too late a time", fmt.Sprint(v))
	}
	return pcommon.Timestamp(f), nil
}

func (c *converter) event(raw json.RawMessage) *Rejected {
	fields := fieldsOf(raw)
	if fields == nil {
		return reject(CodeNotAnObject, "", "an event is a JSON object, this is %.40q", string(raw))
	}
	e := &event{fields: fields}
	m := c.mapping
	typ, bad := e.text("type", m.Type.Fields)
	if bad != nil {
		return bad
	}
	switch t := strings.ToLower(typ); {
	case t == "":
		return reject(CodeMissingField, "type", "the event has none of the fields %s", strings.Join(m.Type.Fields, ", "))
	case slices.Contains(m.Type.Log, t):
		return c.log(e)
	case slices.Contains(m.Type.Metric, t):
		return c.metric(e, t)
	case slices.Contains(m.Type.Trace, t):
		return c.span(e)
	}
	return reject(CodeUnknownType, "type", "type %.40q is neither log, metric nor trace", typ)
}

// resource takes the resource's attributes, and returns with them a key that is the same for the same ones.
func (c *converter) resource(e *event) (map[string]any, string) {
	attrs := map[string]any{}
	c.key = c.key[:0]
	for _, name := range c.mapping.resourceNames {
		if v, _, ok := e.take(c.mapping.Resource[name]); ok {
			attrs[name] = v
			text, isText := v.(string)
			kind := byte('=')
			if !isText {
				text, kind = fmt.Sprint(v), '#'
			}
			c.key = strconv.AppendQuote(append(strconv.AppendQuote(c.key, name), kind), text)
		}
	}
	return attrs, string(c.key)
}

// rest makes attributes of what was not taken.
func (c *converter) rest(e *event, to pcommon.Map) {
	for _, name := range c.mapping.Attributes {
		inner, ok := e.fields[name].(map[string]any)
		if !ok {
			continue
		}
		delete(e.fields, name)
		for _, k := range slices.Sorted(maps.Keys(inner)) {
			put(to.PutEmpty(k), inner[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(e.fields)) {
		put(to.PutEmpty(k), e.fields[k])
	}
}

func put(to pcommon.Value, v any) {
	switch v := v.(type) {
	case string:
		to.SetStr(v)
	case bool:
		to.SetBool(v)
	case json.Number:
		if n, err := v.Int64(); err == nil {
			to.SetInt(n)
		} else if f, err := v.Float64(); err == nil {
			to.SetDouble(f)
		} else {
			to.SetStr(v.String()) // beyond a double
		}
	case map[string]any:
		m := to.SetEmptyMap()
		for _, k := range slices.Sorted(maps.Keys(v)) {
			put(m.PutEmpty(k), v[k])
		}
	case []any:
		s := to.SetEmptySlice()
		for _, x := range v {
			put(s.AppendEmpty(), x)
		}
	}
}

func putAll(to pcommon.Map, attrs map[string]any) {
	for _, k := range slices.Sorted(maps.Keys(attrs)) {
		put(to.PutEmpty(k), attrs[k])
	}
}

func (c *converter) log(e *event) *Rejected {
	m := &c.mapping.Log
	at, bad := e.time("time", c.mapping.Time)
	if bad != nil {
		return bad
	}
	severity, bad := e.text("log::severity", m.Severity)
	if bad != nil {
		return bad
	}
	name, bad := e.text("log::event_name", m.EventName)
	if bad != nil {
		return bad
	}
	id, bad := e.text("id", c.mapping.ID)
	if bad != nil {
		return bad
	}
	var traceID pcommon.TraceID
	var spanID pcommon.SpanID
	if bad := e.hex("log::trace_id", m.TraceID, traceID[:]); bad != nil {
		return bad
	}
	if bad := e.hex("log::span_id", m.SpanID, spanID[:]); bad != nil {
		return bad
	}
	body, _, _ := e.take(m.Body)
	attrs, key := c.resource(e)

	records, ok := c.logs[key]
	if !ok {
		rl := c.result.Logs.ResourceLogs().AppendEmpty()
		putAll(rl.Resource().Attributes(), attrs)
		sl := rl.ScopeLogs().AppendEmpty()
		sl.Scope().SetName(Scope)
		records = sl.LogRecords()
		c.logs[key] = records
	}
	lr := records.AppendEmpty()
	lr.SetTimestamp(at)
	lr.SetEventName(name)
	lr.SetSeverityText(severity)
	lr.SetSeverityNumber(severityNumber(severity))
	lr.SetTraceID(traceID)
	lr.SetSpanID(spanID)
	put(lr.Body(), body)
	if id != "" {
		lr.Attributes().PutStr(eventid.AttrUID, id)
	}
	c.rest(e, lr.Attributes())
	return nil
}

// severities are OTLP's numbers of what loggers call their levels (OpenTelemetry logs data model, appendix B).
var severities = map[string]plog.SeverityNumber{
	"trace": plog.SeverityNumberTrace, "verbose": plog.SeverityNumberTrace, "finest": plog.SeverityNumberTrace,
	"debug": plog.SeverityNumberDebug, "fine": plog.SeverityNumberDebug,
	"info": plog.SeverityNumberInfo, "information": plog.SeverityNumberInfo, "informational": plog.SeverityNumberInfo, "notice": plog.SeverityNumberInfo2,
	"warn": plog.SeverityNumberWarn, "warning": plog.SeverityNumberWarn,
	"error": plog.SeverityNumberError, "err": plog.SeverityNumberError, "severe": plog.SeverityNumberError,
	"critical": plog.SeverityNumberError2, "alert": plog.SeverityNumberError3,
	"fatal": plog.SeverityNumberFatal, "emergency": plog.SeverityNumberFatal, "panic": plog.SeverityNumberFatal,
}

func severityNumber(text string) plog.SeverityNumber {
	if n, err := strconv.Atoi(text); err == nil && n >= 1 && n <= 24 {
		return plog.SeverityNumber(n)
	}
	return severities[strings.ToLower(text)]
}

// hex takes an id in hexadecimal digits, dashes allowed.
func (e *event) hex(key string, names []string, into []byte) *Rejected {
	text, bad := e.text(key, names)
	if bad != nil || text == "" {
		return bad
	}
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != len(into) {
		return reject(CodeBadField, key, "%.80q is not %d hexadecimal digits", text, 2*len(into))
	}
	copy(into, b)
	return nil
}

func (c *converter) metric(e *event, typ string) *Rejected {
	m := &c.mapping.Metric
	at, bad := e.time("time", c.mapping.Time)
	if bad != nil {
		return bad
	}
	var texts [4]string
	for i, f := range []struct {
		key   string
		names []string
	}{{"metric::name", m.Name}, {"metric::unit", m.Unit}, {"metric::description", m.Description}, {"metric::kind", m.Kind}} {
		if texts[i], bad = e.text(f.key, f.names); bad != nil {
			return bad
		}
	}
	name, unit, description, kind := texts[0], texts[1], texts[2], strings.ToLower(texts[3])
	if name == "" {
		return reject(CodeMissingField, "metric::name", "the event has none of the fields %s", strings.Join(m.Name, ", "))
	}
	value, field, ok := e.take(m.Value)
	if !ok {
		return reject(CodeMissingField, "metric::value", "the event has none of the fields %s", strings.Join(m.Value, ", "))
	}
	number, ok := value.(json.Number)
	if !ok {
		return reject(CodeBadField, "metric::value", "field %s: want a number", field)
	}
	whole, errInt := number.Int64()
	double, errDouble := number.Float64()
	if errInt != nil && errDouble != nil {
		return reject(CodeBadField, "metric::value", "field %s: %.40q is beyond a double", field, number.String())
	}
	if kind == "" {
		kind = typ // "counter" may be the type itself
	}
	attrs, key := c.resource(e)

	ms, ok := c.metrics[key]
	if !ok {
		rm := c.result.Metrics.ResourceMetrics().AppendEmpty()
		putAll(rm.Resource().Attributes(), attrs)
		sm := rm.ScopeMetrics().AppendEmpty()
		sm.Scope().SetName(Scope)
		ms = sm.Metrics()
		c.metrics[key] = ms
	}
	out := ms.AppendEmpty()
	out.SetName(name)
	out.SetUnit(unit)
	out.SetDescription(description)
	var dp pmetric.NumberDataPoint
	switch {
	case slices.Contains(m.Sum, kind), slices.Contains(m.Cumulative, kind):
		sum := out.SetEmptySum()
		sum.SetIsMonotonic(true)
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
		if slices.Contains(m.Cumulative, kind) {
			sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		}
		dp = sum.DataPoints().AppendEmpty()
	default:
		dp = out.SetEmptyGauge().DataPoints().AppendEmpty()
	}
	dp.SetTimestamp(at)
	if errInt == nil {
		dp.SetIntValue(whole)
	} else {
		dp.SetDoubleValue(double)
	}
	c.rest(e, dp.Attributes())
	return nil
}

var spanKinds = map[string]ptrace.SpanKind{
	"internal": ptrace.SpanKindInternal, "server": ptrace.SpanKindServer, "client": ptrace.SpanKindClient,
	"producer": ptrace.SpanKindProducer, "consumer": ptrace.SpanKindConsumer,
}

func (c *converter) span(e *event) *Rejected {
	m := &c.mapping.Trace
	var traceID pcommon.TraceID
	var spanID, parent pcommon.SpanID
	for _, id := range []struct {
		key   string
		names []string
		into  []byte
	}{{"trace::trace_id", m.TraceID, traceID[:]}, {"trace::span_id", m.SpanID, spanID[:]}, {"trace::parent_span_id", m.ParentSpanID, parent[:]}} {
		if bad := e.hex(id.key, id.names, id.into); bad != nil {
			return bad
		}
	}
	if traceID.IsEmpty() {
		return reject(CodeMissingField, "trace::trace_id", "the event has none of the fields %s", strings.Join(m.TraceID, ", "))
	}
	if spanID.IsEmpty() {
		return reject(CodeMissingField, "trace::span_id", "the event has none of the fields %s", strings.Join(m.SpanID, ", "))
	}
	name, bad := e.text("trace::name", m.Name)
	if bad != nil {
		return bad
	}
	if name == "" {
		return reject(CodeMissingField, "trace::name", "the event has none of the fields %s", strings.Join(m.Name, ", "))
	}
	kind, bad := e.text("trace::kind", m.Kind)
	if bad != nil {
		return bad
	}
	start, bad := e.time("trace::start", m.Start)
	if bad != nil {
		return bad
	}
	end, bad := e.time("trace::end", m.End)
	if bad != nil {
		return bad
	}
	if end == 0 && start != 0 {
		v, field, ok := e.take(m.DurationMS)
		if ok {
			n, isNumber := v.(json.Number)
			ms, err := n.Float64()
			if !isNumber || err != nil || ms < 0 || ms > math.MaxInt32*1e3 {
				return reject(CodeBadField, "trace::duration_ms", "field %s: want milliseconds", field)
			}
			end = start + pcommon.Timestamp(ms*1e6)
		}
	}
	failure, _, failed := e.take(m.Error)
	attrs, key := c.resource(e)

	spans, ok := c.spans[key]
	if !ok {
		rs := c.result.Traces.ResourceSpans().AppendEmpty()
		putAll(rs.Resource().Attributes(), attrs)
		ss := rs.ScopeSpans().AppendEmpty()
		ss.Scope().SetName(Scope)
		spans = ss.Spans()
		c.spans[key] = spans
	}
	s := spans.AppendEmpty()
	s.SetTraceID(traceID)
	s.SetSpanID(spanID)
	s.SetParentSpanID(parent)
	s.SetName(name)
	s.SetKind(spanKinds[strings.ToLower(kind)])
	s.SetStartTimestamp(start)
	s.SetEndTimestamp(end)
	if failed && failure != false && failure != "" {
		s.Status().SetCode(ptrace.StatusCodeError)
		if text, ok := failure.(string); ok {
			s.Status().SetMessage(text)
		}
	}
	c.rest(e, s.Attributes())
	return nil
}
