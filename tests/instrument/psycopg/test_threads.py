import threading
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from poolscope import events as e
from poolscope.events import AcquireSource, CloseReason, ConnectFault, FailureReason
from poolscope.testing.postgres import PostgresServer
from tests.instrument.psycopg.stage import (
    SYNC,
    SYNC_NULL,
    can_close_to_return,
    can_drain,
    counts,
    keeps_what_is_interrupted,
    kill,
    sync_stage,
    until,
)

BOTH = pytest.mark.parametrize("kind", [SYNC, SYNC_NULL])


@BOTH
def test_a_request_gets_a_connection_and_gives_it_back(postgres: PostgresServer, kind: Any) -> None:
    with sync_stage(postgres, kind) as stage:
        with stage.pool.connection() as connection:
            assert connection.execute("select 1").fetchone() == (1,)
            assert stage.levels() == (0, 1, 0, 0)
            stage.check()
        stage.check()
        acquired = stage.of(e.ConnectionAcquired)
        new = AcquireSource.NEW
        assert [each.source for each in acquired] == [new]
        assert stage.source.metrics.released == 1


def test_it_is_idle_the_second_time(postgres: PostgresServer) -> None:
    with sync_stage(postgres) as stage:
        for _ in range(3):
            stage.pool.putconn(stage.pool.getconn())
        idle = [each.source for each in stage.of(e.ConnectionAcquired)][1:]
        assert idle == [AcquireSource.IDLE] * 2
        stage.check()


@BOTH
def test_a_request_waits_for_one_that_is_given_back(postgres: PostgresServer, kind: Any) -> None:
    with sync_stage(postgres, kind, max_size=1) as stage:
        first = stage.pool.getconn()
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(stage.pool.getconn()))
        thread.start()
        stage.comes(0, 1, 0, 1)
        assert stage.source.stats().saturated_for > 0
        stage.pool.putconn(first)
        thread.join()
        assert got == [first]
        last = stage.of(e.ConnectionAcquired)[-1]
        assert last.source is AcquireSource.HANDOFF
        stage.check()
        stage.pool.putconn(first)
        stage.check()


@BOTH
def test_a_request_times_out(postgres: PostgresServer, kind: Any) -> None:
    with sync_stage(postgres, kind, max_size=1) as stage, stage.pool.connection():
        for _ in range(2):
            with pytest.raises(PoolTimeout) as caught:
                stage.pool.getconn(timeout=0.02)
            assert "0.02 sec" in str(caught.value)
        assert stage.failures() == {FailureReason.TIMEOUT: 2}
        # The pool has them in its line until it offers them a connection.
        assert stage.levels() == (0, 1, 0, 0)
        stage.check()


@BOTH
def test_a_request_too_many_does_not_wait(postgres: PostgresServer, kind: Any) -> None:
    with sync_stage(postgres, kind, max_size=1, max_waiting=1) as stage:
        with stage.pool.connection():
            thread = threading.Thread(target=_fails, args=(stage.pool, PoolTimeout, 0.3))
            thread.start()
            stage.comes(0, 1, 0, 1)
            with pytest.raises(TooManyRequests):
                stage.pool.getconn()
            thread.join()
        failures = {FailureReason.QUEUE_FULL: 1, FailureReason.TIMEOUT: 1}
        assert stage.failures() == failures
        assert counts(stage)["RequestQueued"] - (kind is SYNC_NULL) == 1
        stage.check()


@BOTH
def test_requests_fail_when_the_pool_closes(postgres: PostgresServer, kind: Any) -> None:
    with sync_stage(postgres, kind, max_size=1) as stage:
        connection = stage.pool.getconn()
        thread = threading.Thread(target=_fails, args=(stage.pool, PoolClosed, 10))
        thread.start()
        stage.comes(0, 1, 0, 1)
        stage.pool.close()
        thread.join()
        assert stage.failures() == {FailureReason.CLOSED: 1}
        assert stage.levels() == (0, 1, 0, 0)
        assert not stage.of(e.PoolClosed)
        stage.check()
        stage.pool.putconn(connection)
        assert stage.reasons() == {CloseReason.POOL_CLOSED: 1}
        assert type(stage.books.events[-1]) is e.PoolClosed
        stage.check()


def _fails(pool: Any, kind: type[Exception], timeout: float) -> None:
    with pytest.raises(kind):
        pool.getconn(timeout)


def test_a_pool_that_is_not_open_yet_refuses(postgres: PostgresServer) -> None:
    from poolscope.instrument import observe

    pool = SYNC(postgres.dsn, open=False)
    source = observe(pool)
    assert source.stats().state == "new"
    _fails(pool, PoolClosed, 1)
    assert dict(source.metrics.failures) == {FailureReason.CLOSED: 1}
    pool.close()
    pool.open(wait=True)
    assert source.stats().state == "open"
    pool.close()
    assert source.stats().state == "closed"


