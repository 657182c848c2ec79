package schema_test

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/schema"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

const shop = `
groups:
  - id: registry.shop
    type: attribute_group
    attributes:
      - {id: order.id, type: string, annotations: {pulsegrid: {pattern: "^o-[0-9]+$"}}}
      - {id: order.items, type: "int[]"}
      - {id: order.total, type: double, annotations: {pulsegrid: {min: 0, max: 10000}}}
      - {id: order.state, annotations: {pulsegrid: {enum: closed}}, type: {members: [{id: a, value: placed}, {id: b, value: paid}]}}
      - {id: order.channel, type: {members: [{id: w, value: web}]}}
      - {id: order.priority, type: {allow_custom_values: false, members: [{id: l, value: 1}, {id: h, value: 2}]}}
      - {id: user.email, type: string, annotations: {pulsegrid: {pii: true, pattern: "@"}}}
      - {id: order.gift, type: boolean}
      - {id: order.label, type: "template[string]"}
      - {id: order.blob, type: any}
      - {id: order.note, type: string, annotations: {pulsegrid: {value_bytes_max: 8}}}
  - id: event.order.placed
    type: event
    name: order.placed
    annotations: {pulsegrid: {version: 1.2.0}}
    attributes:
      - {ref: order.id, requirement_level: required}
      - {ref: order.items}
      - {ref: order.total}
      - {ref: order.state}
      - {ref: order.channel}
      - {ref: order.priority}
      - {ref: user.email}
      - {ref: order.gift}
      - {ref: order.label}
      - {ref: order.blob}
      - {ref: order.note}
    body:
      id: body
      type: map
      requirement_level: required
      fields:
        - {id: reason, type: string, requirement_level: required}
        - {id: code, type: int}
        - id: state
          type: enum
          members: [{id: a, value: on}]
          annotations: {pulsegrid: {enum: closed}}
  - id: event.order.text
    type: event
    name: order.text
    annotations: {pulsegrid: {limits: {body_bytes_max: 4, depth_max: 1}, unknown_attributes: strict}}
    body: {id: body, type: string}
  - id: metric.orders
    type: metric
    metric_name: orders
    instrument: counter
    unit: "{order}"
    annotations: {pulsegrid: {temporality: delta}}
    attributes: [{ref: order.state, requirement_level: required}]
  - id: span.checkout
    type: span
    span_kind: server
    annotations: {pulsegrid: {match: {name: "POST /checkout*"}}}
    attributes: [{ref: order.id, requirement_level: required}]
  - id: resource.service
    type: resource
    annotations: {pulsegrid: {match: {}}}
    attributes: [{id: service.name, type: string, requirement_level: required}]
`

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// record is a valid order.placed, which spoil changes.
func record(spoil func(plog.LogRecord)) plog.Logs {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("service.name", "shop")
	lr := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	lr.SetEventName("order.placed")
	lr.SetTimestamp(pcommon.NewTimestampFromTime(now))
	lr.Body().SetEmptyMap().PutStr("reason", "bought")
	lr.Attributes().PutStr("order.id", "o-1")
	spoil(lr)
	return ld
}

func limits() schema.Limits {
	return schema.Limits{AttributesMax: 6, KeyBytesMax: 32, ValueBytesMax: 64, BodyBytesMax: 128, DepthMax: 3, AgeMax: time.Hour, FutureMax: time.Minute}
}

func only(t *testing.T, res schema.Result, err error) []schema.Verdict {
	t.Helper()
	require.NoError(t, err)
	require.Equal(t, 1, res.Events)
	if len(res.Findings) == 0 {
		return nil
	}
	require.Len(t, res.Findings, 1)
	return res.Findings[0].Verdicts
}

func attr(set func(pcommon.Map)) func(plog.LogRecord) {
	return func(lr plog.LogRecord) { set(lr.Attributes()) }
}

