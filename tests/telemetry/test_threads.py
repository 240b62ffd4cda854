"""Threads that share pools tell what they do at once, and in any order."""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from poolscope import ConnectionPool, ConnectionPoolMetrics, ConnectionPoolSettings
from poolscope.bus import ROOT, EventBus
from poolscope.events import (
    AcquireFailed,
    AcquireSource,
    CloseReason,
    ConnectFailed,
    ConnectFault,
    ConnectionAcquired,
    ConnectionClosed,
    ConnectionReleased,
    FailureReason,
    LeakReclaimed,
    LeakSuspected,
    MisuseDetected,
    PoolOpened,
    RequestQueued,
)
from poolscope.telemetry import catalog
from poolscope.telemetry.otel_durations import Durations
from poolscope.telemetry.otel_spans import PoolTracer
from poolscope.telemetry.rate_limit import BURST, RateLimiter
from tests.telemetry.outbox import road, series_now
from tests.telemetry.series import key
from tests.telemetry.spans import id_of, links, named, under, under_which

THREADS = 4
ROUNDS = 200
FAILURES = tuple(FailureReason)
FAULTS = tuple(ConnectFault)


@pytest.fixture(autouse=True)
def restless() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*jobs: Callable[[], object]) -> None:
    """Do each in a thread of its own; they begin together. Raises what one raises."""
    errors: list[BaseException] = []
    ready = threading.Barrier(len(jobs))

    def work(job: Callable[[], object]) -> None:
        try:
            ready.wait()
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


# Counts


def tell_one_of_each(bus: EventBus) -> None:
    for kind, *fields in (
        (ConnectionAcquired, 1, 0.25, AcquireSource.HANDOFF, "c1"),
        (ConnectionReleased, 1, "c1", 0.25, 0.25),
        (LeakSuspected, 1, "c1", 0.25, None, ""),
        (LeakReclaimed, 1, "c1", 0.25, CloseReason.LEAK, None),
        (ConnectionClosed, "c1", CloseReason.LEAK, 0.25),
        (MisuseDetected, "double_release", ""),
    ):
        bus.publish(kind, "orders", 0.0, 0, *fields)
    for reason in FAILURES:
        bus.publish(AcquireFailed, "orders", 0.0, 0, 1, 0.25, reason, None)
    for fault in FAULTS:
        bus.publish(ConnectFailed, "orders", 0.0, 0, "c1", 0.25, 1, None, fault)


@pytest.mark.parametrize("has_gil", [True, False])
def test_no_count_is_lost(has_gil: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: has_gil, raising=False)
    for _ in range(ROUNDS):  # the first of a kind is what is lost most easily
        metrics, bus = ConnectionPoolMetrics(), EventBus()
        metrics.subscribe_to(bus, lambda: None)

        def tell(bus: EventBus = bus) -> None:
            for _ in range(3):
                tell_one_of_each(bus)

        at_once(*[tell] * THREADS)
        each = 3 * THREADS
        assert (metrics.acquired, metrics.wait.sum) == (each, each / 4)
        assert metrics.sources[AcquireSource.HANDOFF] == each
        assert (metrics.released, metrics.reclaimed, metrics.use.sum) == (each, each, each / 2)
        assert metrics.avg_release_time == 250
        assert (metrics.leaks, metrics.misuses) == (each, each)
        assert metrics.closed == {CloseReason.LEAK: each}
        assert metrics.failures == dict.fromkeys(FAILURES, each)
        assert metrics.connect_faults == dict.fromkeys(FAULTS, each)
        assert {h.count for h in metrics.failed_wait.values()} == {each}
        assert {h.count for h in metrics.failed_create.values()} == {each}


@pytest.mark.parametrize("has_gil", [True, False])
def test_no_acquire_and_no_release_is_lost(has_gil: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: has_gil, raising=False)
    metrics, bus = ConnectionPoolMetrics(), EventBus()
    metrics.subscribe_to(bus, lambda: None)

    def borrow() -> None:
        for _ in range(10_000):
            bus.publish(ConnectionAcquired, "orders", 0.0, 0, 1, 0.25, AcquireSource.HANDOFF, "c1")
            bus.publish(ConnectionReleased, "orders", 0.0, 0, 1, "c1", 0.25, 0.25)

    at_once(*[borrow] * THREADS)
    each = 10_000 * THREADS
    assert (metrics.acquired, metrics.wait.sum) == (each, each / 4)
    assert metrics.sources[AcquireSource.HANDOFF] == each
    assert (metrics.released, metrics.use.sum) == (each, each / 4)
    assert metrics.avg_release_time == 250