def test_connects_fail_in_a_worker(postgres: PostgresServer) -> None:
    wrong = {"password": "not-this-one-c4n4ry"}
    pool = SYNC(postgres.dsn, kwargs=wrong, min_size=1, open=False)
    with pool:
        from poolscope.instrument import observe

        source = observe(pool)
        until(lambda: source.metrics.connect_failures)
        assert dict(source.metrics.connect_faults) == {ConnectFault.AUTH: 1}
        # The pool counts the one that it will try to open again.
        assert pool.get_stats()["pool_size"] == 1
        stats = source.stats()
        assert (stats.idle, stats.in_use, stats.connecting) == (0, 0, 0)


def test_a_null_pool_fails_to_connect_within_the_request(postgres: PostgresServer) -> None:
    wrong = {"password": "not-this-one-c4n4ry"}
    with sync_stage(postgres, SYNC_NULL, kwargs=wrong) as stage:
        with pytest.raises(psycopg.OperationalError):
            stage.pool.getconn()
        assert stage.failures() == {FailureReason.CONNECT_FAILED: 1}
        started, requested = stage.of(e.ConnectStarted), stage.of(e.ConnectionRequested)
        assert started[0].request_id == requested[0].sequence
        stage.check()


@BOTH
@keeps_what_is_interrupted
def test_an_interrupted_request_is_cancelled(postgres: PostgresServer, kind: Any) -> None:
    def interrupt(connection: Any) -> None:
        raise KeyboardInterrupt

    with sync_stage(postgres, kind, check=interrupt) as stage:
        with pytest.raises(KeyboardInterrupt):
            stage.pool.getconn()
        assert stage.failures() == {FailureReason.CANCELLED: 1}


# Why connections leave


@BOTH
def test_one_that_the_server_ended_is_broken(postgres: PostgresServer, kind: Any) -> None:
    with sync_stage(postgres, kind) as stage:
        with suppress(psycopg.OperationalError), stage.pool.connection() as connection:
            kill(postgres, connection.info.backend_pid)
            connection.execute("select 1")
        assert stage.reasons() == {CloseReason.BROKEN: 1}
        stage.comes(0 if kind is SYNC_NULL else 1, 0, 0, 0)
        stage.check()


@BOTH
def test_one_that_its_holder_closed_is_broken(postgres: PostgresServer, kind: Any) -> None:
    with sync_stage(postgres, kind) as stage:
        with stage.pool.connection() as connection:
            connection.close()
        assert stage.reasons() == {CloseReason.BROKEN: 1}
        stage.comes(0 if kind is SYNC_NULL else 1, 0, 0, 0)
        stage.check()


def test_one_that_comes_back_within_a_query_is_dirty(postgres: PostgresServer) -> None:
    with sync_stage(postgres) as stage:
        connection = stage.pool.getconn()
        connection.pgconn.send_query(b"select 1")
        stage.pool.putconn(connection)
        assert stage.reasons() == {CloseReason.DIRTY: 1}
        stage.comes(1, 0, 0, 0)
        stage.check()


def test_one_that_comes_back_within_a_transaction_stays(postgres: PostgresServer) -> None:
    with sync_stage(postgres) as stage:
        connection = stage.pool.getconn()
        connection.execute("select 1")
        stage.pool.putconn(connection)
        assert stage.reasons() == {}
        assert stage.levels() == (1, 0, 0, 0)
        stage.check()


def test_one_whose_rollback_fails_is_broken(postgres: PostgresServer) -> None:
    with sync_stage(postgres) as stage:
        connection = stage.pool.getconn()
        connection.execute("select 1")
        kill(postgres, connection.info.backend_pid)
        stage.pool.putconn(connection)
        assert stage.reasons() == {CloseReason.BROKEN: 1}
        stage.comes(1, 0, 0, 0)
        stage.check()


def test_one_that_is_too_old_reached_its_lifetime(postgres: PostgresServer) -> None:
    with sync_stage(postgres, max_size=1, max_lifetime=0.0) as stage:
        stage.pool.putconn(stage.pool.getconn())
        assert stage.reasons() == {CloseReason.LIFETIME: 1}
        stage.comes(1, 0, 0, 0)
        stage.pool.check()
        assert stage.reasons() == {CloseReason.LIFETIME: 2}
        stage.comes(1, 0, 0, 0)
        stage.check()


def test_one_that_cannot_be_reset_is_closed_for_that(postgres: PostgresServer) -> None:
    def reset(connection: Any) -> None:
        raise ValueError

    with sync_stage(postgres, reset=reset) as stage:
        stage.pool.putconn(stage.pool.getconn())
        until(lambda: stage.reasons() == {CloseReason.RESET: 1})
        stage.comes(1, 0, 0, 0)
        stage.check()