// Guarantees: each way in which a log record can be wrong is found, and the verdict says where, what was expected and what was there.
func TestEachFaultOfALogRecordHasItsVerdict(t *testing.T) {
	c := schema.NewChecker(load(t, shop), limits())
	of := func(v schema.Verdict) schema.Verdict {
		v.Schema, v.Version = "event.order.placed", "1.2.0"
		return v
	}
	for name, test := range map[string]struct {
		spoil func(plog.LogRecord)
		want  []schema.Verdict
	}{
		"nothing": {func(plog.LogRecord) {}, nil},
		"missing": {attr(func(m pcommon.Map) { m.Clear() }),
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributeMissing, Path: `attributes["order.id"]`, Expected: "string"})}},
		"type": {attr(func(m pcommon.Map) { m.PutInt("order.id", 7) }),
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributeType, Path: `attributes["order.id"]`, Expected: "string", Got: "int 7"})}},
		"no value": {attr(func(m pcommon.Map) { m.PutEmpty("order.id") }),
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributeType, Path: `attributes["order.id"]`, Expected: "string", Got: "empty"})}},
		"pattern": {attr(func(m pcommon.Map) { m.PutStr("order.id", "x-1") }),
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributePattern, Path: `attributes["order.id"]`, Expected: "a match of ^o-[0-9]+$", Got: `string "x-1"`})}},
		"enum": {attr(func(m pcommon.Map) { m.PutStr("order.state", "lost") }),
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributeEnum, Path: `attributes["order.state"]`, Expected: "one of placed, paid", Got: `string "lost"`})}},
		"int enum": {attr(func(m pcommon.Map) { m.PutInt("order.priority", 3) }),
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributeEnum, Path: `attributes["order.priority"]`, Expected: "one of 1, 2", Got: "int 3"})}},
		"an enum is open unless it is closed": {attr(func(m pcommon.Map) { m.PutStr("order.channel", "phone"); m.PutInt("order.priority", 2) }), nil},
		"range": {attr(func(m pcommon.Map) { m.PutDouble("order.total", -0.5) }),
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributeRange, Path: `attributes["order.total"]`, Expected: "0 to 10000", Got: "double -0.5"})}},
		"an int is a double": {attr(func(m pcommon.Map) { m.PutInt("order.total", 5) }), nil},
		"array item": {attr(func(m pcommon.Map) { m.PutEmptySlice("order.items").AppendEmpty().SetStr("x") }),
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributeType, Path: `attributes["order.items"][0]`, Expected: "int", Got: `string "x"`})}},
		"array instead of one": {attr(func(m pcommon.Map) { m.PutEmptySlice("order.gift") }),
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributeType, Path: `attributes["order.gift"]`, Expected: "boolean", Got: "array"})}},
		"one instead of an array": {attr(func(m pcommon.Map) { m.PutInt("order.items", 1) }),
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributeType, Path: `attributes["order.items"]`, Expected: "int[]", Got: "int 1"})}},
		"template": {attr(func(m pcommon.Map) { m.PutStr("order.label.colour", "red") }), nil},
		"template's type": {attr(func(m pcommon.Map) { m.PutBool("order.label.colour", true) }),
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributeType, Path: `attributes["order.label.colour"]`, Expected: "string", Got: "boolean true"})}},
		"any":                     {attr(func(m pcommon.Map) { m.PutEmptyMap("order.blob").PutInt("x", 1) }), nil},
		"open to what is unknown": {attr(func(m pcommon.Map) { m.PutStr("else", "x") }), nil},
		"personal data is not quoted": {attr(func(m pcommon.Map) { m.PutStr("user.email", "jane.doe") }),
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributePattern, Path: `attributes["user.email"]`, Expected: "a match of @", Got: "string of 8 bytes"})}},
		"value too long for its attribute": {attr(func(m pcommon.Map) { m.PutStr("order.note", "123456789") }),
			[]schema.Verdict{{Code: schema.ValueTooLong, Path: `attributes["order.note"]`, Expected: "at most 8 bytes", Got: "9 bytes"}}},
		"value too long": {attr(func(m pcommon.Map) { m.PutStr("else", strings.Repeat("x", 65)) }),
			[]schema.Verdict{{Code: schema.ValueTooLong, Path: `attributes["else"]`, Expected: "at most 64 bytes", Got: "65 bytes"}}},
		"key too long": {attr(func(m pcommon.Map) { m.PutStr(strings.Repeat("k", 33), "") }),
			[]schema.Verdict{{Code: schema.KeyTooLong, Path: `attributes["` + strings.Repeat("k", 33) + `"]`, Expected: "at most 32 bytes", Got: "33 bytes"}}},
		"no key": {attr(func(m pcommon.Map) { m.PutStr("", "x") }),
			[]schema.Verdict{{Code: schema.KeyEmpty, Path: `attributes[""]`, Expected: "a key"}}},
		"invalid UTF-8": {attr(func(m pcommon.Map) { m.PutStr("else", "a\xff") }),
			[]schema.Verdict{{Code: schema.InvalidUTF8, Path: `attributes["else"]`, Expected: "UTF-8", Got: "2 bytes"}}},
		"invalid UTF-8 of the schema's": {attr(func(m pcommon.Map) { m.PutStr("order.channel", "a\xff") }),
			[]schema.Verdict{{Code: schema.InvalidUTF8, Path: `attributes["order.channel"]`, Expected: "UTF-8", Got: "2 bytes"}}},
		"invalid UTF-8 deep down": {attr(func(m pcommon.Map) { m.PutEmptySlice("else").AppendEmpty().SetStr("\xff") }),
			[]schema.Verdict{{Code: schema.InvalidUTF8, Path: `attributes["else"]`, Expected: "UTF-8 within", Got: "1 bytes"}}},
		"invalid UTF-8 in a key": {attr(func(m pcommon.Map) { m.PutStr("\xff", "x") }),
			[]schema.Verdict{{Code: schema.InvalidUTF8, Path: `attributes["\xff"]`, Expected: "a key in UTF-8", Got: "1 bytes"}}},
		"invalid UTF-8 in the name": {func(lr plog.LogRecord) { lr.SetEventName("\xff") },
			[]schema.Verdict{{Code: schema.InvalidUTF8, Path: "event_name", Expected: "UTF-8", Got: "1 bytes"}}},
		"too deep": {attr(func(m pcommon.Map) {
			m.PutEmptySlice("else").AppendEmpty().SetEmptySlice().AppendEmpty().SetEmptyMap()
		}), []schema.Verdict{{Code: schema.TooDeep, Path: `attributes["else"]`, Expected: "at most 3 levels", Got: "more"}}},
		"too many": {attr(func(m pcommon.Map) {
			for _, k := range []string{"1", "2", "3", "4", "5", "6"} {
				m.PutStr(k, "")
			}
		}), []schema.Verdict{{Code: schema.TooManyAttributes, Path: "attributes", Expected: "at most 6", Got: "7"}}},
		"too old": {func(lr plog.LogRecord) { lr.SetTimestamp(pcommon.NewTimestampFromTime(now.Add(-2 * time.Hour))) },
			[]schema.Verdict{{Code: schema.TimeTooOld, Path: "time_unix_nano", Expected: "at most 1h0m0s before it was received", Got: "2026-03-01T10:00:00Z"}}},
		"in the future": {func(lr plog.LogRecord) { lr.SetTimestamp(pcommon.NewTimestampFromTime(now.Add(time.Hour))) },
			[]schema.Verdict{{Code: schema.TimeInFuture, Path: "time_unix_nano", Expected: "at most 1m0s after it was received", Got: "2026-03-01T13:00:00Z"}}},
		"observed too old": {func(lr plog.LogRecord) { lr.SetTimestamp(0); lr.SetObservedTimestamp(1) },
			[]schema.Verdict{{Code: schema.TimeTooOld, Path: "observed_time_unix_nano", Expected: "at most 1h0m0s before it was received", Got: "1970-01-01T00:00:00.000000001Z"}}},
		"no time": {func(lr plog.LogRecord) { lr.SetTimestamp(0) }, nil},
		"no body": {func(lr plog.LogRecord) { pcommon.NewValueEmpty().CopyTo(lr.Body()) },
			[]schema.Verdict{of(schema.Verdict{Code: schema.BodyMissing, Path: "body", Expected: "map"})}},
		"body's type": {func(lr plog.LogRecord) { lr.Body().SetStr("text") },
			[]schema.Verdict{of(schema.Verdict{Code: schema.BodyType, Path: "body", Expected: "map", Got: `string "text"`})}},
		"body's field missing": {func(lr plog.LogRecord) { lr.Body().Map().Clear() },
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributeMissing, Path: `body["reason"]`, Expected: "string"})}},
		"body's field's type": {func(lr plog.LogRecord) { lr.Body().Map().PutStr("code", "x") },
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributeType, Path: `body["code"]`, Expected: "int", Got: `string "x"`})}},
		"body's field's enum": {func(lr plog.LogRecord) { lr.Body().Map().PutStr("state", "off") },
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributeEnum, Path: `body["state"]`, Expected: "one of on", Got: `string "off"`})}},
		"body too large": {func(lr plog.LogRecord) { lr.Body().Map().PutStr("else", strings.Repeat("x", 128)) },
			[]schema.Verdict{{Code: schema.BodyTooLarge, Path: "body", Expected: "at most 128 bytes", Got: "163 bytes"}}},
		"the schema's limits": {func(lr plog.LogRecord) {
			lr.SetEventName("order.text")
			lr.Attributes().Clear()
			lr.Body().SetStr("12345")
		},
			[]schema.Verdict{{Code: schema.BodyTooLarge, Path: "body", Expected: "at most 4 bytes", Got: "5 bytes"}}},
		"the schema is strict": {func(lr plog.LogRecord) { lr.SetEventName("order.text"); lr.Body().SetStr("") },
			[]schema.Verdict{{Code: schema.AttributeUnknown, Path: `attributes["order.id"]`, Expected: "an attribute of the schema", Got: "string", Schema: "event.order.text"}}},
		"the name as an attribute": {func(lr plog.LogRecord) {
			lr.SetEventName("")
			lr.Attributes().Clear()
			lr.Attributes().PutStr("event.name", "order.placed")
		},
			[]schema.Verdict{of(schema.Verdict{Code: schema.AttributeMissing, Path: `attributes["order.id"]`, Expected: "string"})}},
		"another event": {func(lr plog.LogRecord) { lr.SetEventName("unknown"); lr.Attributes().Clear() }, nil},
		"several": {attr(func(m pcommon.Map) { m.Clear(); m.PutStr("order.gift", "no"); m.PutStr("else", "\xff") }), []schema.Verdict{
			of(schema.Verdict{Code: schema.AttributeType, Path: `attributes["order.gift"]`, Expected: "boolean", Got: `string "no"`}),
			{Code: schema.InvalidUTF8, Path: `attributes["else"]`, Expected: "UTF-8", Got: "1 bytes"},
			of(schema.Verdict{Code: schema.AttributeMissing, Path: `attributes["order.id"]`, Expected: "string"}),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := c.CheckLogs(record(test.spoil), schema.Open, now)
			require.Equal(t, test.want, only(t, res, err))
			require.NotContains(t, string(res.Findings.Append(nil)), "jane")
		})
	}
	strictly, err := c.CheckLogs(record(attr(func(m pcommon.Map) { m.PutStr("else", "x") })), schema.Strict, now)
	require.Equal(t, schema.AttributeUnknown, only(t, strictly, err)[0].Code)
	require.True(t, strictly.Findings[0].PII, "its schema has personal data")
}

