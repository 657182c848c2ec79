"""Sends equal records with the OpenTelemetry Python SDK, unchanged, and prints as JSON how many it emitted, and for how many of them
the SDK's exporter gave up: those may be stored, or not.

usage: client.py grpc|http simple|batch HOST:PORT SERVICE SCALE
"""
import json
import logging
import sys

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry._logs import LogRecord, SeverityNumber

protocol, mode, address, service, scale = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])
logging.basicConfig(stream=sys.stderr, level=logging.WARNING)

if protocol == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    def exporter(cls, path, **more):
        return cls(endpoint=address, insecure=True, timeout=20, **more)
else:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    def exporter(cls, path, **more):
        return cls(endpoint=f"http://{address}/v1/{path}", timeout=20, **more)

emitted = {"logs": 0, "spans": 0, "metrics": 0, "gave_up": {"logs": 0, "spans": 0, "metrics": 0}}


def counting(cls, table, count):
    """The exporter's class, which counts the records of a request that it does not bring through."""

    class Counting(cls):
        def export(self, data, *args, **more):
            result = super().export(data, *args, **more)
            if result.name != "SUCCESS":
                emitted["gave_up"][table] += count(data)
            return result

    return Counting


resource = Resource({"service.name": service})
many = (60 if mode == "simple" else 2000) * scale

provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
e = exporter(counting(OTLPLogExporter, "logs", len), "logs")
provider.add_log_record_processor(SimpleLogRecordProcessor(e) if mode == "simple" else BatchLogRecordProcessor(e, max_queue_size=1_000_000))
loggers = [provider.get_logger("app"), provider.get_logger("db"), provider.get_logger("db", attributes={"shard": "b"})]
for i in range(many):
    # No time: the SDK sets the observed one.
    loggers[i % 3].emit(LogRecord(severity_number=SeverityNumber.INFO, severity_text="INFO", body="connection refused, retrying"))
    emitted["logs"] += 1
provider.force_flush()
provider.shutdown()

provider = TracerProvider(resource=resource, shutdown_on_exit=False)
e = exporter(counting(OTLPSpanExporter, "spans", len), "traces")
provider.add_span_processor(SimpleSpanProcessor(e) if mode == "simple" else BatchSpanProcessor(e, max_queue_size=1_000_000))
tracer = provider.get_tracer("app")
for _ in range(many):
    tracer.start_span("GET /health").end()
    emitted["spans"] += 1
provider.force_flush()
provider.shutdown()


def points(data):
    return sum(len(m.data.data_points) for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics)


class Emitting(counting(OTLPMetricExporter, "metrics", points)):
    """Counts the points that the SDK hands to the exporter."""

    def export(self, data, *args, **more):
        emitted["metrics"] += points(data)
        return super().export(data, *args, **more)


e = exporter(Emitting, "metrics", preferred_temporality={Counter: AggregationTemporality.DELTA})
provider = MeterProvider(resource=resource, metric_readers=[PeriodicExportingMetricReader(e, export_interval_millis=10**8)], shutdown_on_exit=False)
meters = [provider.get_meter("pool"), provider.get_meter("pool", attributes={"shard": "b"}), provider.get_meter("pool", attributes={"shard": "c"}),
          provider.get_meter("pool", schema_url="https://example.com/1")]
instruments = [(m.create_gauge("pool.size"), m.create_counter("pool.taken"), m.create_histogram("pool.wait")) for m in meters]
for _ in range(5 * scale):
    for size, taken, wait in instruments:
        size.set(7)
        taken.add(1)
        wait.record(0.5)
    provider.force_flush()
provider.shutdown()
print(json.dumps(emitted))