def test_one_is_in_use_until_it_is_reset(postgres: PostgresServer) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def reset(connection: Any) -> None:
        begun.set()
        assert go_on.wait(10)

    with sync_stage(postgres, reset=reset) as stage:
        stage.pool.putconn(stage.pool.getconn())
        begun.wait()
        assert stage.source.metrics.released == 1
        assert stage.levels() == (0, 1, 0, 0)
        go_on.set()
        stage.comes(1, 0, 0, 0)
        stage.check()


def test_one_that_does_not_pass_the_check_is_closed_for_that(postgres: PostgresServer) -> None:
    with sync_stage(postgres, max_size=1, check=SYNC.check_connection) as stage:
        kill(postgres)
        with stage.pool.connection() as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        assert stage.reasons() == {CloseReason.VALIDATION: 1}
        assert counts(stage)["ConnectionRequested"] == 1
        stage.check()


def test_check_finds_those_that_are_broken(postgres: PostgresServer) -> None:
    with sync_stage(postgres, min_size=2) as stage:
        kill(postgres, postgres.clients()[0].id)
        stage.pool.check()
        assert stage.reasons() == {CloseReason.VALIDATION: 1}
        stage.comes(2, 0, 0, 0)
        stage.check()


@can_drain
def test_drain_makes_all_stale(postgres: PostgresServer) -> None:
    with sync_stage(postgres, min_size=2) as stage:
        connection = stage.pool.getconn()
        stage.pool.drain()
        assert stage.reasons() == {CloseReason.STALE: 1}
        stage.comes(1, 1, 0, 0)
        stage.check()
        stage.pool.putconn(connection)
        assert stage.reasons() == {CloseReason.STALE: 2}
        stage.comes(2, 0, 0, 0)
        assert [each.generation for each in stage.of(e.PoolDrained)] == [1]
        stage.check()


def test_one_that_is_not_needed_was_idle_too_long(postgres: PostgresServer) -> None:
    with sync_stage(postgres, max_idle=0.1) as stage:
        with stage.pool.connection(), stage.pool.connection():
            stage.check()
        until(lambda: stage.reasons() == {CloseReason.IDLE: 1})
        assert stage.levels() == (1, 0, 0, 0)
        stage.check()


def test_one_that_a_null_pool_gives_to_nobody_is_in_excess(postgres: PostgresServer) -> None:
    with sync_stage(postgres, SYNC_NULL) as stage:
        stage.pool.wait()
        assert stage.reasons() == {CloseReason.EXCESS: 1}
        with stage.pool.connection():
            pass
        assert stage.reasons() == {CloseReason.EXCESS: 2}
        stage.check()


def test_one_that_its_holder_lost_is_reclaimed(postgres: PostgresServer) -> None:
    with sync_stage(postgres) as stage:
        connection = stage.pool.getconn()
        del connection
        # The pool will never know.
        assert stage.pool.get_stats()["pool_size"] == 1
        assert stage.levels() == (0, 0, 0, 0)
        assert stage.reasons() == {CloseReason.LEAK: 1}
        assert counts(stage)["LeakReclaimed"] == 1
        stage.check()


def test_resize_is_told_and_grows(postgres: PostgresServer) -> None:
    with sync_stage(postgres) as stage:
        stage.pool.resize(3, 4)
        stage.comes(3, 0, 0, 0)
        stats = stage.source.stats()
        assert (stats.min_size, stats.max_size) == (3, 4)
        (resized,) = stage.of(e.PoolResized)
        assert (resized.min_size, resized.max_size) == (3, 4)
        stage.check()


# Returns that are none


@BOTH
def test_what_is_not_on_loan_changes_nothing(postgres: PostgresServer, kind: Any) -> None:
    with sync_stage(postgres, kind) as stage, SYNC(postgres.dsn, min_size=1, open=True) as other:
        connection, foreign = stage.pool.getconn(), other.getconn()
        stage.pool.putconn(connection)
        before = len(stage.books.events)
        for thing in (connection, foreign, None):
            with pytest.raises((ValueError, AttributeError)):
                stage.pool.putconn(thing)
        assert len(stage.books.events) == before
        other.putconn(foreign)
        stage.books.check(stage.source.stats())


@can_close_to_return
def test_close_may_give_back(postgres: PostgresServer) -> None:
    with sync_stage(postgres, close_returns=True) as stage:
        connection = stage.pool.getconn()
        connection.close()
        assert stage.levels() == (1, 0, 0, 0)
        assert stage.source.metrics.released == 1
        stage.check()
