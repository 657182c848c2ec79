// Command client sends equal records with the OpenTelemetry Go SDK, unchanged, and prints as JSON how many it emitted, and for how many of them the SDK's
// exporter gave up: those may be stored, or not.
//
//	client grpc|http simple|batch HOST:PORT SERVICE SCALE
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otellog "go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

type counts struct {
	Logs    int `json:"logs"`
	Spans   int `json:"spans"`
	Metrics int `json:"metrics"`
}

var emitted struct {
	counts
	GaveUp counts `json:"gave_up"`
}

func main() {
	protocol, mode, address, service := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	scale, err := strconv.Atoi(os.Args[5])
	must(err)
	ctx := context.Background()
	res := resource.NewSchemaless(attribute.String("service.name", service))
	many := 2000 * scale
	if mode == "simple" {
		many = 60 * scale
	}
	grpc := protocol == "grpc"

	var logs sdklog.Exporter
	var spans sdktrace.SpanExporter
	var points sdkmetric.Exporter
	if grpc {
		logs, err = otlploggrpc.New(ctx, otlploggrpc.WithEndpoint(address), otlploggrpc.WithInsecure(), otlploggrpc.WithTimeout(20*time.Second))
		must(err)
		spans, err = otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(address), otlptracegrpc.WithInsecure(), otlptracegrpc.WithTimeout(20*time.Second))
		must(err)
		points, err = otlpmetricgrpc.New(ctx, otlpmetricgrpc.WithEndpoint(address), otlpmetricgrpc.WithInsecure(), otlpmetricgrpc.WithTimeout(20*time.Second))
	} else {
		logs, err = otlploghttp.New(ctx, otlploghttp.WithEndpoint(address), otlploghttp.WithInsecure(), otlploghttp.WithTimeout(20*time.Second))
		must(err)
		spans, err = otlptracehttp.New(ctx, otlptracehttp.WithEndpoint(address), otlptracehttp.WithInsecure(), otlptracehttp.WithTimeout(20*time.Second))
		must(err)
		points, err = otlpmetrichttp.New(ctx, otlpmetrichttp.WithEndpoint(address), otlpmetrichttp.WithInsecure(), otlpmetrichttp.WithTimeout(20*time.Second))
	}
	must(err)

	logProcessor := sdklog.Processor(sdklog.NewSimpleProcessor(countingLogs{logs}))
	spanProcessor := sdktrace.NewSimpleSpanProcessor(countingSpans{spans})
	if mode == "batch" {
		logProcessor = sdklog.NewBatchProcessor(countingLogs{logs}, sdklog.WithMaxQueueSize(1_000_000))
		spanProcessor = sdktrace.NewBatchSpanProcessor(countingSpans{spans}, sdktrace.WithMaxQueueSize(1_000_000))
	}

	lp := sdklog.NewLoggerProvider(sdklog.WithResource(res), sdklog.WithProcessor(logProcessor))
	loggers := []otellog.Logger{lp.Logger("app"), lp.Logger("db"), lp.Logger("db", otellog.WithInstrumentationAttributes(attribute.String("shard", "b")))}
	second := time.Now().Truncate(time.Second) // as the lines of a file have it
	// The SDK cuts such lines into batches that may be equal byte for byte. Where answers are lost, nobody can tell them from retries: there they differ.
	lossy := strings.HasSuffix(service, "-lossy")
	for i := range many {
		var r otellog.Record
		if mode == "batch" {
			r.SetTimestamp(second)
			r.SetObservedTimestamp(second)
		}
		r.SetSeverity(otellog.SeverityInfo)
		r.SetBody(attribute.StringValue("connection refused, retrying"))
		if lossy && i%16 == 0 {
			r.AddAttributes(attribute.Int("line", i))
		}
		loggers[i%len(loggers)].Emit(ctx, r)
		emitted.Logs++
	}
	sent(lp.Shutdown(ctx))

	tp := sdktrace.NewTracerProvider(sdktrace.WithResource(res), sdktrace.WithSpanProcessor(spanProcessor))
	for range many {
		_, span := tp.Tracer("app").Start(ctx, "GET /health")
		span.End()
		emitted.Spans++
	}
	sent(tp.Shutdown(ctx))

	mp := sdkmetric.NewMeterProvider(sdkmetric.WithResource(res), sdkmetric.WithReader(sdkmetric.NewPeriodicReader(counting{points}, sdkmetric.WithInterval(24*time.Hour), sdkmetric.WithTimeout(time.Hour))))
	for range 5 * scale {
		for _, m := range []metric.Meter{
			mp.Meter("pool"), mp.Meter("pool", metric.WithInstrumentationAttributes(attribute.String("shard", "b"))), mp.Meter("pool", metric.WithSchemaURL("https://example.com/1")),
		} {
			size, err := m.Int64Gauge("pool.size")
			must(err)
			taken, err := m.Int64Counter("pool.taken")
			must(err)
			wait, err := m.Float64Histogram("pool.wait")
			must(err)
			size.Record(ctx, 7)
			taken.Add(ctx, 1)
			wait.Record(ctx, 0.5)
		}
		sent(mp.ForceFlush(ctx))
	}
	sent(mp.Shutdown(ctx))
	must(json.NewEncoder(os.Stdout).Encode(emitted))
}

type countingLogs struct{ sdklog.Exporter }

func (c countingLogs) Export(ctx context.Context, records []sdklog.Record) error {
	n := len(records)
	err := c.Exporter.Export(ctx, records)
	if err != nil {
		emitted.GaveUp.Logs += n
	}
	return err
}

type countingSpans struct{ sdktrace.SpanExporter }

func (c countingSpans) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := c.SpanExporter.ExportSpans(ctx, spans)
	if err != nil {
		emitted.GaveUp.Spans += len(spans)
	}
	return err
}

// counting counts the points that the SDK hands to the exporter.
type counting struct{ sdkmetric.Exporter }

func (c counting) Export(ctx context.Context, rm *metricdata.ResourceMetrics) error {
	before := emitted.Metrics
	for _, s := range rm.ScopeMetrics {
		for _, m := range s.Metrics {
			switch d := m.Data.(type) {
			case metricdata.Gauge[int64]:
				emitted.Metrics += len(d.DataPoints)
			case metricdata.Sum[int64]:
				emitted.Metrics += len(d.DataPoints)
			case metricdata.Histogram[float64]:
				emitted.Metrics += len(d.DataPoints)
			default:
				log.Fatalf("metric %s has data of type %T", m.Name, d)
			}
		}
	}
	err := c.Exporter.Export(ctx, rm)
	if err != nil {
		emitted.GaveUp.Metrics += emitted.Metrics - before
	}
	return err
}

// sent prints the error of a request whose answer was lost for good: what was emitted stays counted.
func sent(err error) {
	if err != nil {
		log.Print(err)
	}
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