def test_no_count_by_hand_is_lost() -> None:
    metrics = ConnectionPoolMetrics()

    def count() -> None:
        for _ in range(1000):
            metrics.record_connection_request()
            metrics.record_connection_acquire("c1", 0.25)
            metrics.record_connection_release("c1", 0.25)
            metrics.record_connection_timeout()
            metrics.record_connection_error()

    at_once(*[count] * THREADS)
    each = 1000 * THREADS
    assert (metrics.acquired, metrics.released) == (each, each)
    assert (metrics.connection_timeouts, metrics.connection_errors) == (each, each)
    assert metrics.active_connections == 0
    assert metrics.idle_connections == metrics.total_connections <= THREADS


def test_rates_are_rates_while_others_count() -> None:
    for _ in range(ROUNDS):
        metrics, bus = ConnectionPoolMetrics(), EventBus()
        metrics.subscribe_to(bus, lambda: None)

        def fail(metrics: ConnectionPoolMetrics = metrics, bus: EventBus = bus) -> None:
            for reason in FAILURES:
                metrics.record_connection_acquire("c1", 0.25)
                bus.publish(LeakReclaimed, "orders", 0.0, 0, 1, "c1", 0.25, CloseReason.LEAK, None)
                bus.publish(AcquireFailed, "orders", 0.0, 0, 1, 0.25, reason, None)
                metrics.record_connection_release("c1", 0.25)

        def read(metrics: ConnectionPoolMetrics = metrics) -> None:
            for _ in range(10):
                assert 0 <= metrics.error_rate <= 1
                assert 0 <= metrics.pool_utilization <= 1
                assert metrics.released >= 0
                assert metrics.avg_release_time in (0, 250)
                shown = metrics.to_dict()
                failed = shown["connection_timeouts"] + shown["connection_errors"]
                assert shown["error_rate"] == pytest.approx(
                    failed / max(1, shown["connection_requests"])
                )

        at_once(fail, fail, read, read)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_forked_while_another_thread_reads_can_read_too() -> None:
    metrics, done = ConnectionPoolMetrics(), threading.Event()

    def read() -> None:
        while not done.is_set():
            metrics.to_dict()

    def fork() -> None:
        try:
            for _ in range(10):
                if (child := os.fork()) == 0:
                    signal.alarm(5)  # ends it, if it hangs
                    metrics.record_connection_request()
                    os._exit(metrics.connection_requests)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        finally:
            done.set()

    at_once(read, fork)


def test_what_is_told_after_a_pool_closed_is_exported_all_the_same() -> None:
    with road() as way:
        pool = ConnectionPool(object, ConnectionPoolSettings(name="orders"))

        async def live() -> None:
            async with pool, pool.connection():
                pass

        asyncio.run(live())
        # Another thread had given back before, and tells it now.
        pool.bus.publish(ConnectionReleased, "orders", 0.0, 0, 9, "c9", 0.25, 0.0)
        label = {"db_client_connection_pool_name": "orders"}
        name = f"{catalog.USE_TIME.prometheus_name}_count"
        assert series_now(way)[key(name, **label)] == 2


# Spans


