package columnstest

import (
	"fmt"
	"math"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/xpdata"
	"go.opentelemetry.io/collector/pdata/xpdata/entity"

	"github.com/pulsegrid/pulsegrid/internal/lineage"
)

// Received is the received time of the samples.
var Received = time.Date(2026, 11, 23, 10, 0, 0, 123456789, time.UTC)

const sampleTime = pcommon.Timestamp(1795428000123456789)

// Logs are log records in which every OTLP field is set at least once and every kind of value occurs, the odd ones included,
// stamped as the mskreceiver stamps them (offsets from first on).
func Logs(topic string, first int64) plog.Logs {
	ld := plog.NewLogs()
	for r := range 2 {
		rl := ld.ResourceLogs().AppendEmpty()
		sampleResource(rl.Resource(), r, topic)
		rl.SetSchemaUrl("https://opentelemetry.io/schemas/1.37.0")
		for s := range 2 {
			sl := rl.ScopeLogs().AppendEmpty()
			sampleScope(sl.Scope(), s)
			sl.SetSchemaUrl(fmt.Sprintf("https://example.com/scope/%d", s))
			for i := range 8 {
				lr := sl.LogRecords().AppendEmpty()
				sampleLog(lr, i)
				stampSample(lr.Attributes(), first+int64(r*2+s), int32(i))
			}
		}
	}
	return ld
}

func sampleLog(lr plog.LogRecord, i int) {
	sampleAttributes(lr.Attributes(), i)
	lr.SetTimestamp(sampleTimes[i%len(sampleTimes)])
	lr.SetObservedTimestamp(sampleTimes[(i/2)%len(sampleTimes)])
	lr.SetSeverityNumber(plog.SeverityNumber([]int32{0, 9, 24, -5}[i%4]))
	lr.SetSeverityText([]string{"", "INFO", "fatal", "bad\xffutf8"}[i%4])
	sampleValue(lr.Body(), i)
	lr.SetDroppedAttributesCount(uint32(i) * 1e9)
	lr.SetFlags(plog.LogRecordFlags(0xF0000000 + uint32(i)))
	if i%3 != 0 {
		lr.SetTraceID(pcommon.TraceID{1, 2, 3, byte(i), 15: 0xFF})
		lr.SetSpanID(pcommon.SpanID{9, byte(i)})
		lr.SetEventName(fmt.Sprintf("event.%d", i%2))
	}
}

// Traces are spans in the same way.
func Traces(topic string, first int64) ptrace.Traces {
	td := ptrace.NewTraces()
	for r := range 2 {
		rs := td.ResourceSpans().AppendEmpty()
		sampleResource(rs.Resource(), r, topic)
		rs.SetSchemaUrl("https://opentelemetry.io/schemas/1.37.0")
		ss := rs.ScopeSpans().AppendEmpty()
		sampleScope(ss.Scope(), r)
		ss.SetSchemaUrl("https://example.com/scope")
		for i := range 8 {
			sp := ss.Spans().AppendEmpty()
			sampleSpan(sp, i)
			stampSample(sp.Attributes(), first+int64(r), int32(i))
		}
	}
	return td
}

