"""Where connections were acquired, and what their holders do: in errors, events and logs."""

import inspect
import logging
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from poolscope import ConnectionPoolSettings, SyncConnectionPool, events
from poolscope.errors import PoolTimeoutError
from tests.threads.real import Connection, RealLedger, Recorder, until

Pool = SyncConnectionPool[Connection]


@contextmanager
def small_pool(**settings: Any) -> Any:
    ledger = RealLedger()
    pool = SyncConnectionPool(
        ledger.open, ConnectionPoolSettings(max_size=1, **settings), close_func=ledger.close
    )
    with pool:
        yield pool
    ledger.audit()


def line_of(function: Callable[..., object], text: str) -> str:
    """Return the place of the line of a function that holds a text."""
    lines, first = inspect.getsourcelines(function)
    number = next(n for n, line in enumerate(lines) if text in line)
    return f"threads/test_places.py:{first + number}"


def by_block(pool: Pool, held: threading.Event, end: threading.Event) -> None:
    with pool.connection():  # here
        held.set()
        end.wait(10)


def by_hand(pool: Pool, held: threading.Event, end: threading.Event) -> None:
    connection = pool.acquire()  # here
    held.set()
    end.wait(10)
    pool.release(connection)


def by_stack(pool: Pool, held: threading.Event, end: threading.Event) -> None:
    lease: AbstractContextManager[Connection] = pool.connection()
    lease.__enter__()  # here
    held.set()
    end.wait(10)
    lease.__exit__(None, None, None)


@pytest.mark.parametrize("hold", [by_block, by_hand, by_stack])
@pytest.mark.parametrize("idle", [True, False], ids=["idle", "new"])
def test_a_timeout_names_the_line_of_the_oldest_holder(
    hold: Callable[..., None], idle: bool
) -> None:
    held, end = threading.Event(), threading.Event()
    with small_pool() as pool:
        if idle:
            pool.release(pool.acquire())
        thread = threading.Thread(target=hold, args=(pool, held, end))
        thread.start()
        assert held.wait(5)
        with pytest.raises(PoolTimeoutError, match=re.escape(line_of(hold, "# here"))) as caught:
            pool.acquire(0.01)
        assert caught.value.stats is not None
        assert caught.value.stats.oldest_use_at == line_of(hold, "# here")
        end.set()
        thread.join()


@pytest.mark.parametrize("hold", [by_block, by_hand])
def test_a_suspected_leak_shows_what_the_holding_thread_does(hold: Callable[..., None]) -> None:
    held, end = threading.Event(), threading.Event()
    with small_pool(leak_threshold=0.02) as pool:
        recorder = Recorder(pool)
        thread = threading.Thread(target=hold, args=(pool, held, end), name="hoarder")
        thread.start()
        until(lambda: recorder.replay().of(events.LeakSuspected))
        end.set()
        thread.join()
        event: Any = recorder.replay().of(events.LeakSuspected)[0]
    assert event.stack.startswith("thread hoarder:")
    assert f"in {hold.__name__}" in event.stack
    assert "end.wait(10)" in event.stack
    assert event.acquired_at == line_of(hold, "# here")


def test_a_thread_that_ended_without_giving_back_is_told_of() -> None:
    kept: list[Connection] = []
    with small_pool(leak_threshold=0.05) as pool:
        recorder = Recorder(pool)
        thread = threading.Thread(target=lambda: kept.append(pool.acquire()))
        thread.start()
        thread.join()
        until(lambda: recorder.replay().of(events.LeakSuspected))
        event: Any = recorder.replay().of(events.LeakSuspected)[0]
        assert "has ended without giving the connection back" in event.stack
        pool.release(kept[0])


def lose(pool: Pool) -> None:
    lease = pool.connection()
    lease.__enter__()  # here


def test_the_log_of_a_lost_lease_names_its_line(caplog: pytest.LogCaptureFixture) -> None:
    with small_pool() as pool, caplog.at_level(logging.WARNING, "poolscope"):
        lose(pool)
        until(lambda: caplog.records)
    assert line_of(lose, "# here") in caplog.records[0].getMessage()
