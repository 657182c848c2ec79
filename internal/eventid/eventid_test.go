package eventid

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/plog/plogotlp"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/pulsegrid/pulsegrid/internal/lineage"
	"github.com/pulsegrid/pulsegrid/internal/otlpwire/otlptest"
	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Ids are stored and compared across versions of PulseGrid: a changed value makes duplicates of what was sent before an upgrade.
func TestIdsAreAContract(t *testing.T) {
	lr := plog.NewLogRecord()
	lr.SetTimestamp(1)
	lr.Body().SetStr("body")
	lr.Attributes().PutInt("k", 7)
	require.Equal(t, "320325577f29f676e32f9ac20a497576", fmt.Sprintf("%x", Log(lr, "source")))
	lr.Attributes().PutStr(AttrID, "id-1")
	require.Equal(t, "d2c4fea4e460125fbe15e79c76d0b4ce", fmt.Sprintf("%x", Log(lr, "source")))
	s := ptrace.NewSpan()
	s.SetName("span")
	require.Equal(t, "24d34b70e81605f151007c07a777d28e", fmt.Sprintf("%x", Span(s, "source")))
	s.SetTraceID(pcommon.TraceID{1})
	s.SetSpanID(pcommon.SpanID{2})
	require.Equal(t, "c4f869738f0116198ec8a6e166189757", fmt.Sprintf("%x", Span(s, "source")))
	m := pmetric.NewMetric()
	m.SetName("metric")
	dp := m.SetEmptyGauge().DataPoints().AppendEmpty()
	dp.SetTimestamp(1)
	dp.SetIntValue(7)
	require.Equal(t, "c5e6d10b06246559edb83fa413f2e6d0", fmt.Sprintf("%x", NumberPoint(m, pcommon.NewInstrumentationScope(), dp, "source")))
}

// allLogs returns the ids of all records of a request.
func allLogs(ld plog.Logs, source string) (ids [][16]byte) {
	for _, rl := range ld.ResourceLogs().All() {
		src := Source(source, rl.Resource())
		for _, sl := range rl.ScopeLogs().All() {
			for _, lr := range sl.LogRecords().All() {
				ids = append(ids, Log(lr, src))
			}
		}
	}
	return ids
}

func allSpans(td ptrace.Traces, source string) (ids [][16]byte) {
	for _, rs := range td.ResourceSpans().All() {
		src := Source(source, rs.Resource())
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				ids = append(ids, Span(s, src))
			}
		}
	}
	return ids
}

func allPoints(md pmetric.Metrics, source string) (ids [][16]byte) {
	for _, rm := range md.ResourceMetrics().All() {
		src := Source(source, rm.Resource())
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				ids = append(ids, points(m, sm.Scope(), src)...)
			}
		}
	}
	return ids
}

func points(m pmetric.Metric, scope pcommon.InstrumentationScope, src string) (ids [][16]byte) {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		for _, p := range m.Gauge().DataPoints().All() {
			ids = append(ids, NumberPoint(m, scope, p, src))
		}
	case pmetric.MetricTypeSum:
		for _, p := range m.Sum().DataPoints().All() {
			ids = append(ids, NumberPoint(m, scope, p, src))
		}
	case pmetric.MetricTypeHistogram:
		for _, p := range m.Histogram().DataPoints().All() {
			ids = append(ids, HistogramPoint(m, scope, p, src))
		}
	case pmetric.MetricTypeExponentialHistogram:
		for _, p := range m.ExponentialHistogram().DataPoints().All() {
			ids = append(ids, ExponentialHistogramPoint(m, scope, p, src))
		}
	case pmetric.MetricTypeSummary:
		for _, p := range m.Summary().DataPoints().All() {
			ids = append(ids, SummaryPoint(m, scope, p, src))
		}
	}
	return ids
}

