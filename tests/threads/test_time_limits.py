"""Functions of the application that never return, and in which threads they run."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from poolscope import ConnectionPoolSettings, SyncConnectionPool, events
from poolscope.errors import (
    ConnectFailedError,
    PoolClosedError,
    PoolError,
    PoolTimeoutError,
    ValidationFailedError,
)
from poolscope.functions import prompt
from tests.threads.real import Connection, RealLedger, Recorder, in_threads, pool_threads, until

Pool = SyncConnectionPool[Connection]

SOON = 0.4
"""Seconds within which something with a limit of 0.1 s ends, on a machine with much to do."""


@contextmanager
def elapsed() -> Iterator[Callable[[], float]]:
    began = time.monotonic()
    yield lambda: time.monotonic() - began


class Hanging:
    """A pool of two, of whose functions one hangs until it is let go."""

    def __init__(self, *, careful: bool = False, **settings: Any) -> None:
        self.ledger = ledger = RealLedger(tolerant=True)
        self.go_on = threading.Event()
        times = {"connect_timeout": 0.1, "validate_timeout": 0.1, "close_timeout": 0.1}
        more = {"max_size": 2, "retry_limit": 0, "retry_delay": 0.001}
        self.pool = SyncConnectionPool(
            ledger.open,
            ConnectionPoolSettings(**(times | more | settings)),
            ledger.validate if careful else None,
            ledger.close,
            reset_func=ledger.reset if careful else None,
        )
        self.recorder = Recorder(self.pool)

    def hang(self, name: str, times: int = 1) -> None:
        left = [None] * times

        def step() -> None:
            with suppress(IndexError):
                left.pop()
                self.go_on.wait(20)

        self.ledger.delays[name] = step

    def has_all_capacity(self) -> None:
        with self.pool.connection(5) as one, self.pool.connection(5) as two:
            one.use()
            two.use()

    def end(self) -> None:
        """Close; the one thread that hangs is left, and none when it goes on."""
        with elapsed() as seconds:
            self.pool.close()
            assert seconds() < SOON
        until(lambda: len(pool_threads()) <= 1, 1.0)
        self.go_on.set()
        until(lambda: not pool_threads(), 1.0)
        self.recorder.check(self.pool.stats())
        self.ledger.audit()


def test_a_connect_that_never_returns_fails_in_time_and_its_connection_is_closed_late() -> None:
    hanging = Hanging()
    hanging.hang("open")
    with elapsed() as seconds, pytest.raises(ConnectFailedError) as caught:
        hanging.pool.acquire()
    assert seconds() < SOON
    assert "RealLedger.open did not return within 0.10 s" in str(caught.value.__cause__)
    hanging.has_all_capacity()
    opened = hanging.ledger.opened
    hanging.go_on.set()
    until(lambda: hanging.ledger.opened == opened + 1)
    until(lambda: len(hanging.ledger.open_connections) == hanging.pool.stats().size)
    hanging.end()


def test_a_request_ends_by_its_deadline_though_the_connect_has_more_time() -> None:
    hanging = Hanging(connect_timeout=20)
    hanging.hang("open")
    with elapsed() as seconds, pytest.raises(PoolTimeoutError):
        hanging.pool.acquire(0.1)
    assert seconds() < SOON
    hanging.end()


def test_a_validation_that_never_returns_costs_its_connection_and_its_time() -> None:
    hanging = Hanging(careful=True)
    hanging.has_all_capacity()
    hanging.hang("validate")
    with elapsed() as seconds, hanging.pool.connection() as connection:
        connection.use()
        assert 0.1 <= seconds() < SOON
    hanging.has_all_capacity()
    closed = hanging.recorder.replay().reasons
    assert closed == {events.CloseReason.VALIDATION: 1}
    hanging.end()


def test_a_reset_that_never_returns_costs_its_connection_and_its_time() -> None:
    hanging = Hanging(careful=True)
    hanging.has_all_capacity()
    hanging.hang("reset")
    lease = hanging.pool.connection()
    lease.__enter__()
    with elapsed() as seconds:
        lease.__exit__(None, None, None)
    assert 0.1 <= seconds() < SOON
    hanging.has_all_capacity()
    assert hanging.recorder.replay().reasons == {events.CloseReason.RESET: 1}
    hanging.end()


def test_a_close_that_never_returns_gives_its_place_back_in_time() -> None:
    hanging = Hanging()
    hanging.has_all_capacity()
    hanging.hang("close")
    hanging.pool.drain()
    with elapsed() as seconds:
        hanging.has_all_capacity()
        assert seconds() < SOON
    assert len(hanging.recorder.replay().of(events.CloseFailed)) == 1
    hanging.end()


@pytest.mark.parametrize("name", ["open", "validate", "reset", "close"])
def test_closing_ends_in_time_whatever_hangs(name: str) -> None:
    def work() -> None:
        with suppress(PoolError), hanging.pool.connection():
            pass

    limits = dict.fromkeys(("connect_timeout", "validate_timeout", "close_timeout"), 20.0)
    hanging = Hanging(careful=True, **limits)
    hanging.has_all_capacity()
    hanging.hang(name)
    hanging.pool.drain()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.02)
    with elapsed() as seconds:
        hanging.pool.close(0.1)
        assert seconds() < SOON
    assert hanging.pool.stats().size == 0
    for thread in threads:
        thread.join(1)
        assert not thread.is_alive()
    hanging.end()


@pytest.mark.parametrize("limit", [5.0, math.inf])
@pytest.mark.parametrize("marked", [True, False], ids=["prompt", "unmarked"])
def test_prompt_functions_run_in_the_thread_of_the_caller_and_others_do_not(
    marked: bool, limit: float
) -> None:
    ledger = RealLedger()
    mark: Callable[..., Any] = prompt() if marked else lambda function: function
    settings = ConnectionPoolSettings(max_size=1, validate_timeout=limit)
    with SyncConnectionPool(
        ledger.open,
        settings,
        mark(lambda connection: ledger.validate(connection)),
        ledger.close,
        reset_func=mark(lambda connection: ledger.reset(connection)),
    ) as pool:
        for _ in range(3):
            with pool.connection():
                pass
        pool.release(pool.acquire())
    me = {threading.get_ident()}
    assert (ledger.threads["validate"] == me) is (marked or limit == math.inf)
    assert (ledger.threads["reset"] == me) is (marked or limit == math.inf)
    assert ledger.threads["open"].isdisjoint(me)
    assert ledger.threads["close"].isdisjoint(me)


def test_inline_connects_and_closes_run_in_the_thread_that_causes_them() -> None:
    ledger = RealLedger()
    pool = SyncConnectionPool(
        ledger.open, ConnectionPoolSettings(min_size=0), None, ledger.close, connect_inline=True
    )
    for _ in range(3):
        with pool.connection():
            pass
        pool.drain()
    me = {threading.get_ident()}
    assert ledger.threads == {"open": me, "close": me}
    pool.close()
    ledger.audit()


async def answer(*_: object) -> bool:
    return True


@pytest.mark.parametrize("marked", [True, False], ids=["prompt", "unmarked"])
@pytest.mark.parametrize("name", ["factory", "validate_func", "reset_func", "close_func"])
def test_async_functions_are_refused_by_name(name: str, marked: bool) -> None:
    ledger = RealLedger()
    function: Any = prompt()(lambda *_: answer()) if marked else answer
    functions: dict[str, Any] = {"factory": ledger.open, "close_func": ledger.close}
    pool: Pool = SyncConnectionPool(
        settings=ConnectionPoolSettings(max_size=1, retry_limit=0), **(functions | {name: function})
    )
    failures: list[events.CloseFailed] = []
    pool.bus.subscribe(failures.append, events.CloseFailed)
    error: BaseException | None = None
    try:
        with pool.connection():
            pass
    except (ConnectFailedError, ValidationFailedError) as failed:
        error = failed.__cause__
    pool.drain()
    pool.close()
    if name == "close_func":
        error = failures[0].error
    text = f"{name} returned coroutine, which has to be awaited: a pool for threads takes plain"
    if name != "reset_func":  # a connection that cannot be reset is closed, and that is all
        while error is not None and text not in str(error):
            error = error.__cause__
        assert isinstance(error, TypeError)


def test_a_pool_may_close_at_once_while_all_want_something(frequent_switches: None) -> None:
    for number in range(40):
        ledger = RealLedger(tolerant=True)
        pool = SyncConnectionPool(
            ledger.open,
            ConnectionPoolSettings(max_size=3),
            prompt()(lambda connection: True) if number % 2 else None,
            ledger.close,
        )
        recorder = Recorder(pool)

        def work() -> None:
            with suppress(PoolClosedError):
                while True:
                    with pool.connection() as connection:  # noqa: B023
                        assert connection is not None
                        connection.use()

        def close() -> None:
            time.sleep(0.002)
            pool.close(0.0)  # noqa: B023

        in_threads(*[work] * 5, close, close)
        recorder.check(pool.stats())
        assert pool.stats().size == 0
        ledger.audit()


@pytest.mark.parametrize("name", ["validate", "reset"])
def test_a_connection_is_not_closed_under_a_thread_that_is_still_at_work_on_it(name: str) -> None:
    # psycopg crashes the process if one thread closes what another is waiting in.
    hanging = Hanging(careful=True, acquire_timeout=5.0)
    closed: list[bool] = []

    def note(connection: Connection) -> None:
        closed.append(hanging.go_on.is_set())
        hanging.ledger.close(connection)

    pool = SyncConnectionPool(
        hanging.ledger.open,
        hanging.pool.settings,
        hanging.ledger.validate,
        note,
        reset_func=hanging.ledger.reset,
    )
    with pool.connection():
        pass
    hanging.hang(name)
    with pool.connection():  # whoever hangs is given up, and so is closing what it hangs in
        pass
    with pool.connection(5), pool.connection(5):
        assert closed == []
    hanging.go_on.set()
    until(lambda: closed)
    pool.close()
    assert closed[0] is True
    hanging.end()
