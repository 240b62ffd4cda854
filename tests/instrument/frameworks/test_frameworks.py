"""Services that know nothing of poolscope, started by `opentelemetry-instrument`."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from poolscope.telemetry import catalog
from poolscope.testing.postgres import PostgresServer
from poolscope.testing.redis import RedisServer
from tests.telemetry.endpoint import RECEIVERS, Receiver, plain
from tests.telemetry.programs import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
ASKED = 20


@contextmanager
def started(receiver: Receiver, command: str, **variables: str) -> Iterator[None]:
    """Run a command meanwhile; it has ended, and sent what it had, at the end of the block."""
    telemetry = environment(
        "grpc", receiver.url, OTEL_SERVICE_NAME="shop", OTEL_METRIC_EXPORT_INTERVAL="500"
    )
    process = subprocess.Popen(
        [BIN / "opentelemetry-instrument", *command.split()],
        cwd=HERE,
        env={**telemetry, "PATH": f"{BIN}:{os.environ['PATH']}", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield
            process.terminate()
            output, _ = process.communicate(timeout=30)
            assert "Traceback" not in output, output
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def ask(port: int) -> None:
    """Send requests, once somebody listens."""
    answered, deadline = 0, time.monotonic() + 60
    while answered < ASKED:
        assert time.monotonic() < deadline
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as reply:
                assert reply.read() == b"hello"
            answered += 1
        except OSError:  # it does not listen yet, or its worker has not begun
            if answered:
                raise
            time.sleep(0.1)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def pools(receiver: Receiver) -> dict[str, int]:
    """The requests that ended, by pool: the highest totals that arrived."""
    totals: dict[str, int] = {}
    for _, metric in receiver.points():
        if metric.name == catalog.WAIT_TIME.name:
            for point in metric.histogram.data_points:
                name = plain(point.attributes)[catalog.POOL_NAME]
                totals[name] = max(totals.get(name, 0), point.count)
    return totals


def limits(receiver: Receiver) -> set[int]:
    """Every limit of a pool that arrived."""
    return {
        point.as_int
        for _, metric in receiver.points()
        if metric.name == catalog.MAX.name
        for point in metric.sum.data_points
    }


@pytest.mark.parametrize(
    ("app", "server"),
    [
        ("django_shop", "gunicorn --threads 2 --no-control-socket --bind 127.0.0.1:{port}"),
        ("flask_shop", "gunicorn --threads 2 --no-control-socket --bind 127.0.0.1:{port}"),
        ("fastapi_shop", "uvicorn --log-level warning --port {port}"),
    ],
)
def test_a_service_tells_of_its_pool_without_a_change_of_code(
    app: str, server: str, postgres: PostgresServer
) -> None:
    port = free_port()
    with RECEIVERS["grpc"]() as receiver:
        command = f"{server.format(port=port)} {app}:app"
        with started(receiver, command, DATABASE_URL=postgres.dsn):
            ask(port)
            # A server that ends by its signal exports no more.
            wait_until(lambda: sum(pools(receiver).values()) >= ASKED)
        address = f"127.0.0.1:{postgres.port}/postgres"
        # Frameworks may ask once more, as Django does when it meets its database.
        assert pools(receiver).keys() == {address}
        assert ASKED <= pools(receiver)[address] <= ASKED + 2
        assert limits(receiver) == {3}


def test_a_worker_of_celery_tells_of_its_pools_without_a_change_of_code(
    redis_server: RedisServer,
) -> None:
    url = {"REDIS_URL": redis_server.url}
    send = "from celery_shop import greet; print(*(greet.delay(n).get(30) for n in 'ab'), sep=',')"
    with RECEIVERS["grpc"]() as receiver:
        command = "celery -A celery_shop worker --concurrency 2 --loglevel WARNING"
        with started(receiver, command, **url):
            sender = subprocess.run(
                [sys.executable, "-c", send], cwd=HERE, env=environment(**url),
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert sender.stdout.strip() == "hello a,hello b", sender.stderr
        found = pools(receiver)
        assert found, receiver.metric_names()
        assert all(name.startswith(f"127.0.0.1:{redis_server.port}/0") for name in found), found
        assert sum(found.values()) > 0
