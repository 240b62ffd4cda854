"""Each test runs a program of its own: the providers of OpenTelemetry are set once a process."""

import gzip
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from poolscope.telemetry import catalog

USE_A_POOL = """
import asyncio, time
from opentelemetry import metrics, trace
from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.telemetry.setup import setup_telemetry

telemetry = setup_telemetry("shop")
settings = ConnectionPoolSettings(name="orders")

async def main(at_end=lambda: None):
    async with ConnectionPool(object, settings) as pool:
        with trace.get_tracer("app").start_as_current_span("request"):
            async with pool.connection():
                pass
        await asyncio.to_thread(at_end)

def timed(call, *args):
    began = time.monotonic()
    result = call(*args)
    print(result, time.monotonic() - began)
"""


class Receiver(ThreadingHTTPServer):
    """An OTLP endpoint that keeps what it is sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.metrics: list[ExportMetricsServiceRequest] = []
        self.traces: list[ExportTraceServiceRequest] = []
        self.headers: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def metric_names(self) -> set[str]:
        return {
            metric.name
            for request in self.metrics
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def span_names(self) -> set[str]:
        return {
            span.name
            for request in self.traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }

    def resource(self) -> dict[str, str]:
        resource = self.metrics[0].resource_metrics[0].resource
        return {pair.key: pair.value.string_value for pair in resource.attributes}


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.headers.append(self.headers.get("x-key"))
        if self.path == "/v1/metrics":
            self.server.metrics.append(ExportMetricsServiceRequest.FromString(body))
        elif self.path == "/v1/traces":
            self.server.traces.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def hanging() -> Iterator[str]:
    """An endpoint that accepts, and never answers."""
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            try:
                while True:
                    accepted.append(listener.accept()[0])
            except OSError:
                return

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in accepted:
        connection.close()


def program(text: str, endpoint: str = "", **variables: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    if endpoint:
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        capture_output=True,
        text=True,
        env=kept | variables,
        timeout=30,
    )


HTTP = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}


def test_metrics_and_spans_arrive_when_flushed(receiver: Receiver) -> None:
    # The program then ends without a word, so that only what was flushed can have arrived.
    text = (
        USE_A_POOL
        + "import os\nasyncio.run(main(lambda: timed(telemetry.force_flush)))\nos._exit(0)"
    )
    done = program(text, receiver.url, **HTTP)
    assert done.stderr == ""
    assert done.stdout.startswith("True")
    assert receiver.metric_names() == {metric.name for metric in catalog.METRICS}
    assert receiver.span_names() == {"request", "pool.acquire", "pool.use"}


def test_what_is_left_arrives_when_the_program_ends(receiver: Receiver) -> None:
    done = program(USE_A_POOL + "asyncio.run(main())", receiver.url, **HTTP)
    assert (done.returncode, done.stderr) == (0, "")
    assert receiver.span_names() == {"request", "pool.acquire", "pool.use"}
    # The pool is closed by then; what it counted is sent all the same.
    assert receiver.metric_names() == {metric.name for metric in catalog.METRICS}


def test_shutdown_reads_the_metrics_once_more(receiver: Receiver) -> None:
    text = USE_A_POOL + "asyncio.run(main(lambda: timed(telemetry.shutdown)))"
    done = program(text, receiver.url, **HTTP)
    assert done.stderr == ""
    assert done.stdout.startswith("True")
    assert catalog.MAX.name in receiver.metric_names()


def test_the_standard_variables_are_honoured(receiver: Receiver) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=open",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.name=other",
        "OTEL_TRACES_SAMPLER": "always_off",
    }
    done = program(USE_A_POOL + "asyncio.run(main())", receiver.url, **variables)
    assert done.stderr == ""
    assert receiver.traces == []
    assert set(receiver.headers) == {"open"}
    assert receiver.resource()["deployment.environment.name"] == "test"
    assert receiver.resource()["service.name"] == "shop"


def test_without_a_name_the_service_is_called_as_the_environment_says(receiver: Receiver) -> None:
    text = USE_A_POOL.replace('"shop"', "") + "asyncio.run(main())"
    program(text, receiver.url, OTEL_SERVICE_NAME="cellar", **HTTP)
    assert receiver.resource()["service.name"] == "cellar"


def test_a_second_call_changes_nothing(receiver: Receiver) -> None:
    text = USE_A_POOL + "assert setup_telemetry('shop') is telemetry\nasyncio.run(main())"
    done = program(text, receiver.url, **HTTP)
    assert done.stderr == ""
    assert len(receiver.metrics) == 1


def test_after_shutdown_it_cannot_be_set_up_again(receiver: Receiver) -> None:
    text = USE_A_POOL + "telemetry.shutdown()\nsetup_telemetry('shop')"
    done = program(text, receiver.url, **HTTP)
    assert "RuntimeError: telemetry of this process was shut down" in done.stderr


def test_providers_of_the_program_are_used_and_left_alone(receiver: Receiver) -> None:
    own = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
metrics.set_meter_provider(MeterProvider([reader := InMemoryMetricReader()]))
trace.set_tracer_provider(tracers := TracerProvider())
"""
    check = """
def look():
    telemetry.shutdown()
    assert trace.get_tracer_provider() is tracers
    data = reader.get_metrics_data()
    print(*[m.name for m in data.resource_metrics[0].scope_metrics[0].metrics])
asyncio.run(main(look))
"""
    done = program(own + USE_A_POOL + check, receiver.url, **HTTP)
    assert done.stderr == ""
    # Its reader still works; what we reported of the past is there.
    assert catalog.WAIT_TIME.name in done.stdout
    assert receiver.metrics == []
    assert receiver.traces == []


