package otlptest

import (
	"fmt"
	"strings"

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

// Shared returns a request of n small events that share a text of size bytes, which each of their rows has: logs in eight attributes of
// their resource, spans in an attribute of their scope, data points in the description of their metric. Event i is named, or has the
// value, "event i", or i.
func Shared(sig signal.Signal, n, size int) []byte {
	process := &resource.Resource{Attributes: []*common.KeyValue{kv("service.name", "checkout")}}
	switch sig {
	case signal.Logs:
		for i := range 8 {
			process.Attributes = append(process.Attributes, kv(fmt.Sprintf("note.%d", i), strings.Repeat("x", size/8)))
		}
		records := make([]*logs.LogRecord, n)
		for i := range records {
			records[i] = &logs.LogRecord{TimeUnixNano: Start + uint64(i), Body: str(fmt.Sprintf("event %d", i))}
		}
		return encode(&collectorlogs.ExportLogsServiceRequest{ResourceLogs: []*logs.ResourceLogs{{
			Resource: process, ScopeLogs: []*logs.ScopeLogs{{LogRecords: records}},
		}}})
	case signal.Traces:
		spans := make([]*trace.Span, n)
		for i := range spans {
			spans[i] = &trace.Span{
				TraceId: []byte("0123456789abcdef"), SpanId: fmt.Appendf(nil, "%08d", i), Name: fmt.Sprintf("event %d", i), StartTimeUnixNano: Start + uint64(i), EndTimeUnixNano: Start + uint64(i) + 1,
			}
		}
		return encode(&collectortrace.ExportTraceServiceRequest{ResourceSpans: []*trace.ResourceSpans{{
			Resource: process, ScopeSpans: []*trace.ScopeSpans{{
				Scope: &common.InstrumentationScope{Name: "s", Attributes: []*common.KeyValue{kv("note", strings.Repeat("x", size))}}, Spans: spans,
			}},
		}}})
	case signal.Metrics:
		points := make([]*metrics.NumberDataPoint, n)
		for i := range points {
			points[i] = &metrics.NumberDataPoint{TimeUnixNano: Start + uint64(i), Value: &metrics.NumberDataPoint_AsInt{AsInt: int64(i)}}
		}
		return encode(&collectormetrics.ExportMetricsServiceRequest{ResourceMetrics: []*metrics.ResourceMetrics{{
			Resource: process, ScopeMetrics: []*metrics.ScopeMetrics{{Metrics: []*metrics.Metric{{
				Name: "m", Description: strings.Repeat("x", size), Data: &metrics.Metric_Gauge{Gauge: &metrics.Gauge{DataPoints: points}},
			}}}},
		}}})
	}
	panic("otlptest: " + sig.String())
}
