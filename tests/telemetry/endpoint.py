"""OTLP endpoints that keep what they are sent, by http/protobuf or by grpc."""

from __future__ import annotations

import gzip
import ssl
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from poolscope.telemetry import catalog
from tests.telemetry.certificates import Certificates

INSTANCE = "service.instance.id"
RETRY_AFTER = 1
"""Seconds an endpoint that is busy asks for."""


class Receiver:
    """What all endpoints know. With certificates they speak TLS, and ask their clients for one."""

    def __init__(self, certificates: Certificates | None = None) -> None:
        self.certificates = certificates
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.traces: list[ExportTraceServiceRequest] = []
        self.headers: list[Mapping[str, str]] = []
        self.busy = False
        """Whether it takes nothing, and asks to be left alone for a while."""
        self.refusals = 0
        """How many times more it will say that it is busy."""
        self.asked = 0
        """How many requests came, taken or not."""
        self.port = 0
        self._counting = threading.Lock()

    @property
    def url(self) -> str:
        scheme = "https" if self.certificates else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    def take(self, request: Any, headers: Mapping[str, str]) -> bool:
        """Keep a request, unless busy."""
        with self._counting:
            self.asked += 1
            busy = self.busy or self.refusals > 0
            self.refusals = max(0, self.refusals - 1)
        if not busy:
            is_metrics = isinstance(request, ExportMetricsServiceRequest)
            kept: list[Any] = self.metrics if is_metrics else self.traces
            self.headers.append(headers)
            kept.append(request)
        return not busy

    # What has arrived

    def points(self) -> Iterator[tuple[dict[str, str], Metric]]:
        """Yield the metrics in the order of coming, each with its resource."""
        for request in self.metrics:
            for group in request.resource_metrics:
                for scope in group.scope_metrics:
                    for metric in scope.metrics:
                        yield plain(group.resource.attributes), metric

    def spans(self) -> Iterator[tuple[dict[str, str], Span]]:
        """Yield the spans in the order of coming, each with its resource."""
        for request in self.traces:
            for group in request.resource_spans:
                for scope in group.scope_spans:
                    for span in scope.spans:
                        yield plain(group.resource.attributes), span

    def metric_names(self) -> set[str]:
        return {metric.name for _, metric in self.points()}

    def span_names(self) -> Counter[str]:
        return Counter(span.name for _, span in self.spans())

    def resource(self) -> dict[str, str]:
        return plain(self.metrics[0].resource_metrics[0].resource.attributes)

    def requests_by_instance(self) -> dict[str, int]:
        """Return the requests that ended, by the instance that says so: the latest totals."""
        latest: dict[str, dict[tuple[object, ...], int]] = defaultdict(dict)
        for resource, metric in self.points():
            if metric.name == catalog.WAIT_TIME.name:
                for point in metric.histogram.data_points:
                    series = (*sorted(plain(point.attributes).items()), point.start_time_unix_nano)
                    latest[resource[INSTANCE]][series] = point.count
        return {instance: sum(counts.values()) for instance, counts in latest.items()}


def plain(attributes: Any) -> dict[str, str]:
    def value(pair: KeyValue) -> str:
        return str(getattr(pair.value, pair.value.WhichOneof("value") or "string_value"))

    return {pair.key: value(pair) for pair in attributes}


class HttpReceiver(Receiver):
    def __enter__(self) -> Self:
        self._server = _HttpServer(self)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _HttpServer(ThreadingHTTPServer):
    def __init__(self, receiver: Receiver) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.receiver = receiver
        if (certificates := receiver.certificates) is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(
                certificates.path("server.pem"), certificates.path("server.key")
            )
            context.load_verify_locations(certificates.path("ca.pem"))
            context.verify_mode = ssl.CERT_REQUIRED
            self.socket = context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that go away in the middle."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # whose connections are used again, as those of real endpoints
    server: _HttpServer
    KINDS = {"/v1/metrics": ExportMetricsServiceRequest, "/v1/traces": ExportTraceServiceRequest}  # noqa: RUF012

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:
            return
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = self.KINDS[self.path].FromString(body)
        if self.server.receiver.take(request, headers):
            self.send_response(200)
        else:
            self.send_response(503)
            self.send_header("Retry-After", str(RETRY_AFTER))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class GrpcReceiver(Receiver, MetricsServiceServicer, TraceServiceServicer):
    def __enter__(self) -> Self:
        self._threads = ThreadPoolExecutor(4)
        self._server = grpc.server(self._threads)
        add_MetricsServiceServicer_to_server(self, self._server)
        add_TraceServiceServicer_to_server(self, self._server)
        if self.certificates is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            key, chain, authority = (
                Path(self.certificates.path(name)).read_bytes()
                for name in ("server.key", "server.pem", "ca.pem")
            )
            credentials = grpc.ssl_server_credentials([(key, chain)], authority, True)
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()
        self._threads.shutdown()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        headers = {name: str(value) for name, value in context.invocation_metadata()}
        if not self.take(request, headers):
            delay = RetryInfo(retry_delay=Duration(seconds=RETRY_AFTER))
            context.set_trailing_metadata(
                (("google.rpc.retryinfo-bin", delay.SerializeToString()),)
            )
            context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        if isinstance(request, ExportMetricsServiceRequest):
            return ExportMetricsServiceResponse()
        return ExportTraceServiceResponse()


RECEIVERS: Mapping[str, type[Receiver]] = {"http/protobuf": HttpReceiver, "grpc": GrpcReceiver}
