"""Pages of metrics, servers that show them, and the command that reads them."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from poolscope.cli import main

Capture = pytest.CaptureFixture[str]
PLAIN = "text/plain; version=0.0.4"


class Pages(ThreadingHTTPServer):
    """Answers each request with the next page, and in the end with the last one again."""

    daemon_threads = True

    def __init__(self, *pages: str, status: int = 200, kind: str = PLAIN) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages = list(pages)
        self.status = status
        self.kind = kind
        self.location: str | None = None
        self.seen: list[tuple[str, str | None]] = []
        """Path and Authorization of each request."""
        self.port = self.server_address[1]


class Handler(BaseHTTPRequestHandler):
    server: Pages

    def do_GET(self) -> None:
        server = self.server
        server.seen.append((self.path, self.headers["Authorization"]))
        body = (server.pages.pop(0) if len(server.pages) > 1 else server.pages[0]).encode()
        self.send_response(server.status)
        self.send_header("Content-Type", server.kind)
        self.send_header("Content-Length", str(len(body)))
        if server.location:
            self.send_header("Location", server.location)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(server: Pages) -> Iterator[Pages]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def page(pool: str = "orders", **numbers: float) -> str:
    """A page of one pool: what is not given is not there, waits and uses are counts by bound."""
    names = {
        "max": "db_client_connection_max{%s}",
        "used": 'db_client_connection_count{%s,db_client_connection_state="used"}',
        "idle": 'db_client_connection_count{%s,db_client_connection_state="idle"}',
        "waiting": "db_client_connection_pending_requests{%s}",
        "oldest_wait": "poolscope_wait_oldest_seconds{%s}",
        "connects_failed": 'poolscope_connect_failures_total{%s,error_type="refused"}',
        "leaks": "poolscope_connection_leaks_total{%s}",
        "to_10_ms": 'db_client_connection_wait_time_seconds_bucket{%s,le="0.01"}',
        "to_1_s": 'db_client_connection_wait_time_seconds_bucket{%s,le="1"}',
        "waits": 'db_client_connection_wait_time_seconds_bucket{%s,le="+Inf"}',
    }
    label = f'db_client_connection_pool_name="{pool}"'
    return "".join(f"{names[name] % label} {value}\n" for name, value in numbers.items())


def collector_page() -> str:
    """As the Prometheus exporter of an OpenTelemetry Collector writes it; two programs, shortened.

    Captured from version 0.161 of the Collector.
    """
    scope = 'otel_scope_name="poolscope",otel_scope_schema_url="",otel_scope_version="0.1.0"'
    template = """\
db_client_connection_count{db_client_connection_pool_name="orders",db_client_connection_state="idle",instance="ID",job="JOB",SCOPE} 3
db_client_connection_count{db_client_connection_pool_name="orders",db_client_connection_state="used",instance="ID",job="JOB",SCOPE} 7
db_client_connection_max{db_client_connection_pool_name="orders",instance="ID",job="JOB",SCOPE} 10
db_client_connection_pending_requests{db_client_connection_pool_name="orders",instance="ID",job="JOB",SCOPE} 0
db_client_connection_timeouts_total{db_client_connection_pool_name="orders",instance="ID",job="JOB",SCOPE} 1
# TYPE db_client_connection_wait_time_seconds histogram
db_client_connection_wait_time_seconds_bucket{db_client_connection_pool_name="orders",instance="ID",job="JOB",SCOPE,le="0.5"} 50
db_client_connection_wait_time_seconds_bucket{db_client_connection_pool_name="orders",instance="ID",job="JOB",SCOPE,le="1"} 99
db_client_connection_wait_time_seconds_bucket{db_client_connection_pool_name="orders",instance="ID",job="JOB",SCOPE,le="+Inf"} 99
db_client_connection_wait_time_seconds_sum{db_client_connection_pool_name="orders",instance="ID",job="JOB",SCOPE} 60.5
db_client_connection_wait_time_seconds_count{db_client_connection_pool_name="orders",instance="ID",job="JOB",SCOPE} 99
db_client_connection_wait_time_seconds_bucket{db_client_connection_pool_name="orders",error_type="timeout",instance="ID",job="JOB",SCOPE,le="0.5"} 0
db_client_connection_wait_time_seconds_bucket{db_client_connection_pool_name="orders",error_type="timeout",instance="ID",job="JOB",SCOPE,le="1.0"} 0
db_client_connection_wait_time_seconds_bucket{db_client_connection_pool_name="orders",error_type="timeout",instance="ID",job="JOB",SCOPE,le="+Inf"} 1
# TYPE poolscope_acquire_failures_total counter
poolscope_acquire_failures_total{db_client_connection_pool_name="orders",error_type="cancelled",instance="ID",job="JOB",SCOPE} 5
poolscope_acquire_failures_total{db_client_connection_pool_name="orders",error_type="queue_full",instance="ID",job="JOB",SCOPE} 2
poolscope_acquire_failures_total{db_client_connection_pool_name="orders",error_type="timeout",instance="ID",job="JOB",SCOPE} 1
poolscope_saturation_time_seconds_total{db_client_connection_pool_name="orders",instance="ID",job="JOB",SCOPE} 5
poolscope_pools{instance="ID",job="JOB",SCOPE} 1
target_info{instance="ID",job="JOB",telemetry_sdk_language="python"} 1
"""  # noqa: E501
    both = [("eu/shop", "a"), ("eu/shop", "b")]
    return "".join(
        template.replace("SCOPE", scope).replace("JOB", job).replace("ID", instance)
        for job, instance in both
    )


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def shown(*arguments: object, capsys: Capture) -> dict[str, Any]:
    """Run the command with `--json`."""
    assert main(["stats", *map(str, arguments), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    document: dict[str, Any] = json.loads(out)
    return document


def the_pool(text: str, capsys: Capture) -> dict[str, Any]:
    with serving(Pages(text)) as server:
        (pool,) = shown(server.port, capsys=capsys)["pools"]
    return dict(pool)


def rows(out: str) -> list[list[str]]:
    """The words of the lines of pools, the mark of trouble among them."""
    lines = out.splitlines()
    titles = next(number for number, line in enumerate(lines) if "used/max" in line)
    return [line.split() for line in lines[titles + 1 :] if "/" in line and ": " not in line]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "poolscope", "stats", *map(str, arguments)]


def piped(*arguments: object) -> "subprocess.Popen[str]":
    """The command with its output buffered, as it is where nobody has said otherwise."""
    pipe = subprocess.PIPE
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.Popen(
        command(*arguments), stdout=pipe, stderr=pipe, text=True, env=environment
    )