// Guarantees: a resource is checked once, and what is wrong with it is wrong with all of its events, and with no other's.
func TestAResourceAtFaultIsTheFaultOfItsEvents(t *testing.T) {
	c := schema.NewChecker(load(t, shop), limits())
	ld := record(func(plog.LogRecord) {})
	first := ld.ResourceLogs().At(0)
	first.ScopeLogs().At(0).LogRecords().At(0).CopyTo(first.ScopeLogs().At(0).LogRecords().AppendEmpty())
	second := ld.ResourceLogs().AppendEmpty()
	first.CopyTo(second)
	second.Resource().Attributes().Clear()
	second.Resource().Attributes().PutStr("\xff", "x")
	res, err := c.CheckLogs(ld, schema.Open, now)
	require.NoError(t, err)
	require.Equal(t, 4, res.Events)
	require.Len(t, res.Findings, 2)
	for i, f := range res.Findings {
		require.Equal(t, 2+i, f.Event)
		require.Equal(t, []schema.Verdict{
			{Code: schema.InvalidUTF8, Path: `resource.attributes["\xff"]`, Expected: "a key in UTF-8", Got: "1 bytes"},
			{Code: schema.AttributeMissing, Path: `resource.attributes["service.name"]`, Expected: "string", Schema: "resource.service"},
		}, f.Verdicts)
	}
}

