import ch.qos.logback.classic.LoggerContext;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.exporter.otlp.http.logs.OtlpHttpLogRecordExporter;
import io.opentelemetry.exporter.otlp.http.metrics.OtlpHttpMetricExporter;
import io.opentelemetry.exporter.otlp.http.trace.OtlpHttpSpanExporter;
import io.opentelemetry.exporter.otlp.logs.OtlpGrpcLogRecordExporter;
import io.opentelemetry.exporter.otlp.metrics.OtlpGrpcMetricExporter;
import io.opentelemetry.exporter.otlp.trace.OtlpGrpcSpanExporter;
import io.opentelemetry.instrumentation.logback.appender.v1_0.OpenTelemetryAppender;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.common.CompletableResultCode;
import io.opentelemetry.sdk.logs.data.LogRecordData;
import io.opentelemetry.sdk.logs.SdkLoggerProvider;
import io.opentelemetry.sdk.logs.export.BatchLogRecordProcessor;
import io.opentelemetry.sdk.logs.export.LogRecordExporter;
import io.opentelemetry.sdk.logs.export.SimpleLogRecordProcessor;
import io.opentelemetry.sdk.metrics.InstrumentType;
import io.opentelemetry.sdk.metrics.SdkMeterProvider;
import io.opentelemetry.sdk.metrics.data.AggregationTemporality;
import io.opentelemetry.sdk.metrics.data.MetricData;
import io.opentelemetry.sdk.metrics.export.MetricExporter;
import io.opentelemetry.sdk.metrics.export.PeriodicMetricReader;
import io.opentelemetry.sdk.resources.Resource;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import io.opentelemetry.sdk.trace.data.SpanData;
import io.opentelemetry.sdk.trace.export.BatchSpanProcessor;
import io.opentelemetry.sdk.trace.export.SimpleSpanProcessor;
import io.opentelemetry.sdk.trace.export.SpanExporter;
import java.time.Duration;
import java.util.Collection;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicIntegerArray;
import org.slf4j.LoggerFactory;

/**
 * Sends equal records with the OpenTelemetry Java SDK and its logback appender, unchanged, and prints as JSON how many it emitted,
 * and for how many of them the SDK's exporter gave up: those may be stored, or not.
 *
 * <p>usage: java -cp LIBS Client.java grpc|http simple|batch HOST:PORT SERVICE SCALE. The HTTP sender is chosen by a system property.
 */
public class Client {
  static int logs, spans, metrics;
  static final AtomicIntegerArray gaveUp = new AtomicIntegerArray(3); // of logs, spans, metrics

  /** Counts the records of a request that the exporter did not bring through. */
  static CompletableResultCode judged(int signal, int records, CompletableResultCode result) {
    return result.whenComplete(() -> {
      if (!result.isSuccess()) {
        gaveUp.addAndGet(signal, records);
      }
    });
  }

  record CountingLogs(LogRecordExporter of) implements LogRecordExporter {
    public CompletableResultCode export(Collection<LogRecordData> data) {
      return judged(0, data.size(), of.export(data));
    }

    public CompletableResultCode flush() {
      return of.flush();
    }

    public CompletableResultCode shutdown() {
      return of.shutdown();
    }
  }

  record CountingSpans(SpanExporter of) implements SpanExporter {
    public CompletableResultCode export(Collection<SpanData> data) {
      return judged(1, data.size(), of.export(data));
    }

    public CompletableResultCode flush() {
      return of.flush();
    }

    public CompletableResultCode shutdown() {
      return of.shutdown();
    }
  }