func sampleSpan(sp ptrace.Span, i int) {
	sp.SetTraceID(pcommon.TraceID{1, byte(i)})
	sp.SetSpanID(pcommon.SpanID{2, byte(i)})
	sp.SetParentSpanID(pcommon.SpanID{3, byte(i)})
	sp.TraceState().FromRaw("vendor=1")
	sp.SetName(fmt.Sprintf("GET /%d", i))
	sp.SetKind(ptrace.SpanKind([]int32{0, 1, 2, 3, 4, 5, 77, -1}[i%8]))
	sp.SetStartTimestamp(sampleTimes[i%len(sampleTimes)])
	sp.SetEndTimestamp(sampleTime + 1_500_000)
	sp.SetFlags(0x80000101)
	sp.Status().SetCode(ptrace.StatusCode([]int32{0, 1, 2, 9}[i%4]))
	sp.Status().SetMessage([]string{"", "it broke \u2603"}[i%2])
	sampleAttributes(sp.Attributes(), i)
	sp.SetDroppedAttributesCount(math.MaxUint32)
	sp.SetDroppedEventsCount(7)
	sp.SetDroppedLinksCount(8)
	for e := range i % 3 {
		ev := sp.Events().AppendEmpty()
		ev.SetTimestamp(sampleTimes[e%len(sampleTimes)])
		ev.SetName([]string{"exception", ""}[e%2])
		sampleAttributes(ev.Attributes(), e)
		ev.SetDroppedAttributesCount(3)
	}
	for l := range i % 4 {
		li := sp.Links().AppendEmpty()
		li.SetTraceID(pcommon.TraceID{7, byte(l)})
		li.SetSpanID(pcommon.SpanID{8, byte(l)})
		li.TraceState().FromRaw("a=b")
		sampleAttributes(li.Attributes(), l)
		li.SetDroppedAttributesCount(4)
		li.SetFlags(0x300)
	}
}

// Metrics are data points of all five types in the same way.
func Metrics(topic string, first int64) pmetric.Metrics {
	md := pmetric.NewMetrics()
	for r := range 2 {
		rm := md.ResourceMetrics().AppendEmpty()
		sampleResource(rm.Resource(), r, topic)
		rm.SetSchemaUrl("https://opentelemetry.io/schemas/1.37.0")
		sm := rm.ScopeMetrics().AppendEmpty()
		sampleScope(sm.Scope(), r)
		sm.SetSchemaUrl("https://example.com/scope")
		index := int32(0)
		stamp := func(m pcommon.Map) { stampSample(m, first+int64(r), index); index++ }
		sampleNumbers(sm.Metrics(), stamp)
		sampleHistograms(sm.Metrics(), stamp)
		summary := newMetric(sm.Metrics(), "rpc.latency").SetEmptySummary()
		for i := range 2 {
			p := summary.DataPoints().AppendEmpty()
			samplePoint(p, i, stamp)
			p.SetCount(math.MaxUint64)
			p.SetSum(1e300)
			for q := range i * 2 {
				v := p.QuantileValues().AppendEmpty()
				v.SetQuantile(float64(q) / 2)
				v.SetValue([]float64{math.NaN(), 4}[q%2])
			}
		}
	}
	return md
}

func newMetric(ms pmetric.MetricSlice, name string) pmetric.Metric {
	m := ms.AppendEmpty()
	m.SetName(name)
	m.SetDescription("what " + name + " is")
	m.SetUnit("By")
	sampleAttributes(m.Metadata(), 1)
	return m
}

type settablePoint interface {
	SetTimestamp(pcommon.Timestamp)
	SetStartTimestamp(pcommon.Timestamp)
	SetFlags(pmetric.DataPointFlags)
	Attributes() pcommon.Map
}

func samplePoint(p settablePoint, i int, stamp func(pcommon.Map)) {
	p.SetTimestamp(sampleTimes[i%len(sampleTimes)])
	p.SetStartTimestamp(sampleTimes[(i+1)%len(sampleTimes)])
	p.SetFlags(pmetric.DataPointFlags(i))
	sampleAttributes(p.Attributes(), i)
	stamp(p.Attributes())
}

func sampleNumbers(ms pmetric.MetricSlice, stamp func(pcommon.Map)) {
	gauge := newMetric(ms, "system.memory.usage").SetEmptyGauge().DataPoints()
	sum := newMetric(ms, "http.server.requests").SetEmptySum()
	sum.SetIsMonotonic(true)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	odd := newMetric(ms, "odd").SetEmptySum()
	odd.SetAggregationTemporality(42)
	for _, points := range []pmetric.NumberDataPointSlice{gauge, sum.DataPoints(), odd.DataPoints()} {
		for i := range 6 {
			p := points.AppendEmpty()
			samplePoint(p, i, stamp)
			switch i {
			case 0:
				p.SetIntValue(math.MinInt64)
			case 1:
				p.SetDoubleValue(math.Inf(-1))
			case 2:
				p.SetIntValue(1<<53 + 1)
			case 3:
				p.SetDoubleValue(math.NaN())
			case 4:
				p.SetIntValue(0)
			}
			sampleExemplars(p.Exemplars(), i%4)
		}
	}
}