func metric(spoil func(pmetric.Metric)) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("service.name", "shop")
	m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName("orders")
	m.SetUnit("{order}")
	s := m.SetEmptySum()
	s.SetIsMonotonic(true)
	s.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	p := s.DataPoints().AppendEmpty()
	p.SetTimestamp(pcommon.NewTimestampFromTime(now))
	p.SetIntValue(3)
	p.Attributes().PutStr("order.state", "paid")
	spoil(m)
	return md
}

func TestEachFaultOfAMetricHasItsVerdict(t *testing.T) {
	c := schema.NewChecker(load(t, shop), limits())
	of := func(v schema.Verdict) []schema.Verdict {
		v.Schema = "metric.orders"
		return []schema.Verdict{v}
	}
	point := func(m pmetric.Metric) pmetric.NumberDataPoint { return m.Sum().DataPoints().At(0) }
	for name, test := range map[string]struct {
		spoil func(pmetric.Metric)
		want  []schema.Verdict
	}{
		"nothing": {func(pmetric.Metric) {}, nil},
		"unit": {func(m pmetric.Metric) { m.SetUnit("1") },
			of(schema.Verdict{Code: schema.MetricUnit, Path: "metric.unit", Expected: `"{order}"`, Got: `"1"`})},
		"temporality": {func(m pmetric.Metric) { m.Sum().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative) },
			of(schema.Verdict{Code: schema.MetricTemporality, Path: "metric.aggregation_temporality", Expected: "delta", Got: "cumulative"})},
		"not monotonic": {func(m pmetric.Metric) { m.Sum().SetIsMonotonic(false) },
			of(schema.Verdict{Code: schema.MetricNotMonotonic, Path: "metric.is_monotonic", Expected: "a monotonic sum", Got: "a sum that is not monotonic"})},
		"type": {func(m pmetric.Metric) {
			p := pmetric.NewNumberDataPoint()
			point(m).CopyTo(p)
			p.CopyTo(m.SetEmptyGauge().DataPoints().AppendEmpty())
		}, of(schema.Verdict{Code: schema.MetricType, Path: "metric.type", Expected: "counter", Got: "gauge"})},
		"name": {func(m pmetric.Metric) { m.SetName("") },
			[]schema.Verdict{{Code: schema.MetricName, Path: "metric.name", Expected: "a name"}}},
		"negative": {func(m pmetric.Metric) { point(m).SetIntValue(-1) },
			[]schema.Verdict{{Code: schema.SumNegative, Path: "value", Expected: "not below 0 in a monotonic sum", Got: "-1"}}},
		"no time": {func(m pmetric.Metric) { point(m).SetTimestamp(0) },
			[]schema.Verdict{{Code: schema.TimeMissing, Path: "time_unix_nano", Expected: "a time"}}},
		"attribute": {func(m pmetric.Metric) { point(m).Attributes().Clear() },
			of(schema.Verdict{Code: schema.AttributeMissing, Path: `attributes["order.state"]`, Expected: "string"})},
		"an exemplar": {func(m pmetric.Metric) { point(m).Exemplars().AppendEmpty().FilteredAttributes().PutStr("k", "\xff") },
			[]schema.Verdict{{Code: schema.InvalidUTF8, Path: `exemplars[0].attributes["k"]`, Expected: "UTF-8", Got: "1 bytes"}}},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := c.CheckMetrics(metric(test.spoil), schema.Open, now)
			require.Equal(t, test.want, only(t, res, err))
		})
	}
	md := metric(func(m pmetric.Metric) { m.SetUnit("1"); point(m).CopyTo(m.Sum().DataPoints().AppendEmpty()) })
	res, err := c.CheckMetrics(md, schema.Open, now)
	require.NoError(t, err)
	require.Len(t, res.Findings, 2, "what is wrong with a metric is wrong with all of its data points")
}

