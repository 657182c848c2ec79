package otlptest

import (
	_ "embed" // HandledSchema
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	collectorlogs "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/pulsegrid/pulsegrid/internal/signal"
)

// Start is the time, in nanoseconds since 1970, from which generated events are dated: 2026-01-01.
const Start = 1_767_225_600 * 1e9

// Realistic returns a request of n events as a backend service sends them: see Logs, Spans and Metrics.
func Realistic(sig signal.Signal, seed uint64, n int) []byte {
	switch sig {
	case signal.Logs:
		return Logs(seed, n)
	case signal.Metrics:
		return Metrics(seed, n)
	case signal.Traces:
		return Spans(seed, n)
	}
	panic("otlptest: " + sig.String())
}

// Logs returns an ExportLogsServiceRequest of one resource and n log records of about 800 bytes with 24 attributes each. Nothing
// repeats from one record to the next, nor from one seed to the next, that would not repeat in life.
func Logs(seed uint64, n int) []byte { return logRequest(seed, n, "") }

// HandledSchema is a registry file that has 20 of the 24 attributes of the records of Handled.
//
//go:embed handled.yaml
var HandledSchema string

// Handled is Logs with records that are events of HandledSchema.
func Handled(seed uint64, n int) []byte { return logRequest(seed, n, "request.handled") }

func logRequest(seed uint64, n int, event string) []byte {
	g := realistic{rand.New(rand.NewPCG(seed, 1))}
	records := make([]*logs.LogRecord, n)
	for i := range records {
		attrs := g.attributes()
		at := g.time(i)
		records[i] = &logs.LogRecord{
			TimeUnixNano: at, ObservedTimeUnixNano: at + g.Uint64N(1e6),
			SeverityNumber: logs.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO",
			Body: str(fmt.Sprintf("request %016x of user %d handled in %d us by worker %d: %s", g.Uint64(), g.IntN(1e6), g.IntN(1e6),
				g.IntN(64), outcomes[g.IntN(len(outcomes))])),
			Attributes: attrs, TraceId: g.id(16), SpanId: g.id(8), Flags: 1, EventName: event,
		}
	}
	return encode(&collectorlogs.ExportLogsServiceRequest{ResourceLogs: []*logs.ResourceLogs{{
		Resource: processOf(seed), SchemaUrl: schemaURL,
		ScopeLogs: []*logs.ScopeLogs{{Scope: scope(), LogRecords: records}},
	}}})
}

// Spans returns an ExportTraceServiceRequest of one resource and n spans of about 800 bytes with 24 attributes, in traces of
// eight.
func Spans(seed uint64, n int) []byte {
	g := realistic{rand.New(rand.NewPCG(seed, 2))}
	spans := make([]*trace.Span, n)
	var traceID, parent []byte
	for i := range spans {
		if i%8 == 0 {
			traceID, parent = g.id(16), nil
		}
		id, at := g.id(8), g.time(i)
		spans[i] = &trace.Span{
			TraceId: traceID, SpanId: id, ParentSpanId: parent, Flags: 0x101,
			Name: methods[g.IntN(len(methods))] + " " + routes[g.IntN(len(routes))], Kind: trace.Span_SPAN_KIND_SERVER,
			StartTimeUnixNano: at, EndTimeUnixNano: at + 1 + g.Uint64N(1e9),
			Attributes: g.attributes(), Status: &trace.Status{Code: trace.Status_STATUS_CODE_OK},
		}
		parent = id
	}
	return encode(&collectortrace.ExportTraceServiceRequest{ResourceSpans: []*trace.ResourceSpans{{
		Resource: processOf(seed), SchemaUrl: schemaURL,
		ScopeSpans: []*trace.ScopeSpans{{Scope: scope(), Spans: spans}},
	}}})
}

// Metrics returns an ExportMetricsServiceRequest of one resource and n data points: ten to a metric, of all five types, with four
// attributes each, all of one scrape a metric.
func Metrics(seed uint64, n int) []byte {
	g := realistic{rand.New(rand.NewPCG(seed, 3))}
	var ms []*metrics.Metric
	for i := 0; i < n; i += 10 {
		ms = append(ms, g.metric(i, min(10, n-i)))
	}
	return encode(&collectormetrics.ExportMetricsServiceRequest{ResourceMetrics: []*metrics.ResourceMetrics{{
		Resource: processOf(seed), SchemaUrl: schemaURL,
		ScopeMetrics: []*metrics.ScopeMetrics{{Scope: scope(), Metrics: ms}},
	}}})
}