  public static void main(String[] args) {
    boolean grpc = args[0].equals("grpc"), simple = args[1].equals("simple");
    String address = "http://" + args[2];
    int scale = Integer.parseInt(args[4]), many = (simple ? 60 : 2000) * scale;
    Duration timeout = Duration.ofSeconds(20);
    Resource resource = Resource.create(Attributes.builder().put("service.name", args[3]).build());

    LogRecordExporter logExporter = new CountingLogs(grpc
        ? OtlpGrpcLogRecordExporter.builder().setEndpoint(address).setTimeout(timeout).build()
        : OtlpHttpLogRecordExporter.builder().setEndpoint(address + "/v1/logs").setTimeout(timeout).build());
    SpanExporter spanExporter = new CountingSpans(grpc
        ? OtlpGrpcSpanExporter.builder().setEndpoint(address).setTimeout(timeout).build()
        : OtlpHttpSpanExporter.builder().setEndpoint(address + "/v1/traces").setTimeout(timeout).build());
    MetricExporter metricExporter = grpc
        ? OtlpGrpcMetricExporter.builder().setEndpoint(address).setTimeout(timeout).build()
        : OtlpHttpMetricExporter.builder().setEndpoint(address + "/v1/metrics").setTimeout(timeout).build();
    MetricExporter counting = new MetricExporter() {
      public CompletableResultCode export(Collection<MetricData> data) {
        int points = data.stream().mapToInt(m -> m.getData().getPoints().size()).sum();
        metrics += points;
        return judged(2, points, metricExporter.export(data));
      }

      public CompletableResultCode flush() {
        return metricExporter.flush();
      }

      public CompletableResultCode shutdown() {
        return metricExporter.shutdown();
      }

      public AggregationTemporality getAggregationTemporality(InstrumentType type) {
        return type == InstrumentType.COUNTER ? AggregationTemporality.DELTA : metricExporter.getAggregationTemporality(type);
      }
    };

    OpenTelemetrySdk sdk = OpenTelemetrySdk.builder()
        .setLoggerProvider(SdkLoggerProvider.builder().setResource(resource).addLogRecordProcessor(simple
            ? SimpleLogRecordProcessor.create(logExporter)
            : BatchLogRecordProcessor.builder(logExporter).setMaxQueueSize(1_000_000).build()).build())
        .setTracerProvider(SdkTracerProvider.builder().setResource(resource).addSpanProcessor(simple
            ? SimpleSpanProcessor.create(spanExporter)
            : BatchSpanProcessor.builder(spanExporter).setMaxQueueSize(1_000_000).build()).build())
        .setMeterProvider(SdkMeterProvider.builder().setResource(resource)
            .registerMetricReader(PeriodicMetricReader.builder(counting).setInterval(Duration.ofDays(1)).build()).build())
        .build();

    LoggerContext context = (LoggerContext) LoggerFactory.getILoggerFactory();
    context.reset(); // no console: standard output holds the counts only
    OpenTelemetryAppender appender = new OpenTelemetryAppender();
    appender.setContext(context);
    appender.setOpenTelemetry(sdk);
    appender.start();
    for (String name : new String[] {"app", "db"}) {
      ch.qos.logback.classic.Logger logger = context.getLogger(name);
      logger.addAppender(appender);
      logger.setAdditive(false);
    }
    for (int i = 0; i < many; i++) {
      context.getLogger(i % 2 == 0 ? "app" : "db").info("connection refused, retrying");
      logs++;
      if (simple && i % 4 == 3) { // the sender takes five requests at a time and drops the rest
        sdk.getSdkLoggerProvider().forceFlush().join(60, TimeUnit.SECONDS);
      }
    }
    sdk.getSdkLoggerProvider().forceFlush().join(60, TimeUnit.SECONDS);

    for (int i = 0; i < many; i++) {
      sdk.getTracer("app").spanBuilder("GET /health").startSpan().end();
      spans++;
      if (simple && i % 4 == 3) {
        sdk.getSdkTracerProvider().forceFlush().join(60, TimeUnit.SECONDS);
      }
    }
    sdk.getSdkTracerProvider().forceFlush().join(60, TimeUnit.SECONDS);

    for (int round = 0; round < 5 * scale; round++) {
      for (var meter : new io.opentelemetry.api.metrics.Meter[] {
          sdk.getMeter("pool"),
          sdk.getMeterProvider().meterBuilder("pool").setInstrumentationVersion("2").build(),
          sdk.getMeterProvider().meterBuilder("pool").setSchemaUrl("https://example.com/1").build()}) {
        meter.gaugeBuilder("pool.size").build().set(7);
        meter.counterBuilder("pool.taken").build().add(1);
        meter.histogramBuilder("pool.wait").build().record(0.5);
      }
      sdk.getSdkMeterProvider().forceFlush().join(60, TimeUnit.SECONDS);
    }
    sdk.close();
    System.out.printf("{\"logs\": %d, \"spans\": %d, \"metrics\": %d, \"gave_up\": {\"logs\": %d, \"spans\": %d, \"metrics\": %d}}%n",
        logs, spans, metrics, gaveUp.get(0), gaveUp.get(1), gaveUp.get(2));
    System.exit(0);
  }
}