func span(spoil func(ptrace.Span)) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "shop")
	sp := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	sp.SetName("POST /checkout/cart")
	sp.SetKind(ptrace.SpanKindServer)
	sp.SetStartTimestamp(pcommon.NewTimestampFromTime(now))
	sp.SetEndTimestamp(pcommon.NewTimestampFromTime(now.Add(time.Second)))
	sp.Attributes().PutStr("order.id", "o-1")
	spoil(sp)
	return td
}

func TestEachFaultOfASpanHasItsVerdict(t *testing.T) {
	c := schema.NewChecker(load(t, shop), limits())
	missing := []schema.Verdict{{Code: schema.AttributeMissing, Path: `attributes["order.id"]`, Expected: "string", Schema: "span.checkout"}}
	for name, test := range map[string]struct {
		spoil func(ptrace.Span)
		want  []schema.Verdict
	}{
		"nothing":      {func(ptrace.Span) {}, nil},
		"missing":      {func(sp ptrace.Span) { sp.Attributes().Clear() }, missing},
		"another kind": {func(sp ptrace.Span) { sp.Attributes().Clear(); sp.SetKind(ptrace.SpanKindClient) }, nil},
		"another name": {func(sp ptrace.Span) { sp.Attributes().Clear(); sp.SetName("GET /checkout") }, nil},
		"ends before it begins": {func(sp ptrace.Span) { sp.SetEndTimestamp(pcommon.NewTimestampFromTime(now.Add(-time.Second))) },
			[]schema.Verdict{{Code: schema.TimeOrder, Path: "end_time_unix_nano", Expected: "not before start_time_unix_nano", Got: "2026-03-01T11:59:59Z"}}},
		"a span event": {func(sp ptrace.Span) {
			sp.Events().AppendEmpty()
			sp.Events().AppendEmpty().Attributes().PutStr("k", strings.Repeat("x", 65))
		}, []schema.Verdict{{Code: schema.ValueTooLong, Path: `events[1].attributes["k"]`, Expected: "at most 64 bytes", Got: "65 bytes"}}},
		"a link": {func(sp ptrace.Span) { sp.Links().AppendEmpty().TraceState().FromRaw("\xff") },
			[]schema.Verdict{{Code: schema.InvalidUTF8, Path: "links[0].trace_state", Expected: "UTF-8", Got: "1 bytes"}}},
		"status": {func(sp ptrace.Span) { sp.Status().SetMessage("\xff") },
			[]schema.Verdict{{Code: schema.InvalidUTF8, Path: "status.message", Expected: "UTF-8", Got: "1 bytes"}}},
	} {
		t.Run(name, func(t *testing.T) {
			res, err := c.CheckTraces(span(test.spoil), schema.Open, now)
			require.Equal(t, test.want, only(t, res, err))
		})
	}
}

