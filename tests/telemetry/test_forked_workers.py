"""Real servers with several workers, configured as docs/deployment.md says."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from poolscope.telemetry import catalog
from tests.telemetry.endpoint import INSTANCE, RECEIVERS, Receiver
from tests.telemetry.programs import ROOT, environment

pytestmark = [pytest.mark.servers, pytest.mark.slow]

DOCS = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
LIFESPAN, SETUP_AFTER_FORK, PROMETHEUS = BLOCKS
SETUP_BEFORE_FORK = """
from database import connect
from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.telemetry.setup import setup_telemetry

setup_telemetry("shop")
pool = ConnectionPool(connect, ConnectionPoolSettings(name="orders"))
"""
NO_TELEMETRY = SETUP_BEFORE_FORK.replace('setup_telemetry("shop")', "")
DATABASE = """
async def connect():
    return object()
"""
# What a framework adds to an application: it answers each request with the id of its process.
ASGI = """
import asyncio, os
from opentelemetry import trace

async def answer():
    with trace.get_tracer("app").start_as_current_span(f"request of {os.getpid()}"):
        async with pool.connection():
            await asyncio.sleep(0.01)
    return str(os.getpid()).encode()

async def live(receive, send):
    await receive()
    context = lifespan(app) if "lifespan" in globals() else pool
    async with context:
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await live(receive, send)
    body = await answer()
    headers = [(b"connection", b"close"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

def wsgi(environ, start_response):
    body = asyncio.run(answer())
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


class Server:
    """A server with two workers, and how many requests each of its processes has answered."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self._process = process
        self._url = f"http://127.0.0.1:{port}/"
        self.answered: Counter[int] = Counter()

    def ask_until(self, enough: Callable[[], bool]) -> None:
        """Send requests, four at a time, until that is so."""
        with ThreadPoolExecutor(4) as threads:
            while not enough():
                self.answered += Counter(filter(None, threads.map(self._ask, range(4))))
                self._check()

    def _ask(self, _: int) -> int | None:
        try:
            with urllib.request.urlopen(self._url, timeout=5) as reply:
                return int(reply.read())
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
            time.sleep(0.05)  # it does not listen yet
            return None

    def replace(self, worker: int) -> None:
        """End a worker; the server starts another."""
        os.kill(worker, signal.SIGTERM)
        while Path(f"/proc/{worker}").exists():
            self._check()
            time.sleep(0.02)

    def _check(self) -> None:
        assert self._process.poll() is None, self._process.communicate()


@contextmanager
def serve(
    folder: Path, command: str, app: str, conf: str = "", **variables: str
) -> Iterator[Server]:
    """Run a server, which has ended at the end of the block, and sent what it had."""
    needed = command.split()[0]
    if find_spec(needed) is None and "CI" not in os.environ:
        pytest.skip(f"{needed} is not installed")
    for name, text in (("app", app + ASGI), ("database", DATABASE), ("gunicorn.conf", conf)):
        (folder / f"{name}.py").write_text(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", *command.format(port=port).split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment(**variables),
        start_new_session=True,
    )
    with process:
        try:
            yield Server(process, port)
            process.terminate()
            output, _ = process.communicate(timeout=20)
            assert "Traceback" not in output
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


GUNICORN = "gunicorn --workers 2 --no-control-socket --bind 127.0.0.1:{port}"
ASGI_WORKERS = "--worker-class asgi app:app"


def otlp(protocol: str, receiver: Receiver) -> dict[str, str]:
    return {"protocol": protocol, "endpoint": receiver.url}


def assert_each_sent_its_own(receiver: Receiver, answered: Counter[int]) -> None:
    """Compare what arrived with what the clients saw: by worker, each an instance of its own."""
    spans: Counter[int] = Counter()
    instances: dict[int, str] = {}
    for resource, span in receiver.spans():
        assert resource["service.name"] == "shop"
        if span.name.startswith("request of "):
            worker = int(span.name.split()[-1])
            spans[worker] += 1
            assert instances.setdefault(worker, resource[INSTANCE]) == resource[INSTANCE]
    assert spans == answered
    assert receiver.span_names()["pool.acquire"] == answered.total()
    requests = receiver.requests_by_instance()
    assert {worker: requests[instances[worker]] for worker in answered} == answered
    assert sum(requests.values()) == answered.total()


@pytest.mark.parametrize("protocol", RECEIVERS)
def test_workers_of_gunicorn_set_up_before_the_fork(protocol: str, tmp_path: Path) -> None:
    with RECEIVERS[protocol]() as receiver:
        command = f"{GUNICORN} --preload {ASGI_WORKERS}"
        with serve(tmp_path, command, SETUP_BEFORE_FORK, **otlp(protocol, receiver)) as server:
            server.ask_until(lambda: len(server.answered) == 2)
            server.replace(min(server.answered))
            server.ask_until(lambda: len(server.answered) == 3)
        assert_each_sent_its_own(receiver, server.answered)


@pytest.mark.parametrize("workers", [ASGI_WORKERS, "--worker-class sync app:wsgi"])
def test_workers_of_gunicorn_set_up_after_the_fork(workers: str, tmp_path: Path) -> None:
    with RECEIVERS["grpc"]() as receiver:
        command = f"{GUNICORN} --preload {workers}"
        texts = (NO_TELEMETRY, SETUP_AFTER_FORK)
        with serve(tmp_path, command, *texts, **otlp("grpc", receiver)) as server:
            server.ask_until(lambda: len(server.answered) == 2)
        assert_each_sent_its_own(receiver, server.answered)
        assert len(receiver.requests_by_instance()) == 2  # and not their parent


@pytest.mark.parametrize(
    "command",
    [f"{GUNICORN} {ASGI_WORKERS}", "uvicorn --workers 2 --port {port} app:app"],
    ids=["gunicorn", "uvicorn"],
)
def test_workers_that_set_up_in_their_lifespan(command: str, tmp_path: Path) -> None:
    with RECEIVERS["grpc"]() as receiver:
        with serve(tmp_path, command, LIFESPAN, **otlp("grpc", receiver)) as server:
            server.ask_until(lambda: len(server.answered) == 2)
        assert_each_sent_its_own(receiver, server.answered)


def test_prometheus_scrapes_each_worker(tmp_path: Path) -> None:
    (tmp_path / "targets").mkdir()

    def scraped() -> Counter[int]:
        """The requests that each process says it had."""
        found: Counter[int] = Counter()
        for path in (tmp_path / "targets").iterdir():
            (group,) = json.loads(path.read_text())
            (address,) = group["targets"]
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as reply:
                text = reply.read().decode()
            name = f"{catalog.WAIT_TIME.prometheus_name}_count"
            found[int(path.stem)] = sum(
                int(float(line.split()[-1])) for line in text.splitlines() if line.startswith(name)
            )
        return found

    command = f"{GUNICORN} --preload {ASGI_WORKERS}"
    targets = str(tmp_path / "targets")
    with serve(tmp_path, command, NO_TELEMETRY, PROMETHEUS, SCRAPE_TARGETS=targets) as server:
        server.ask_until(lambda: len(server.answered) == 2)
        assert scraped() == server.answered
        replaced = min(server.answered)
        server.replace(replaced)
        server.ask_until(lambda: len(server.answered) == 3)
        del server.answered[replaced]
        assert scraped() == server.answered