func sampleHistograms(ms pmetric.MetricSlice, stamp func(pcommon.Map)) {
	h := newMetric(ms, "http.server.duration").SetEmptyHistogram()
	h.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	eh := newMetric(ms, "http.client.duration").SetEmptyExponentialHistogram()
	eh.SetAggregationTemporality(pmetric.AggregationTemporalityDelta)
	for i := range 4 {
		p := h.DataPoints().AppendEmpty()
		samplePoint(p, i, stamp)
		p.SetCount(math.MaxUint64 - uint64(i))
		if i%2 == 0 {
			p.SetSum(0)
			p.SetMin(-1)
			p.SetMax(math.MaxFloat64)
			p.ExplicitBounds().FromRaw([]float64{0, 0.5, math.Inf(1)})
			p.BucketCounts().FromRaw([]uint64{1, 2, 3, math.MaxUint64})
		}
		sampleExemplars(p.Exemplars(), i)

		e := eh.DataPoints().AppendEmpty()
		samplePoint(e, i, stamp)
		e.SetCount(uint64(i))
		e.SetScale(-3)
		e.SetZeroCount(math.MaxUint64)
		e.SetZeroThreshold(1e-9)
		e.Positive().SetOffset(-7)
		e.Negative().SetOffset(math.MaxInt32)
		if i%2 == 1 {
			e.SetSum(12.5)
			e.SetMin(0)
			e.SetMax(1)
			e.Positive().BucketCounts().FromRaw([]uint64{4, 5})
			e.Negative().BucketCounts().FromRaw([]uint64{6})
		}
		sampleExemplars(e.Exemplars(), i)
	}
}

func sampleExemplars(es pmetric.ExemplarSlice, n int) {
	for i := range n {
		e := es.AppendEmpty()
		e.SetTimestamp(sampleTimes[i%len(sampleTimes)])
		switch i {
		case 0:
			e.SetIntValue(math.MaxInt64)
		case 1:
			e.SetDoubleValue(0.25)
		}
		e.SetTraceID(pcommon.TraceID{4, byte(i)})
		e.SetSpanID(pcommon.SpanID{5, byte(i)})
		sampleAttributes(e.FilteredAttributes(), i)
	}
}

// sampleTimes: an ordinary one, none, the first, the last of int64, and one beyond it.
var sampleTimes = []pcommon.Timestamp{sampleTime, 0, 1, sampleTime + 999, math.MaxInt64, math.MaxUint64}

func sampleResource(res pcommon.Resource, i int, topic string) {
	sampleAttributes(res.Attributes(), i)
	res.Attributes().PutStr("service.name", fmt.Sprintf("checkout-%d", i))
	res.SetDroppedAttributesCount(uint32(i) + 11)
	ref := entity.ResourceEntityRefs(res).AppendEmpty()
	ref.SetType("service")
	ref.SetSchemaUrl("https://example.com/entity")
	ref.IdKeys().Append("service.name")
	ref.DescriptionKeys().Append("host.name", `quoted "key"`)
	lineage.StampResource(res.Attributes(), lineage.Origin{
		Tenant: fmt.Sprintf("tenant-%d", i), Source: "agent-1", Received: Received.Add(time.Duration(i)), Topic: topic, Partition: 3,
	})
}

func sampleScope(s pcommon.InstrumentationScope, i int) {
	s.SetName("io.example.scope")
	s.SetVersion(fmt.Sprintf("1.%d", i))
	sampleAttributes(s.Attributes(), i)
	s.SetDroppedAttributesCount(5)
}

