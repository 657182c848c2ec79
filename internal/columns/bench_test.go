package columns_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/pulsegrid/pulsegrid/internal/columns"
	"github.com/pulsegrid/pulsegrid/internal/lineage"
)

const benchEvents = 10_000

// fillBench gives an event 24 attributes: 4 promoted ones, 14 more texts, 4 integers, a double and a boolean.
func fillBench(m pcommon.Map, rnd *rand.Rand) {
	m.EnsureCapacity(25)
	m.PutStr("http.request.method", []string{"GET", "POST", "PUT"}[rnd.IntN(3)])
	m.PutInt("http.response.status_code", int64(200+rnd.IntN(4)*100))
	m.PutStr("http.route", fmt.Sprintf("/api/v1/resource/%d", rnd.IntN(50)))
	m.PutStr("error.type", "timeout")
	for i := range 14 {
		m.PutStr(fmt.Sprintf("app.attribute.%d", i), fmt.Sprintf("%016x", rnd.Uint64()))
	}
	for i := range 4 {
		m.PutInt(fmt.Sprintf("app.count.%d", i), rnd.Int64())
	}
	m.PutDouble("app.ratio", rnd.Float64())
	m.PutBool("app.flag", rnd.IntN(2) == 0)
}

// benchResource gives a resource 13 attributes and a stamp.
func benchResource(res pcommon.Resource, r int) {
	for i := range 12 {
		res.Attributes().PutStr(fmt.Sprintf("resource.attribute.%d", i), fmt.Sprintf("value-%d-%d", r, i))
	}
	res.Attributes().PutStr("service.name", fmt.Sprintf("service-%d", r%7))
	lineage.StampResource(res.Attributes(), lineage.Origin{Tenant: "acme", Source: "a", Topic: "otlp.logs.v1", Partition: 1})
}

func stampBench(m pcommon.Map, i int, rnd *rand.Rand) {
	lineage.StampEvent(m, lineage.Event{ID: [16]byte{byte(rnd.Uint32())}, Offset: int64(i / 500), Index: int32(i % 500)})
}

func run(b *testing.B, t *columns.Table, append func(*columns.Builder) error) {
	mem := memory.NewGoAllocator()
	cb := columns.NewBuilder(mem, t)
	defer cb.Release()
	b.ReportAllocs()
	for b.Loop() {
		if err := append(cb); err != nil {
			b.Fatal(err)
		}
		cb.NewRecordBatch().Release()
	}
	b.ReportMetric(float64(b.N)*benchEvents/b.Elapsed().Seconds(), "events/s")
}

func benchLogs() plog.Logs {
	rnd := rand.New(rand.NewPCG(1, 2))
	ld := plog.NewLogs()
	for r := range 20 {
		rl := ld.ResourceLogs().AppendEmpty()
		benchResource(rl.Resource(), r)
		sl := rl.ScopeLogs().AppendEmpty()
		for i := range benchEvents / 20 {
			lr := sl.LogRecords().AppendEmpty()
			lr.SetTimestamp(pcommon.Timestamp(1795428000000000000 + uint64(i)))
			lr.SetObservedTimestamp(lr.Timestamp())
			lr.SetSeverityNumber(9)
			lr.SetSeverityText("INFO")
			lr.Body().SetStr(fmt.Sprintf("request %x took %d ms and went through %x", rnd.Uint64(), rnd.IntN(1000), rnd.Uint64()))
			lr.SetTraceID(pcommon.TraceID{byte(i), byte(rnd.Uint32())})
			lr.SetSpanID(pcommon.SpanID{byte(i), byte(rnd.Uint32())})
			fillBench(lr.Attributes(), rnd)
			stampBench(lr.Attributes(), r*500+i, rnd)
		}
	}
	return ld
}

func BenchmarkLogs(b *testing.B) {
	ld := benchLogs()
	run(b, columns.Logs, func(cb *columns.Builder) error { return cb.AppendLogs(ld) })
}

func BenchmarkIcebergView(b *testing.B) {
	mem := memory.NewGoAllocator()
	cb := columns.NewBuilder(mem, columns.Logs)
	if err := cb.AppendLogs(benchLogs()); err != nil {
		b.Fatal(err)
	}
	rec := cb.NewRecordBatch()
	view, err := columns.Logs.IcebergView(columns.Logs.IcebergSchema())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		var out arrow.RecordBatch
		if out, err = view.Convert(mem, rec); err != nil {
			b.Fatal(err)
		}
		out.Release()
	}
	b.ReportMetric(float64(b.N)*benchEvents/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkSpans(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 2))
	td := ptrace.NewTraces()
	for r := range 20 {
		rs := td.ResourceSpans().AppendEmpty()
		benchResource(rs.Resource(), r)
		ss := rs.ScopeSpans().AppendEmpty()
		for i := range benchEvents / 20 {
			sp := ss.Spans().AppendEmpty()
			sp.SetName(fmt.Sprintf("GET /%d", i%40))
			sp.SetStartTimestamp(1795428000000000000)
			sp.SetEndTimestamp(1795428000000500000)
			sp.SetTraceID(pcommon.TraceID{byte(i), byte(rnd.Uint32())})
			sp.SetSpanID(pcommon.SpanID{byte(i), byte(rnd.Uint32())})
			fillBench(sp.Attributes(), rnd)
			stampBench(sp.Attributes(), r*500+i, rnd)
		}
	}
	run(b, columns.Spans, func(cb *columns.Builder) error { return cb.AppendTraces(td) })
}

func BenchmarkMetrics(b *testing.B) {
	rnd := rand.New(rand.NewPCG(1, 2))
	md := pmetric.NewMetrics()
	for r := range 20 {
		rm := md.ResourceMetrics().AppendEmpty()
		benchResource(rm.Resource(), r)
		sm := rm.ScopeMetrics().AppendEmpty()
		for i := range benchEvents / 20 / 10 {
			m := sm.Metrics().AppendEmpty()
			m.SetName(fmt.Sprintf("metric.%d", i))
			points := m.SetEmptySum().DataPoints()
			for p := range 10 {
				dp := points.AppendEmpty()
				dp.SetTimestamp(1795428000000000000)
				dp.SetDoubleValue(rnd.Float64())
				for a := range 5 {
					dp.Attributes().PutStr(fmt.Sprintf("label.%d", a), fmt.Sprintf("v%d", rnd.IntN(100)))
				}
				stampBench(dp.Attributes(), r*500+i*10+p, rnd)
			}
		}
	}
	run(b, columns.Metrics, func(cb *columns.Builder) error { return cb.AppendMetrics(md) })
}
