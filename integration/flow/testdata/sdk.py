"""Sends logs, metrics and traces with the OpenTelemetry Python SDK, unchanged, and says what the exporters said.

usage: sdk.py grpc|http ENDPOINT COUNT [CA_CERTIFICATE]
"""
import logging
import sys

from opentelemetry import metrics, trace
from opentelemetry._logs import set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

protocol, endpoint, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
ca = sys.argv[4] if len(sys.argv) > 4 else None

if protocol == "grpc":
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    args = {"endpoint": endpoint, "compression": grpc.Compression.Gzip, "timeout": 10}
    if ca:
        with open(ca, "rb") as f:
            args["credentials"] = grpc.ssl_channel_credentials(f.read())
    else:
        args["insecure"] = True
    exporters = [OTLPLogExporter(**args), OTLPMetricExporter(**args), OTLPSpanExporter(**args)]
else:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    args = {"compression": Compression.Gzip, "timeout": 10}
    if ca:
        args["certificate_file"] = ca
    exporters = [
        OTLPLogExporter(endpoint=endpoint + "/v1/logs", **args),
        OTLPMetricExporter(endpoint=endpoint + "/v1/metrics", **args),
        OTLPSpanExporter(endpoint=endpoint + "/v1/traces", **args),
    ]

# What an exporter has to say about a failure it says to its logger.
logging.basicConfig(stream=sys.stderr, level=logging.WARNING)

resource = Resource.create({"service.name": f"python-sdk-{protocol}", "service.instance.id": "sdk-1"})

logger_provider = LoggerProvider(resource=resource)
logger_provider.add_log_record_processor(BatchLogRecordProcessor(exporters[0]))
set_logger_provider(logger_provider)
log = logging.getLogger("sdk")
log.propagate = False
log.setLevel(logging.INFO)
log.addHandler(LoggingHandler(logger_provider=logger_provider))
for i in range(count):
    log.info("message %d", i, extra={"sequence": i})

meter_provider = MeterProvider(resource=resource, metric_readers=[PeriodicExportingMetricReader(exporters[1], export_interval_millis=3_600_000)])
counter = meter_provider.get_meter("sdk").create_counter("sdk.count", unit="1")
for i in range(count):
    counter.add(1, {"sequence": i})

tracer_provider = TracerProvider(resource=resource)
tracer_provider.add_span_processor(BatchSpanProcessor(exporters[2]))
tracer = tracer_provider.get_tracer("sdk")
for i in range(count):
    with tracer.start_as_current_span(f"span {i}") as span:
        span.set_attribute("sequence", i)

# The metrics reader exports once more when it is shut down: that export is the one.
ok = [p.force_flush(20_000) for p in (logger_provider, tracer_provider)]
for p in (logger_provider, meter_provider, tracer_provider):
    p.shutdown()
print("flushed", ok)
