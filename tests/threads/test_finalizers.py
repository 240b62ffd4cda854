"""What finalizers do, in whatever thread and moment the garbage collector comes."""

import gc
import logging
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from poolscope import ConnectionPoolSettings, SyncConnectionPool, events
from poolscope.errors import ConnectFailedError, PoolError, PoolTimeoutError
from poolscope.events import CloseReason
from poolscope.functions import prompt
from tests.threads.real import Connection, RealLedger, Recorder, in_threads, pool_threads, until


class Node:
    """Something in a circle, which only the collector frees."""

    def __init__(self, content: object) -> None:
        self.content = content
        self.me = self


def make_pool(ledger: RealLedger, **more: Any) -> SyncConnectionPool[Connection]:
    return SyncConnectionPool(
        ledger.open, ConnectionPoolSettings(max_size=2), close_func=ledger.close, **more
    )


def collecting_clock() -> float:
    """Read the clock; in a decision, which does so under the lock, with a full collection."""
    if sys._getframe(1).f_code.co_name == "take":
        gc.collect()
    return time.monotonic()


@pytest.fixture
def no_other_collection() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # what the tests before have left makes each collection take longer
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("circle", [Node, lambda lease: lease], ids=["in a circle", "directly"])
def test_a_lost_lease_is_taken_back_and_told_with_its_place(
    circle: Callable[[object], object], caplog: pytest.LogCaptureFixture
) -> None:
    ledger = RealLedger()
    pool = make_pool(ledger)
    recorder = Recorder(pool)
    with pool, caplog.at_level(logging.WARNING, "poolscope"):
        lease = pool.connection()
        lease.__enter__()
        kept = circle(lease)
        del lease, kept
        gc.collect()
        until(lambda: pool.stats().in_use == 0 and caplog.records)
        with pool.connection(), pool.connection():
            assert pool.stats().in_use == 2
    replay = recorder.check(pool.stats())
    (event,) = replay.of(events.LeakReclaimed)
    assert event.reason is CloseReason.LEAK  # type: ignore[attr-defined]
    (record,) = caplog.records
    assert "lost without being given back" in record.getMessage()
    assert "threads/test_finalizers.py:" in record.getMessage()
    ledger.audit()


def test_leases_may_be_lost_while_decisions_are_made(no_other_collection: None) -> None:
    ledger = RealLedger()
    pool = make_pool(ledger, reset_func=ledger.reset, clock=collecting_clock)
    recorder = Recorder(pool)

    def borrow_and_lose() -> None:
        for number in range(8):
            if number % 4 == 0:
                lease = pool.connection()
                lease.__enter__().use()
                Node(lease)
                del lease
            else:
                with pool.connection() as connection:
                    connection.use()

    in_threads(*[borrow_and_lose] * 4)
    gc.collect()
    until(lambda: pool.stats().in_use == 0)
    pool.close()
    replay = recorder.check(pool.stats())
    assert replay.counts[events.LeakReclaimed] == 8
    ledger.audit()


def test_leases_of_a_busy_pool_may_be_lost_in_the_decisions_of_another() -> None:
    ledger = RealLedger()
    pool = make_pool(ledger)
    recorder = Recorder(pool)
    others = make_pool(ledger, clock=collecting_clock)
    with pool, others:
        for _ in range(5):
            lease = pool.connection()
            lease.__enter__()
            Node(lease)
            del lease
            others.drain()
            until(lambda: pool.stats().in_use == 0)
    assert recorder.check(pool.stats()).counts[events.LeakReclaimed] == 5
    ledger.audit()


class Careless:
    """Uses a pool when it is finalized, which may be in the middle of the pool's own decision."""

    answers: list[object]

    def __init__(self, pool: SyncConnectionPool[Connection]) -> None:
        self.pool = pool
        self.me = self

    def __del__(self) -> None:
        pool = self.pool
        pool.stats()
        pool.get_metrics().to_dict()
        try:
            with pool.connection(0.01) as connection:
                connection.use()
            pool.release(pool.acquire(0.01))
            self.answers.append("success")
        except PoolError as error:
            self.answers.append(error)


def test_a_finalizer_that_uses_the_pool_succeeds_or_is_told_why_not() -> None:
    Careless.answers = []
    ledger = RealLedger()
    pool = make_pool(ledger, clock=collecting_clock)
    recorder = Recorder(pool)

    def work() -> None:
        for _ in range(5):
            Careless(pool)
            with pool.connection() as connection:
                connection.use()
            gc.collect()

    in_threads(work, work)
    pool.close()
    recorder.check(pool.stats())
    assert len(Careless.answers) == 10
    assert all(isinstance(answer, str | PoolError) for answer in Careless.answers)
    ledger.audit()


@pytest.mark.filterwarnings("default::ResourceWarning")
def test_a_lost_pool_warns_drops_its_connections_and_leaves_no_thread() -> None:
    ledger = RealLedger()
    pool = make_pool(ledger)
    pool.release(pool.acquire())
    until(lambda: ledger.opened == 1)
    node = Node(pool)
    del pool, node
    with pytest.warns(ResourceWarning, match=r"was lost with 1 open connections.*close it"):
        until(lambda: gc.collect() is None or not ledger.open_connections)
    until(lambda: not pool_threads())
    ledger.audit()


def use_in_all_ways(pool: SyncConnectionPool[Connection], ledger: RealLedger) -> None:
    with pool.connection(), pool.connection(), suppress(PoolTimeoutError):
        pool.acquire(0)
    pool.release(pool.acquire())
    ledger.closed(pool.detach(pool.acquire()))
    with suppress(KeyError), pool.connection():
        raise KeyError
    pool.drain()
    ledger.delays["open"] = lambda: 1 / 0
    with suppress(ConnectFailedError), pool.connection():
        pass


def test_a_closed_pool_is_freed_without_the_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        ledger = RealLedger()
        pool = SyncConnectionPool(
            ledger.open,
            ConnectionPoolSettings(min_size=0, max_size=2, retry_limit=0, leak_threshold=60),
            prompt()(lambda connection: True),
            ledger.close,
            reset_func=ledger.reset,
        )
        with pool:
            use_in_all_ways(pool, ledger)
        freed = weakref.ref(pool._driver)
        del pool
        until(lambda: freed() is None, 2.0)
    finally:
        gc.enable()
    ledger.audit()