func stampSample(attrs pcommon.Map, offset int64, index int32) {
	lineage.StampEvent(attrs, lineage.Event{ID: [16]byte{byte(offset), byte(index), 15: 1}, Offset: offset, Index: index})
}

// sampleAttributes fills m with every type of value, promoted keys with fitting, unfitting and zero values, and duplicate keys.
func sampleAttributes(m pcommon.Map, i int) {
	var mb xpdata.MapBuilder
	mb.AppendEmpty("http.request.method").SetStr([]string{"GET", "", "POST", "bad\xff"}[i%4])
	if i%2 == 0 {
		mb.AppendEmpty("http.response.status_code").SetInt([]int64{200, 0, 503}[i%3])
	} else {
		mb.AppendEmpty("http.response.status_code").SetStr("teapot")
	}
	mb.AppendEmpty("url.path").SetStr(fmt.Sprintf("/p/%d", i))
	mb.AppendEmpty("string").SetStr("quote \" backslash \\ newline \n control \x01 snowman \u2603")
	mb.AppendEmpty("int").SetInt(math.MaxInt64 - int64(i))
	mb.AppendEmpty("double").SetDouble([]float64{0, 1, -0.5, 1e21, 5e-324}[i%5])
	mb.AppendEmpty("nan").SetDouble(math.NaN())
	mb.AppendEmpty("bool").SetBool(i%2 == 0)
	mb.AppendEmpty("false").SetBool(false)
	mb.AppendEmpty("empty string").SetStr("")
	for k := range 10 {
		sampleValue(mb.AppendEmpty(fmt.Sprintf("value.%d", k)), k)
	}
	mb.AppendEmpty("error.type").SetStr("first")
	mb.AppendEmpty("error.type").SetStr("second")
	mb.AppendEmpty("twice").SetStr("b")
	mb.AppendEmpty("twice").SetStr("a")
	mb.AppendEmpty("http.route").SetStr("")
	mb.AppendEmpty("http.route").SetStr("/after/empty")
	mb.AppendEmpty("").SetStr("empty key")
	mb.AppendEmpty("bad\xffkey").SetStr("x")
	mb.AppendEmpty("bad\xfekey").SetStr("the same key when it is stored")
	for k := range 10 { // each type of value first, and each as a further one
		sampleValue(mb.AppendEmpty("thrice"), k+i)
		sampleValue(mb.AppendEmpty(fmt.Sprintf("again.%d", k)), k)
		sampleValue(mb.AppendEmpty(fmt.Sprintf("again.%d", k)), k+i)
	}
	mb.AppendEmpty("http.request.method").SetStr("second method")
	mb.UnsafeIntoMap(m)
}

// sampleValue sets one of every type of value.
func sampleValue(v pcommon.Value, i int) {
	switch i % 10 {
	case 0:
		v.SetStr("text body \u00e9")
	case 1: // empty
	case 2:
		v.SetInt(-(1<<53 + 1))
	case 3:
		v.SetDouble(math.Inf(1))
	case 4:
		v.SetBool(true)
	case 5:
		v.SetEmptyBytes().FromRaw([]byte{0, 0xFF, 0x80})
	case 6:
		v.SetStr("not utf8 \xc3\x28")
	case 7:
		s := v.SetEmptySlice()
		for k := range 7 {
			sampleValue(s.AppendEmpty(), k)
		}
		s.AppendEmpty().SetDouble(3)
		s.AppendEmpty().SetInt(3)
	case 8:
		var mb xpdata.MapBuilder
		mb.AppendEmpty("$bytes").SetStr("no tag")
		mb.AppendEmpty("$$").SetInt(1)
		mb.AppendEmpty("dup").SetInt(1)
		mb.AppendEmpty("dup").SetInt(2)
		sampleValue(mb.AppendEmpty("nested"), 7)
		mb.AppendEmpty("neg zero").SetDouble(math.Copysign(0, -1))
		mb.UnsafeIntoMap(v.SetEmptyMap())
	case 9:
		v.SetEmptyMap()
	}
}
