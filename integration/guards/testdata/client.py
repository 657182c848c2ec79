"""Sends as stock OTLP clients do, and tells what they were answered and what they made of it.

argument: JSON, {"protocol": "http"|"grpc"|"raw", "endpoint", "headers", "timeout", "exports": [[{"body", "event", "attributes"}...]...]};
          raw, for what no SDK sends: {"protocol": "raw", "method", "endpoint" (a URL), "headers", "body" (base64)}
stdout: JSON, {"results": ["SUCCESS"|"FAILURE"...], "said": [what the exporter logged...], "answers": [one an attempt:
        {"at": seconds, "code", "message", "reason", "metadata", "retry_after", "rejected", "warning"}...]}
"""
import base64
import json
import logging
import sys
import time

import grpc
import opentelemetry.exporter.otlp.proto.grpc.exporter as grpc_exporter
import requests
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GRPCExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HTTPExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource

answers = []


def note(code, status=None, retry_after=None, answer=None):
    entry = {"at": time.monotonic(), "code": code, "message": "", "reason": "", "metadata": {}, "retry_after": retry_after or 0, "rejected": 0, "warning": ""}
    if status is not None:
        entry["message"] = status.message
        for detail in status.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                entry["reason"], entry["metadata"] = info.reason, dict(info.metadata)
            again = error_details_pb2.RetryInfo()
            if detail.Unpack(again):
                entry["retry_info"] = again.retry_delay.ToMilliseconds() / 1000
    if answer is not None:
        entry["rejected"], entry["warning"] = answer.partial_success.rejected_log_records, answer.partial_success.error_message
    answers.append(entry)


class Session(requests.Session):
    """Sees each answer that the exporter gets; what it sends and does with it is the exporter's."""

    def send(self, request, **kwargs):
        response = super().send(request, **kwargs)
        status = answer = None
        if response.status_code == 200 and response.headers.get("Content-Type") == "application/x-protobuf":
            answer = ExportLogsServiceResponse.FromString(response.content)
        elif response.headers.get("Content-Type") == "application/x-protobuf":
            status = status_pb2.Status.FromString(response.content)
        elif response.headers.get("Content-Type") == "application/json":
            status = json_format.Parse(response.text, status_pb2.Status(), ignore_unknown_fields=True)
        after = response.headers.get("Retry-After")
        note(response.status_code, status, float(after) if after else None, answer)
        return response


class Interceptor(grpc.UnaryUnaryClientInterceptor):
    """The same for gRPC."""

    def intercept_unary_unary(self, continuation, details, request):
        call = continuation(details, request)
        status = None
        for key, value in call.trailing_metadata() or ():
            if key == "grpc-status-details-bin":
                status = status_pb2.Status.FromString(value)
        code = call.code().name
        if code == "OK":
            note(code, answer=call.result())
        else:
            note(code, status or status_pb2.Status(message=call.details()))
            answers[-1]["retry_after"] = answers[-1].get("retry_info", 0)
        return call


def records(events):
    kept = InMemoryLogRecordExporter()
    provider = LoggerProvider(resource=Resource({"service.name": "guards"}))
    provider.add_log_record_processor(SimpleLogRecordProcessor(kept))
    logger = provider.get_logger("guards")
    for event in events:
        logger.emit(LogRecord(timestamp=time.time_ns(), severity_number=SeverityNumber.INFO, body=event.get("body"), event_name=event.get("event"), attributes=event.get("attributes")))
    return kept.get_finished_logs()


class Said(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())


said = []
case = json.loads(sys.argv[1])
logging.getLogger().addHandler(Said(logging.WARNING))
results = []
if case["protocol"] == "raw":
    Session().request(case["method"], case["endpoint"], headers=case["headers"], data=base64.b64decode(case["body"]))
else:
    if case["protocol"] == "grpc":
        plain = grpc_exporter.insecure_channel
        grpc_exporter.insecure_channel = lambda *args, **kwargs: grpc.intercept_channel(plain(*args, **kwargs), Interceptor())
        exporter = GRPCExporter(endpoint=case["endpoint"], insecure=True, headers=case["headers"], timeout=case["timeout"], compression=grpc.Compression.Gzip)
    else:
        exporter = HTTPExporter(endpoint=case["endpoint"] + "/v1/logs", headers=case["headers"], timeout=case["timeout"], compression=Compression.Gzip, session=Session())
    for events in case["exports"]:
        results.append(exporter.export(records(events)).name)
    exporter.shutdown()
print(json.dumps({"results": results, "said": said, "answers": answers}))