// Guarantees: an event with more faults than are kept says how many more there are, unless the request is full of faults: then each event keeps a code.
func TestVerdictsAreBoundedAndTheOthersCounted(t *testing.T) {
	c := schema.NewChecker(schema.Empty(), schema.Limits{ValueBytesMax: 1})
	ld := record(func(lr plog.LogRecord) {
		for _, k := range strings.Split("a b c d e f g h i j k l m n o p q r s t", " ") {
			lr.Attributes().PutStr(k, "too long")
		}
	})
	lrs := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
	for range 999 {
		lrs.At(0).CopyTo(lrs.AppendEmpty())
	}
	res, err := c.CheckLogs(ld, schema.Open, now)
	require.NoError(t, err)
	require.Len(t, res.Findings, 1000)
	kept := 0
	for _, f := range res.Findings {
		if kept += len(f.Verdicts); f.Verdicts[0].Path == "" {
			require.Equal(t, schema.Finding{Event: f.Event, Verdicts: []schema.Verdict{{Code: schema.ValueTooLong}}}, f)
			continue
		}
		require.Equal(t, 22, len(f.Verdicts)+f.More, "21 attributes of the event and one of its resource")
	}
	require.Less(t, kept, 10_000)
	require.Greater(t, kept, 8192)
	back, err := schema.DecodeFindings(res.Findings.Append(nil))
	require.NoError(t, err)
	require.Equal(t, res.Findings, back)
}