def test_every_lease_of_a_new_pool_has_its_span(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    for number in range(ROUNDS):
        bus, pool = EventBus(ROOT), f"pool {number}"

        def lease(request: int, bus: EventBus = bus, pool: str = pool) -> None:
            now, about = time.monotonic(), (request, f"c{request}")
            with under(provider):
                bus.publish(RequestQueued, pool, now, 0, request, 1)
                bus.publish(
                    ConnectionAcquired, pool, now, 0, request, 0.0, AcquireSource.HANDOFF, about[1]
                )
                bus.publish(ConnectionReleased, pool, now, 0, *about, 0.0, 0.0)

        at_once(*(lambda n=n: lease(n) for n in range(THREADS)))
        assert tracer.pending == 0
    assert len(named(exporter, "pool.use")) == len(named(exporter, "pool.acquire"))
    assert len(named(exporter, "pool.use")) == ROUNDS * THREADS


class Teller:
    """Tells of a pool in an order of its own."""

    def __init__(self, provider: TracerProvider, name: str = "orders") -> None:
        self.pool = ConnectionPool(object, ConnectionPoolSettings(name=name))
        self._provider = provider

    def _tell(self, kind: type, sequence: int, *fields: object) -> None:
        self.pool.bus.publish(kind, self.pool.name, time.monotonic(), sequence, *fields)

    def opened(self, sequence: int) -> None:
        self._tell(PoolOpened, sequence)

    def queued(self, who: str, sequence: int, request: int) -> None:
        with under(self._provider, who):
            self._tell(RequestQueued, sequence, request, 1)

    def got(self, who: str, sequence: int, request: int, *, waited: bool = True) -> None:
        source = AcquireSource.HANDOFF if waited else AcquireSource.IDLE
        with under(self._provider, who):
            self._tell(ConnectionAcquired, sequence, request, 0.25 * waited, source, "c1")

    def gave(self, sequence: int, request: int) -> None:
        self._tell(ConnectionReleased, sequence, request, "c1", 0.5, 0.0)


def linked(exporter: InMemorySpanExporter, waiter: str) -> list[str]:
    holders = {id_of(use): name for name, use in under_which(exporter, "pool.use").items()}
    return [holders[where] for _, where in links(under_which(exporter, "pool.acquire")[waiter])]


def test_who_waited_is_linked_to_who_gave_though_that_is_told_later(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    tell = Teller(provider)
    tell.got("first", 1, 1, waited=False)
    tell.queued("second", 2, 2)
    tell.queued("third", 3, 3)
    tell.got("second", 5, 2)
    tell.gave(4, 1)
    tell.got("third", 7, 3)
    tell.gave(6, 2)
    tell.gave(8, 3)
    assert linked(exporter, "second") == ["first"]
    # The first one held the connection too while it waited, but the second gave it.
    assert linked(exporter, "third") == ["second", "first"]
    assert tracer.pending == 0


def test_who_had_given_back_before_is_not_linked_though_that_is_told_later(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    tell = Teller(provider)
    tell.got("early", 1, 1, waited=False)
    tell.queued("waiter", 4, 3)  # for one that nobody traces, who took the connection at 3
    tell.gave(2, 1)
    tell.got("waiter", 6, 3)
    tell.gave(7, 3)
    assert linked(exporter, "waiter") == []
    assert tracer.pending == 0


def test_what_began_before_it_was_told_that_the_pool_opened_is_kept(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    tell = Teller(provider)
    tell.got("request", 2, 1, waited=False)
    tell.opened(1)
    tell.gave(3, 1)
    assert "request" in under_which(exporter, "pool.use")


# The rest


def test_events_told_out_of_order_win_no_lines() -> None:
    limiter, admitted = RateLimiter(), 0
    for moment in (100.0, 99.0) * 500:
        event = PoolOpened("orders", moment, 0)
        admitted += limiter.admit(event, 60) is not None
    assert admitted == BURST


def test_no_more_pools_than_allowed_get_durations_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalog, "MOST_POOLS", 3)
    for _ in range(ROUNDS):
        reader = InMemoryMetricReader()
        meters = MeterProvider([reader], shutdown_on_exit=False)
        durations, bus = Durations(meters.get_meter("test")), EventBus(ROOT)
        durations.open()

        def record(number: int, bus: EventBus = bus) -> None:
            bus.publish(ConnectionReleased, f"pool {number}", 0.0, 0, 1, "c1", 0.25, 0.0)

        at_once(*(lambda n=n: record(n) for n in range(THREADS + 4)))
        durations.close()
        data = reader.get_metrics_data()
        assert data is not None
        (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
        assert len(metric.data.data_points) == 3 + 1
        meters.shutdown()