@pytest.mark.parametrize("signal", ["", "METRICS_", "TRACES_"])
def test_an_unknown_protocol_is_refused_before_anything_is_set_up(signal: str) -> None:
    text = """
import threading
from opentelemetry import trace
from poolscope.telemetry.setup import setup_telemetry
try:
    setup_telemetry()
except ValueError as error:
    print(error)
assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
assert threading.active_count() == 1
"""
    done = program(text, **{f"OTEL_EXPORTER_OTLP_{signal}PROTOCOL": "http/json"})
    assert done.stderr == ""
    assert "must be grpc or http/protobuf: got 'http/json'" in done.stdout


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_hanging_endpoint_delays_nobody_beyond_the_deadline(protocol: str, hanging: str) -> None:
    text = USE_A_POOL + (
        "asyncio.run(main(lambda: timed(telemetry.force_flush, 0.2)))\n"
        "timed(telemetry.shutdown, 0.3)\n"
        "print('ended', time.time())"
    )
    done = program(text, hanging, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    left = time.time()
    assert done.returncode == 0
    flush, shutdown, end = (line.split() for line in done.stdout.splitlines())
    assert flush[0] == shutdown[0] == "False"
    assert 0.2 <= float(flush[1]) < 2.0
    assert 0.3 <= float(shutdown[1]) < 2.0
    assert left - float(end[1]) < 4.0


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_program_ends_in_time_though_the_endpoint_hangs(protocol: str, hanging: str) -> None:
    text = USE_A_POOL + "asyncio.run(main())\nprint(time.time(), flush=True)"
    done = program(text, hanging, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    took = time.time() - float(done.stdout)
    assert done.returncode == 0
    assert took < 6.0


def test_flushes_do_not_pile_up_behind_a_hanging_endpoint(hanging: str) -> None:
    # With a tracer provider of its own: only the metrics hang then, whatever the SDK does to spans.
    own = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
"""
    text = (own + USE_A_POOL) + (
        "import os, threading\n"
        "before = threading.active_count()\n"
        "asyncio.run(main(lambda: [telemetry.force_flush(0.001) for _ in range(100)]))\n"
        "timed(telemetry.force_flush, 5.0)\n"
        "assert threading.active_count() <= before + 1, threading.enumerate()\n"
        "os._exit(0)"
    )
    done = program(text, hanging, **HTTP)
    assert done.returncode == 0, done.stderr
    sent, took = done.stdout.split()
    assert sent == "False"
    assert float(took) < 3.0
