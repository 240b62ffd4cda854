"""Requests of SQLAlchemy's pools, their outcomes, and the lives of connections."""

import time
import warnings
from typing import Any

import pytest
import sqlalchemy.exc
from sqlalchemy import event, text
from sqlalchemy.pool import AssertionPool, NullPool

from poolscope.events import (
    AcquireFailed,
    AcquireSource,
    AcquireTimedOut,
    CloseReason,
    ConnectFailed,
    ConnectFault,
    ConnectionAcquired,
    ConnectStarted,
    FailureReason,
    LeakReclaimed,
    SaturationEnded,
    SaturationStarted,
)
from tests.instrument.sqlalchemy.stage import On, Stage

OPENING = ["ConnectionRequested", "RequestQueued", "ConnectStarted", "ConnectionOpened"]
CYCLE = ["ConnectionRequested", "ConnectionAcquired", "ConnectionReleased"]


def test_a_cycle_is_a_request_a_connect_and_a_lease(stage: Stage) -> None:
    def body(on: On) -> None:
        with on.engine.connect() as lent:
            assert lent.scalar(text("select 1")) == 1
            on.expect(0, 1)
        on.expect(1, 0)
        (started,), (acquired,) = on.of(ConnectStarted), on.of(ConnectionAcquired)
        assert started.request_id == acquired.request_id
        assert acquired.source is AcquireSource.NEW
        assert on.kinds() == [*OPENING, *CYCLE[1:]]
        with on.engine.begin() as lent:
            lent.execute(text("select 1"))
        (acquired,) = on.of(ConnectionAcquired)
        assert acquired.source is AcquireSource.IDLE
        assert on.kinds() == CYCLE

    stage.run(body)


def test_what_is_beyond_the_size_of_the_pool_is_closed_on_return(stage: Stage) -> None:
    def body(on: On) -> None:
        with on.engine.connect(), on.engine.connect():
            assert on.source.stats().max_size == 2
            assert on.source.stats().max_idle == 1
            on.expect(0, 2)
        on.expect(1, 0)
        assert on.closed() == [CloseReason.EXCESS]
        on.engine.dispose()
        on.expect(0, 0)
        assert on.closed() == [CloseReason.EXCESS, CloseReason.POOL_CLOSED]

    stage.run(body, pool_size=1, max_overflow=1)


def test_a_request_times_out_with_the_error_of_the_library(stage: Stage) -> None:
    def body(on: On) -> None:
        with on.engine.connect():
            with pytest.raises(sqlalchemy.exc.TimeoutError, match="limit of size 1 overflow 0"):
                on.engine.connect()
            on.expect(0, 1)
        (timed_out,) = on.of(AcquireTimedOut)
        assert timed_out.wait >= 0.05
        assert timed_out.stats.acquire_timeout == 0.05
        (started,), (ended,) = on.of(SaturationStarted), on.of(SaturationEnded)
        assert started.waiting == ended.peak_waiting == 1
        assert on.source.metrics.failures == {FailureReason.TIMEOUT: 1}

    stage.run(body, pool_size=1, max_overflow=0, pool_timeout=0.05)


def test_a_refused_connect_fails_the_request(stage: Stage) -> None:
    stage.url = stage.url.set(port=1)

    def body(on: On) -> None:
        with pytest.raises((sqlalchemy.exc.OperationalError, ConnectionRefusedError)) as raised:
            on.engine.connect()
        (failed,), (connect,) = on.of(AcquireFailed), on.of(ConnectFailed)
        assert failed.reason is FailureReason.CONNECT_FAILED
        assert failed.error is getattr(raised.value, "orig", None) or raised.value
        assert connect.fault is ConnectFault.REFUSED
        assert on.levels == (0, 0, 0, 0)

    stage.run(body)


def test_a_connection_that_broke_is_closed_and_those_of_its_age_are_stale(stage: Stage) -> None:
    def body(on: On) -> None:
        with on.engine.connect(), on.engine.connect():
            pass
        on.expect(2, 0)
        stage.kill()
        with pytest.raises(sqlalchemy.exc.DBAPIError), on.engine.connect() as lent:
            lent.execute(text("select 1"))
        assert on.closed() == [CloseReason.BROKEN]
        with on.engine.connect() as first, on.engine.connect() as second:
            assert first.scalar(text("select 1")) == second.scalar(text("select 1"))
            on.expect(0, 2)
        assert on.closed() == [CloseReason.BROKEN, CloseReason.STALE]
        on.expect(2, 0)

    stage.run(body)


def test_a_ping_that_fails_is_part_of_one_request(stage: Stage) -> None:
    def body(on: On) -> None:
        with on.engine.connect():
            pass
        stage.kill()
        on.kinds()
        with on.engine.connect() as lent:
            assert lent.scalar(text("select 1")) == 1
            on.expect(0, 1)
        assert on.closed() == [CloseReason.VALIDATION]
        assert on.kinds() == [
            "ConnectionRequested",
            "ConnectionClosed",
            *OPENING[1:],
            *CYCLE[1:],
        ]

    stage.run(body, pool_pre_ping=True)