// ids of all events of a request, decoded; again says to encode and decode it once more before.
func ids(t *testing.T, sig signal.Signal, req []byte, again bool) [][16]byte {
	t.Helper()
	switch sig {
	case signal.Logs:
		r := plogotlp.NewExportRequest()
		require.NoError(t, r.UnmarshalProto(req))
		if again {
			b, _ := r.MarshalProto()
			return ids(t, sig, b, false)
		}
		return allLogs(r.Logs(), "s")
	case signal.Traces:
		r := ptraceotlp.NewExportRequest()
		require.NoError(t, r.UnmarshalProto(req))
		if again {
			b, _ := r.MarshalProto()
			return ids(t, sig, b, false)
		}
		return allSpans(r.Traces(), "s")
	}
	r := pmetricotlp.NewExportRequest()
	require.NoError(t, r.UnmarshalProto(req))
	if again {
		b, _ := r.MarshalProto()
		return ids(t, sig, b, false)
	}
	return allPoints(r.Metrics(), "s")
}

func TestDecodingAndEncodingAgainChangesNoId(t *testing.T) {
	for _, sig := range signal.All {
		for seed := range uint64(8) {
			for _, req := range [][]byte{otlptest.Full(sig, seed), otlptest.Random(sig, seed, 4)} {
				first := ids(t, sig, req, false)
				require.Equal(t, first, ids(t, sig, req, false))
				require.Equal(t, first, ids(t, sig, req, true))
			}
		}
	}
}

func TestRealEventsHaveIdsOfTheirOwn(t *testing.T) {
	seen := map[[16]byte]string{}
	for _, sig := range signal.All {
		for seed := range uint64(5) {
			for i, id := range ids(t, sig, otlptest.Realistic(sig, seed, 500), false) {
				name := fmt.Sprint(sig, seed, i)
				require.Empty(t, seen[id], "%s has the id of %s", name, seen[id])
				seen[id] = name
			}
		}
	}
	require.Len(t, seen, 3*5*500)
}

// A gateway of agents reports the same metric of many hosts at the same time in one request.
func TestTheSamePointOfTwoResourcesIsTwoEvents(t *testing.T) {
	md := pmetric.NewMetrics()
	for _, host := range []string{"a", "b", "a"} {
		rm := md.ResourceMetrics().AppendEmpty()
		rm.Resource().Attributes().PutStr("host.name", host)
		lineage.StampResource(rm.Resource().Attributes(), lineage.Origin{Partition: int32(md.ResourceMetrics().Len())})
		m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
		m.SetName("cpu")
		m.SetEmptyGauge().DataPoints().AppendEmpty().SetTimestamp(5)
	}
	got := allPoints(md, "agent")
	require.NotEqual(t, got[0], got[1])
	require.Equal(t, got[0], got[2], "a stamp is not part of a resource's identity")
	require.NotEqual(t, got[0], allPoints(md, "another agent")[0])
}

