"""Pools leave no thread behind, and cost none until they are used."""

import gc
import threading
import time

import pytest

from poolscope import ConnectionPoolSettings, SyncConnectionPool
from poolscope.errors import PoolError
from tests.threads.real import RealLedger, pool_threads, until


def test_a_pool_begins_no_thread_before_it_is_used() -> None:
    before = threading.active_count()
    pool = SyncConnectionPool(object)
    pool.stats()
    assert threading.active_count() == before
    pool.close()
    until(lambda: threading.active_count() == before)


def test_the_threads_of_a_pool_bear_its_name_and_end_with_it() -> None:
    ledger = RealLedger()
    ledger.delays["open"] = lambda: time.sleep(0.02)
    settings = ConnectionPoolSettings(min_size=3, name="orders", leak_threshold=10)
    with SyncConnectionPool(ledger.open, settings, close_func=ledger.close):
        assert {"poolscope-orders", "poolscope-timers"} == set(pool_threads())
    until(lambda: not pool_threads(), 1.0)
    ledger.audit()


def test_idle_threads_end_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolscope.threads.workers.LINGER", 0.02)
    with SyncConnectionPool(object, ConnectionPoolSettings(name="orders")) as pool:
        pool.release(pool.acquire())
        until(lambda: "poolscope-orders" not in pool_threads())


def test_a_pool_that_could_not_open_leaves_no_thread_and_may_try_again() -> None:
    ledger = RealLedger()
    ledger.delays["open"] = lambda: 1 / 0
    settings = ConnectionPoolSettings(retry_limit=0)
    pool = SyncConnectionPool(ledger.open, settings, close_func=ledger.close)
    with pytest.raises(PoolError):
        pool.initialize()
    until(lambda: not pool_threads(), 1.0)
    ledger.delays.clear()
    with pool, pool.connection() as connection:
        connection.use()
    until(lambda: not pool_threads(), 1.0)
    ledger.audit()


def test_a_thousand_pools_open_and_close() -> None:
    ledger = RealLedger()
    for _ in range(1_000):
        with SyncConnectionPool(ledger.open, close_func=ledger.close):
            pass
    until(lambda: not pool_threads())
    assert ledger.opened == 1_000
    ledger.audit()


def test_ten_thousand_pools_that_are_made_and_dropped_leave_nothing() -> None:
    threads = threading.active_count()
    for _ in range(100):  # whatever is made once
        SyncConnectionPool(object)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(10_000):
        SyncConnectionPool(object)
    gc.collect()
    assert len(gc.get_objects()) - before < 1_000
    assert threading.active_count() == threads