def test_listeners_that_refuse_connections_end_the_request_once(stage: Stage) -> None:
    def body(on: On) -> None:
        @event.listens_for(on.engine, "checkout")
        def refuse(*_: object) -> None:
            raise sqlalchemy.exc.DisconnectionError

        with pytest.raises(sqlalchemy.exc.InvalidRequestError, match="is closed"):
            on.engine.connect()
        (failed,) = on.of(AcquireFailed)
        assert failed.reason is FailureReason.VALIDATION_FAILED
        assert CloseReason.VALIDATION in on.closed()
        on.expect(0, 0)

    stage.run(body)


def test_a_connection_too_old_is_renewed_within_the_request(stage: Stage) -> None:
    def body(on: On) -> None:
        with on.engine.connect():
            pass
        on.expect(1, 0)
        assert set(on.closed()) <= {CloseReason.LIFETIME}  # it may be too old from its beginning
        stage.pause(0.01)
        with on.engine.connect():
            on.expect(0, 1)
        assert set(on.closed()) == {CloseReason.LIFETIME}

    stage.run(body, pool_recycle=0)


def test_invalidated_connections_tell_why(stage: Stage) -> None:
    class Interrupt(BaseException):
        pass

    def body(on: On) -> None:
        with on.engine.connect() as lent:
            lent.invalidate()
            on.expect(0, 0)
        with on.engine.connect() as lent:
            lent.connection.invalidate(Interrupt())
            on.expect(0, 0)
        lent.close()
        with on.engine.connect() as lent:
            lent.connection.invalidate(soft=True)
        stage.pause(0.02)
        with on.engine.connect():
            on.expect(0, 1)
        assert on.closed() == [CloseReason.BROKEN, CloseReason.DIRTY, CloseReason.STALE]

    stage.run(body)


def test_a_reset_that_fails_is_the_reason(stage: Stage) -> None:
    def body(on: On) -> None:
        @event.listens_for(on.engine, "reset")
        def fail(*_: object) -> None:
            raise ValueError("no reset")

        with on.engine.connect():
            pass
        assert on.closed() == [CloseReason.RESET]
        on.expect(0, 0)

    stage.run(body)


def test_a_null_pool_has_physical_connections_and_no_limit(stage: Stage) -> None:
    def body(on: On) -> None:
        with on.engine.connect(), on.engine.connect():
            on.expect(0, 2)
            assert on.source.stats().max_size == 0
        on.expect(0, 0)
        assert on.closed() == [CloseReason.EXCESS] * 2
        assert {"db.client.connection.max", "db.client.connection.idle.max"} <= on.source.omits

    stage.run(body, poolclass=NullPool)


def test_a_second_checkout_of_an_assertion_pool_is_refused(stage: Stage) -> None:
    def body(on: On) -> None:
        with on.engine.connect():
            with pytest.raises(AssertionError, match="already checked out"):
                on.engine.connect()
            on.expect(0, 1)
        (failed,) = on.of(AcquireFailed)
        assert failed.reason is FailureReason.QUEUE_FULL
        on.expect(1, 0)

    stage.run(body, poolclass=AssertionPool)


def test_a_forgotten_connection_is_given_back(stage: Stage) -> None:
    def body(on: On) -> None:
        lent: Any = on.engine.raw_connection()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sqlalchemy.exc.SAWarning)
            del lent
        # Under asyncio who finds it cannot reset it, and closes it. SQLAlchemy 2.0.0 tried.
        leaks = on.of(LeakReclaimed)
        assert [leak.reason for leak in leaks] == [CloseReason.LEAK] * len(leaks)
        assert not leaks or stage.is_async
        assert leaks or not stage.is_async or sqlalchemy.__version__ == "2.0.0"
        on.expect(0 if leaks else 1, 0)

    stage.run(body)


def test_errors_pass_as_they_are(stage: Stage) -> None:
    class Refused(Exception):
        pass

    def body(on: On) -> None:
        error = Refused()

        @event.listens_for(on.engine, "checkout")
        def refuse(*_: object) -> None:
            raise error

        with pytest.raises(Refused) as raised:
            on.engine.raw_connection()
        assert raised.value is error
        assert error.__cause__ is error.__context__ is None
        error.__traceback__ = None  # it would keep the connection that was not lent
        on.expect(0, 0)

    stage.run(body)


def test_a_setting_that_is_changed_later_is_seen(stage: Stage) -> None:
    def body(on: On) -> None:
        pool: Any = on.engine.pool
        pool._max_overflow = 7
        assert on.source.stats().max_size == 8

    stage.run(body, pool_size=1)


def test_a_wait_is_as_long_as_it_takes(stage: Stage) -> None:
    def body(on: On) -> None:
        @event.listens_for(on.engine, "checkout")
        def dawdle(*_: object) -> None:
            stage.pause(0.02)

        began = time.monotonic()
        with on.engine.connect():
            (acquired,) = on.of(ConnectionAcquired)
            assert 0.02 <= acquired.wait <= time.monotonic() - began

    stage.run(body)
