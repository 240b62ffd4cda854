"""Servers with several workers: each tells of its own pools, as an instance of its own."""

import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.instrument.auto.programs import requests_of, running
from tests.telemetry.endpoint import INSTANCE, RECEIVERS, Receiver
from tests.telemetry.test_forked_workers import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

POOLS = {
    "ours": """
from poolscope import ConnectionPoolSettings, SyncConnectionPool
lend = SyncConnectionPool(object, ConnectionPoolSettings(name="shop.db")).connection
""",
    "sqlalchemy": """
from sqlalchemy import create_engine
lend = create_engine("sqlite:///shop.db").connect
""",
}
APP = """
import os, time
from opentelemetry import trace

def answer():
    with trace.get_tracer("app").start_as_current_span(f"request of {os.getpid()}"):
        with lend():
            time.sleep(0.01)
    return str(os.getpid()).encode()

def wsgi(environ, start_response):
    body = answer()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    body = answer()
    headers = [(b"connection", b"close"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
OFTEN = {"OTEL_METRIC_EXPORT_INTERVAL": "300", "OTEL_BSP_SCHEDULE_DELAY": "100"}
GUNICORN = "gunicorn --workers 2 --no-control-socket --bind 127.0.0.1:{port} app:wsgi"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def until(enough: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not enough() and time.monotonic() < deadline:
        time.sleep(0.05)


def assert_each_sent_its_own(receiver: Receiver, answered: Counter[int]) -> None:
    """Compare what arrived with what the clients saw: by worker, each an instance of its own."""
    spans: Counter[int] = Counter()
    instances: dict[int, str] = {}
    for resource, span in receiver.spans():
        if span.name.startswith("request of "):
            worker = int(span.name.split()[-1])
            spans[worker] += 1
            assert instances.setdefault(worker, resource[INSTANCE]) == resource[INSTANCE]
    assert spans == answered
    assert receiver.span_names()["pool.acquire"] == answered.total()
    requests = requests_of(receiver, "shop.db")
    assert {worker: requests[instances[worker]] for worker in answered} == answered
    assert sum(requests.values()) == answered.total()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("protocol", RECEIVERS)
@pytest.mark.parametrize("preload", ["", " --preload"], ids=["each", "preloaded"])
def test_workers_of_gunicorn(pool: str, protocol: str, preload: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(POOLS[pool] + APP)
    port = free_port()
    with RECEIVERS[protocol]() as receiver:
        command = GUNICORN.format(port=port) + preload
        with running(tmp_path, command, receiver, protocol) as process:
            server = Server(process, port)
            server.ask_until(lambda: len(server.answered) == 2)
            server.replace(min(server.answered))
            server.ask_until(lambda: len(server.answered) == 3)
        assert_each_sent_its_own(receiver, server.answered)


@pytest.mark.parametrize("workers", ["", " --workers 2"], ids=["one", "two"])
def test_workers_of_uvicorn(workers: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(POOLS["sqlalchemy"] + APP)
    port = free_port()
    with RECEIVERS["grpc"]() as receiver:
        command = f"uvicorn --port {port} app:asgi{workers}"
        # It ends by the signal it got, and nothing is sent at the end.
        with running(tmp_path, command, receiver, "grpc", **OFTEN) as process:
            server = Server(process, port)
            server.ask_until(lambda: len(server.answered) == (2 if workers else 1))
            until(lambda: receiver.span_names()["pool.use"] == server.answered.total())
            until(lambda: sum(requests_of(receiver, "shop.db").values()) == server.answered.total())
        assert_each_sent_its_own(receiver, server.answered)