const schemaURL = "https://opentelemetry.io/schemas/1.37.0"

var (
	methods  = []string{"GET", "POST", "PUT", "DELETE"}
	routes   = []string{"/api/v1/orders/{id}", "/api/v1/users/{id}/cart", "/api/v1/search", "/api/v1/checkout"}
	outcomes = []string{"ok", "cache miss, fetched from origin", "retried once after timeout", "rejected by policy"}
	zones    = []string{"eu-central-1a", "eu-central-1b", "eu-central-1c"}
)

type realistic struct{ *rand.Rand }

func (g realistic) id(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], g.Uint64())
	}
	return b
}

func (g realistic) uuid() string {
	b := g.id(16)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// time of the i-th event: a millisecond apart.
func (g realistic) time(i int) uint64 { return Start + uint64(i)*1e6 + g.Uint64N(1e6) }

func str(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: s}}
}

func kv(key string, value any) *common.KeyValue {
	v := &common.AnyValue{}
	switch x := value.(type) {
	case string:
		v = str(x)
	case int:
		v.Value = &common.AnyValue_IntValue{IntValue: int64(x)}
	case float64:
		v.Value = &common.AnyValue_DoubleValue{DoubleValue: x}
	case bool:
		v.Value = &common.AnyValue_BoolValue{BoolValue: x}
	}
	return &common.KeyValue{Key: key, Value: v}
}

// attributes are 24 of one event.
func (g realistic) attributes() []*common.KeyValue {
	route := routes[g.IntN(len(routes))]
	return []*common.KeyValue{
		kv("http.request.method", methods[g.IntN(len(methods))]),
		kv("http.route", route),
		kv("http.response.status_code", 200+g.IntN(300)),
		kv("url.path", fmt.Sprintf("/api/v1/orders/%d", g.IntN(1e9))),
		kv("client.address", fmt.Sprintf("10.%d.%d.%d", g.IntN(256), g.IntN(256), g.IntN(256))),
		kv("client.port", 1024+g.IntN(64000)),
		kv("user.id", fmt.Sprintf("u-%d", g.IntN(1e6))),
		kv("session.id", g.uuid()),
		kv("request.id", g.uuid()),
		kv("duration_ms", g.ExpFloat64()*20),
		kv("cpu_ms", g.ExpFloat64()*2),
		kv("bytes.in", g.IntN(1e5)),
		kv("bytes.out", g.IntN(1e6)),
		kv("cache.hit", g.IntN(2) == 0),
		kv("retry", g.IntN(16) == 0),
		kv("thread.id", g.IntN(256)),
		kv("code.line", 10+g.IntN(900)),
		kv("shard", g.IntN(64)),
		kv("db.calls", g.IntN(20)),
		kv("db.ms", g.ExpFloat64()*5),
		kv("feature", fmt.Sprintf("f%d", g.IntN(40))),
		kv("zone", zones[g.IntN(len(zones))]),
		kv("queue.depth", g.IntN(500)),
		kv("score", g.Float64()),
	}
}

// processOf is the resource of the process that seed stands for, whatever the signal.
func processOf(seed uint64) *resource.Resource {
	g := realistic{rand.New(rand.NewPCG(seed, 0))}
	return &resource.Resource{Attributes: []*common.KeyValue{
		kv("service.namespace", "shop"),
		kv("service.name", "checkout"),
		kv("service.version", "2026.11.3"),
		kv("service.instance.id", g.uuid()),
		kv("host.name", fmt.Sprintf("ip-10-%d-%d", seed>>8&255, seed&255)),
		kv("cloud.region", "eu-central-1"),
		kv("k8s.pod.uid", g.uuid()),
		kv("process.pid", 1+g.IntN(30000)),
		kv("telemetry.sdk.language", "go"),
	}}
}