func TestEveryPartOfALogRecordMatters(t *testing.T) {
	seen := map[[16]byte]string{}
	for name, change := range map[string]func(plog.LogRecord){
		"nothing":  func(plog.LogRecord) {},
		"time":     func(lr plog.LogRecord) { lr.SetTimestamp(9) },
		"observed": func(lr plog.LogRecord) { lr.SetObservedTimestamp(9) },
		"severity": func(lr plog.LogRecord) { lr.SetSeverityNumber(9) },
		"text":     func(lr plog.LogRecord) { lr.SetSeverityText("x") },
		"name":     func(lr plog.LogRecord) { lr.SetEventName("x") },
		"body":     func(lr plog.LogRecord) { lr.Body().SetStr("x") },
		"bytes":    func(lr plog.LogRecord) { lr.Body().SetEmptyBytes().FromRaw([]byte("x")) },
		"empty":    func(lr plog.LogRecord) { lr.Body().SetStr("") },
		"list":     func(lr plog.LogRecord) { lr.Body().SetEmptySlice().AppendEmpty().SetStr("x") },
		"map":      func(lr plog.LogRecord) { lr.Body().SetEmptyMap().PutStr("x", "") },
		"map 2":    func(lr plog.LogRecord) { lr.Body().SetEmptyMap().PutStr("", "x") },
		"attr":     func(lr plog.LogRecord) { lr.Attributes().PutStr("k", "w") },
		"attr int": func(lr plog.LogRecord) { lr.Attributes().PutInt("k", 1) },
		"attr b":   func(lr plog.LogRecord) { lr.Attributes().PutBool("k", true) },
		"attr 2":   func(lr plog.LogRecord) { lr.Attributes().PutStr("k2", "v") },
		"dropped":  func(lr plog.LogRecord) { lr.SetDroppedAttributesCount(1) },
		"flags":    func(lr plog.LogRecord) { lr.SetFlags(1) },
		"trace":    func(lr plog.LogRecord) { lr.SetTraceID(pcommon.TraceID{1}) },
		"span":     func(lr plog.LogRecord) { lr.SetSpanID(pcommon.SpanID{1}) },
		"event.id": func(lr plog.LogRecord) { lr.Attributes().PutStr(AttrID, "x") },
		"no id":    func(lr plog.LogRecord) { lr.Attributes().PutStr(AttrID, "") },
		"int id":   func(lr plog.LogRecord) { lr.Attributes().PutInt(AttrID, 5) },
	} {
		lr := plog.NewLogRecord()
		lr.Attributes().PutStr("k", "v")
		change(lr)
		id := Log(lr, "s")
		require.Empty(t, seen[id], "%s has the id of %s", name, seen[id])
		seen[id] = name
		if name != "event.id" && name != "int id" {
			require.NotEqual(t, id, Log(lr, "other"), "the source matters: %s", name)
		} else {
			require.Equal(t, id, Log(lr, "other"), "the agent's own id stands alone")
		}
		lineage.StampEvent(lr.Attributes(), lineage.Event{Offset: 5})
		require.Equal(t, id, Log(lr, "s"), "a stamp does not matter")
	}
}

func TestASpanIsItsTwoIds(t *testing.T) {
	s := ptrace.NewSpan()
	s.SetTraceID(pcommon.TraceID{1})
	s.SetSpanID(pcommon.SpanID{2})
	id := Span(s, "a")
	s.SetName("renamed")
	require.Equal(t, id, Span(s, "b"))
	s.SetSpanID(pcommon.SpanID{3})
	require.NotEqual(t, id, Span(s, "a"))

	// Without both, two spans of a trace must not become one.
	s.SetSpanID(pcommon.SpanID{})
	one := Span(s, "a")
	s.SetName("another")
	require.NotEqual(t, one, Span(s, "a"))
	s.Events().AppendEmpty().SetName("e")
	two := Span(s, "a")
	s.Events().At(0).SetName("f")
	require.NotEqual(t, two, Span(s, "a"))
	s.Links().AppendEmpty().SetTraceID(pcommon.TraceID{9})
	require.NotEqual(t, two, Span(s, "a"))
}

