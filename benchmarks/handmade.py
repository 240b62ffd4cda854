"""What people build themselves: a pool of a lock and a deque, and the SDK called at each step."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from threading import Lock
from time import perf_counter

from opentelemetry.metrics import Meter
from opentelemetry.trace import Span, Tracer

from benchmarks.case import SIZE, Case, FakeConnection, expect
from benchmarks.contestants import FAKE
from benchmarks.sdk import Metering, Tracing, metering, tracing
from benchmarks.server import Server

BARE = "lock and deque"
METERED = "lock and deque, five instruments, a span"
ATTRIBUTES = {"pool": "orders", "db.system.name": "postgresql", "server.address": "localhost"}


class Idle:
    """The connections nobody uses."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.connections = deque(FakeConnection() for _ in range(SIZE))


class Lease:
    """Lends a connection in a `with` block."""

    __slots__ = ("_connection", "_idle")

    def __init__(self, idle: Idle) -> None:
        self._idle = idle

    def __enter__(self) -> FakeConnection:
        with self._idle.lock:
            self._connection = connection = self._idle.connections.pop()
        return connection

    def __exit__(self, *_: object) -> None:
        with self._idle.lock:
            self._idle.connections.append(self._connection)


class Instruments:
    """Five, as such pools have them."""

    def __init__(self, meter: Meter) -> None:
        self.requests = meter.create_counter("requests")
        self.wait = meter.create_histogram("wait")
        self.used = meter.create_up_down_counter("used")
        self.use = meter.create_histogram("use")
        self.releases = meter.create_counter("releases")


class MeteredLease:
    """The same, with six calls of instruments and a span around it."""

    __slots__ = ("_acquired", "_connection", "_idle", "_instruments", "_span", "_tracer")
    _span: AbstractContextManager[Span]

    def __init__(self, idle: Idle, instruments: Instruments, tracer: Tracer) -> None:
        self._idle = idle
        self._instruments = instruments
        self._tracer = tracer

    def __enter__(self) -> FakeConnection:
        requested = perf_counter()
        self._span = self._tracer.start_as_current_span("lease")
        self._span.__enter__()
        with self._idle.lock:
            self._connection = connection = self._idle.connections.pop()
        self._acquired = perf_counter()
        self._instruments.requests.add(1, ATTRIBUTES)
        self._instruments.wait.record(self._acquired - requested, ATTRIBUTES)
        self._instruments.used.add(1, ATTRIBUTES)
        return connection

    def __exit__(self, *_: object) -> None:
        with self._idle.lock:
            self._idle.connections.append(self._connection)
        self._instruments.use.record(perf_counter() - self._acquired, ATTRIBUTES)
        self._instruments.used.add(-1, ATTRIBUTES)
        self._instruments.releases.add(1, ATTRIBUTES)
        self._span.__exit__(None, None, None)


@asynccontextmanager
async def bare(_: Server) -> AsyncIterator[Case]:
    yield Case(BARE, FAKE, partial(Lease, Idle()), identify=None, is_sync=True)


@asynccontextmanager
async def metered(_: Server) -> AsyncIterator[Case]:
    with metering() as metered, tracing() as traced:
        instruments = Instruments(metered.provider.get_meter("benchmarks"))
        tracer = traced.provider.get_tracer("benchmarks")
        borrow = partial(MeteredLease, Idle(), instruments, tracer)
        active = partial(_proven, metered, traced)
        yield Case(METERED, FAKE, borrow, identify=None, is_sync=True, active=active)


@asynccontextmanager
async def _proven(metered: Metering, traced: Tracing) -> AsyncIterator[None]:
    before = metered.recorded("use")
    yield
    cycles, spans = metered.recorded("use") - before, traced.made()["lease"]
    expect(0 < spans == cycles, f"each of {cycles} cycles made a span: {spans}")