func scope() *common.InstrumentationScope {
	return &common.InstrumentationScope{Name: "go.opentelemetry.io/contrib/instrumentation/net/http", Version: "0.66.0"}
}

func (g realistic) metric(i, points int) *metrics.Metric {
	m := &metrics.Metric{Name: fmt.Sprintf("http.server.request.m%d", i/10), Description: "what the server did", Unit: "ms"}
	start, at := uint64(Start), Start+g.Uint64N(60e9)
	attrs := func(p int) []*common.KeyValue {
		return []*common.KeyValue{
			kv("http.route", routes[p%len(routes)]), kv("http.request.method", methods[p/len(routes)%len(methods)]),
			kv("http.response.status_code", 200+p), kv("server.port", 8080),
		}
	}
	var numbers []*metrics.NumberDataPoint
	for p := range points {
		numbers = append(numbers, &metrics.NumberDataPoint{
			StartTimeUnixNano: start, TimeUnixNano: at, Attributes: attrs(p),
			Value: &metrics.NumberDataPoint_AsDouble{AsDouble: g.ExpFloat64() * 100},
		})
	}
	cumulative := metrics.AggregationTemporality_AGGREGATION_TEMPORALITY_CUMULATIVE
	switch i / 10 % 5 {
	case 0:
		m.Data = &metrics.Metric_Sum{Sum: &metrics.Sum{DataPoints: numbers, AggregationTemporality: cumulative, IsMonotonic: true}}
	case 1:
		m.Data = &metrics.Metric_Gauge{Gauge: &metrics.Gauge{DataPoints: numbers}}
	case 2:
		h := &metrics.Histogram{AggregationTemporality: cumulative}
		for p := range points {
			h.DataPoints = append(h.DataPoints, g.histogram(start, at, attrs(p)))
		}
		m.Data = &metrics.Metric_Histogram{Histogram: h}
	case 3:
		h := &metrics.ExponentialHistogram{AggregationTemporality: cumulative}
		for p := range points {
			h.DataPoints = append(h.DataPoints, g.exponential(start, at, attrs(p)))
		}
		m.Data = &metrics.Metric_ExponentialHistogram{ExponentialHistogram: h}
	case 4:
		s := &metrics.Summary{}
		for p := range points {
			s.DataPoints = append(s.DataPoints, &metrics.SummaryDataPoint{
				StartTimeUnixNano: start, TimeUnixNano: at, Attributes: attrs(p), Count: g.Uint64N(1e4), Sum: g.ExpFloat64() * 1e4,
				QuantileValues: []*metrics.SummaryDataPoint_ValueAtQuantile{
					{Quantile: 0.5, Value: g.ExpFloat64()}, {Quantile: 0.99, Value: 10 * g.ExpFloat64()},
				},
			})
		}
		m.Data = &metrics.Metric_Summary{Summary: s}
	}
	return m
}

func (g realistic) histogram(start, at uint64, attrs []*common.KeyValue) *metrics.HistogramDataPoint {
	p := &metrics.HistogramDataPoint{
		StartTimeUnixNano: start, TimeUnixNano: at, Attributes: attrs,
		ExplicitBounds: []float64{5, 10, 25, 50, 75, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10000},
	}
	for range len(p.ExplicitBounds) + 1 {
		n := g.Uint64N(100)
		p.BucketCounts = append(p.BucketCounts, n)
		p.Count += n
	}
	sum := float64(p.Count) * g.ExpFloat64() * 50
	p.Sum = &sum
	return p
}

func (g realistic) exponential(start, at uint64, attrs []*common.KeyValue) *metrics.ExponentialHistogramDataPoint {
	p := &metrics.ExponentialHistogramDataPoint{
		StartTimeUnixNano: start, TimeUnixNano: at, Attributes: attrs, Scale: 3, ZeroCount: g.Uint64N(3),
		Positive: &metrics.ExponentialHistogramDataPoint_Buckets{Offset: int32(g.IntN(20)) - 10},
	}
	p.Count = p.ZeroCount
	for range 40 {
		n := g.Uint64N(50)
		p.Positive.BucketCounts = append(p.Positive.BucketCounts, n)
		p.Count += n
	}
	sum := float64(p.Count) * g.ExpFloat64()
	p.Sum = &sum
	return p
}