func TestAPointIsItsSeriesAndTime(t *testing.T) {
	scope := pcommon.NewInstrumentationScope()
	m := pmetric.NewMetric()
	m.SetName("m")
	dp := m.SetEmptySum().DataPoints().AppendEmpty()
	dp.SetTimestamp(1)
	for i := range 20 {
		dp.Attributes().PutInt(fmt.Sprint("k", i*7%20), int64(i*7%20))
	}
	id := NumberPoint(m, scope, dp, "s")
	other := m.Sum().DataPoints().AppendEmpty()
	other.SetTimestamp(1)
	other.SetIntValue(99)
	for i := range 20 {
		other.Attributes().PutInt(fmt.Sprint("k", i), int64(i))
	}
	require.Equal(t, id, NumberPoint(m, scope, other, "s"), "neither the order of attributes nor the value matters")
	other.Attributes().PutInt("k3", 4)
	require.NotEqual(t, id, NumberPoint(m, scope, other, "s"))

	for name, change := range map[string]func(){
		"time": func() { dp.SetTimestamp(2) }, "start": func() { dp.SetStartTimestamp(2) }, "name": func() { m.SetName("n") },
		"unit": func() { m.SetUnit("s") }, "scope": func() { scope.SetName("x") }, "version": func() { scope.SetVersion("x") },
	} {
		before := NumberPoint(m, scope, dp, "s")
		change()
		require.NotEqual(t, before, NumberPoint(m, scope, dp, "s"), name)
	}
	g := pmetric.NewMetric()
	m.CopyTo(g)
	dp.CopyTo(g.SetEmptyGauge().DataPoints().AppendEmpty())
	require.NotEqual(t, NumberPoint(m, scope, dp, "s"), NumberPoint(g, scope, g.Gauge().DataPoints().At(0), "s"))
}

// Without a time, the next value of a series would pass for a copy of the last.
func TestPointsWithoutATimeDifferByTheirValues(t *testing.T) {
	scope := pcommon.NewInstrumentationScope()
	m := pmetric.NewMetric()
	n := m.SetEmptyGauge().DataPoints().AppendEmpty()
	n.SetIntValue(1)
	before := NumberPoint(m, scope, n, "")
	n.SetIntValue(2)
	require.NotEqual(t, before, NumberPoint(m, scope, n, ""))

	h := m.SetEmptyHistogram().DataPoints().AppendEmpty()
	before = HistogramPoint(m, scope, h, "")
	h.BucketCounts().FromRaw([]uint64{1})
	require.NotEqual(t, before, HistogramPoint(m, scope, h, ""))

	e := m.SetEmptyExponentialHistogram().DataPoints().AppendEmpty()
	before = ExponentialHistogramPoint(m, scope, e, "")
	e.Positive().BucketCounts().FromRaw([]uint64{1})
	positive := ExponentialHistogramPoint(m, scope, e, "")
	require.NotEqual(t, before, positive)
	e.Positive().BucketCounts().FromRaw(nil)
	e.Negative().BucketCounts().FromRaw([]uint64{1})
	require.NotEqual(t, positive, ExponentialHistogramPoint(m, scope, e, ""))

	s := m.SetEmptySummary().DataPoints().AppendEmpty()
	before = SummaryPoint(m, scope, s, "")
	s.QuantileValues().AppendEmpty().SetValue(3)
	require.NotEqual(t, before, SummaryPoint(m, scope, s, ""))
}

// Less than three on average: with the race detector a sync.Pool forgets some of what it is given, and an encoder is two.
func TestMakingAnIdAllocatesNothing(t *testing.T) {
	r := plogotlp.NewExportRequest()
	require.NoError(t, r.UnmarshalProto(otlptest.Logs(1, 1)))
	lr := r.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
	require.Less(t, testing.AllocsPerRun(1000, func() { Log(lr, "source") }), 3.0)
	p := pmetricotlp.NewExportRequest()
	require.NoError(t, p.UnmarshalProto(otlptest.Metrics(1, 1)))
	sm := p.Metrics().ResourceMetrics().At(0).ScopeMetrics().At(0)
	m := sm.Metrics().At(0)
	dp := m.Sum().DataPoints().At(0)
	require.Less(t, testing.AllocsPerRun(1000, func() { NumberPoint(m, sm.Scope(), dp, "source") }), 3.0)
}

func BenchmarkLog(b *testing.B) {
	r := plogotlp.NewExportRequest()
	if err := r.UnmarshalProto(otlptest.Logs(1, 500)); err != nil {
		b.Fatal(err)
	}
	records := r.Logs().ResourceLogs().At(0).ScopeLogs().At(0).LogRecords()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		Log(records.At(i%500), "source")
	}
}