// Guarantees: what is said of a small request of very many events that are at fault is small, whatever order their faults are in, and names each event.
func TestFindingsOfARequestFullOfFaultsAreBounded(t *testing.T) {
	const events = 250_000
	for name, spoil := range map[string]func(int, pmetric.NumberDataPoint){
		"each alike": func(int, pmetric.NumberDataPoint) {},
		"every second one": func(i int, p pmetric.NumberDataPoint) {
			p.SetTimestamp(pcommon.Timestamp(uint64(now.UnixNano()) * uint64(i%2)))
		},
		"one of three faults": func(i int, p pmetric.NumberDataPoint) {
			p.SetTimestamp([]pcommon.Timestamp{0, 1, pcommon.Timestamp(now.Add(1000 * time.Hour).UnixNano())}[i%3])
		},
	} {
		t.Run(name, func(t *testing.T) {
			md := pmetric.NewMetrics()
			m := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
			m.SetName("m")
			points := m.SetEmptyGauge().DataPoints()
			points.EnsureCapacity(events)
			for i := range events {
				spoil(i, points.AppendEmpty())
			}
			c := schema.NewChecker(schema.Empty(), schema.DefaultLimits())
			res, err := c.CheckMetrics(md, schema.Open, now)
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(res.Findings), events/2)
			b := res.Findings.Append(nil)
			require.Less(t, len(b), 4<<20)
			back, err := schema.DecodeFindings(b)
			require.NoError(t, err)
			require.True(t, reflect.DeepEqual(res.Findings, back))
			allocated := testing.AllocsPerRun(1, func() { _, err = schema.DecodeFindings(b) })
			require.NoError(t, err)
			require.Less(t, allocated, 80_000.0)
		})
	}
}

func TestNothingIsAllocatedForValidEvents(t *testing.T) {
	logs, at := otlptest.Handled(1, 200), time.Unix(0, otlptest.Start)
	c := schema.NewChecker(load(t, otlptest.HandledSchema), schema.DefaultLimits())
	few := math.Inf(1)
	for range 20 { // under the race detector a sync.Pool forgets a part of what it is given
		few = min(few, testing.AllocsPerRun(1, func() {
			if res, err := c.Check(signal.Logs, logs, schema.Open, at); err != nil || res.Events != 200 {
				t.Fatal(res, err)
			}
		}))
	}
	require.Less(t, few, 5.0, "of a request, not of an event")
}
