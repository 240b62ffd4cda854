import gc
import json
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import pool, pool_async

from poolscope import events as e
from poolscope import instrument, registry
from poolscope.events import CloseReason
from poolscope.instrument import observe, uninstrument
from poolscope.instrument.psycopg import LIBRARY
from poolscope.telemetry import catalog
from poolscope.testing.postgres import PostgresServer
from tests.instrument.psycopg.stage import (
    ASYNC,
    ASYNC_NULL,
    SYNC,
    SYNC_NULL,
    async_stage,
    can_drain,
    sync_stage,
    until,
)
from tests.support import run

CANARY = "c4n4ry"


def levels(source: Any) -> tuple[int, int, int]:
    stats = source.stats()
    return stats.idle, stats.in_use, stats.waiting


@contextmanager
def unobserved(server: PostgresServer, **options: Any) -> Iterator[Any]:
    """A pool that was there before anybody looked."""
    uninstrument()
    with SYNC(server.dsn, open=False, **({"min_size": 2, "max_size": 2} | options)) as pool:
        pool.wait()
        yield pool


@can_drain
def test_connections_are_out_and_others_wait_when_it_begins(postgres: PostgresServer) -> None:
    with unobserved(postgres) as pool:
        first, second = pool.getconn(), pool.getconn()
        got: list[Any] = []
        thread = threading.Thread(target=lambda: got.append(pool.getconn()))
        thread.start()
        until(lambda: pool.get_stats()["requests_waiting"])
        source = observe(pool)
        assert levels(source) == (0, 2, 1)
        pool.putconn(first)
        thread.join()
        assert levels(source) == (0, 2, 0)
        pool.putconn(second)
        assert levels(source) == (1, 1, 0)
        pool.drain()
        until(lambda: levels(source) == (1, 1, 0))
        pool.putconn(got[0])
        until(lambda: levels(source) == (2, 0, 0))
        assert dict(source.metrics.closed) == {CloseReason.STALE: 2}
        assert len(postgres.clients()) == 2
        assert source.metrics.acquired == source.metrics.released == 0


@can_drain
def test_idle_ones_are_there_when_it_begins(postgres: PostgresServer) -> None:
    with unobserved(postgres) as pool:
        source = observe(pool)
        assert levels(source) == (2, 0, 0)
        with pool.connection():
            assert levels(source) == (1, 1, 0)
        pool.drain()
        until(lambda: levels(source) == (2, 0, 0))
        assert dict(source.metrics.closed) == {CloseReason.STALE: 2}
    assert dict(source.metrics.closed) == {CloseReason.STALE: 2, CloseReason.POOL_CLOSED: 2}


def test_it_ends_and_begins_while_connections_are_out(postgres: PostgresServer) -> None:
    with sync_stage(postgres, min_size=2) as stage:
        first, second = stage.pool.getconn(), stage.pool.getconn()
        uninstrument("psycopg")
        assert stage.source.stats().state == "closed"
        stage.pool.putconn(first)
        source = observe(stage.pool)
        assert levels(source) == (1, 1, 0)
        stage.pool.putconn(second)
        assert levels(source) == (2, 0, 0)
        assert source.metrics.released == 0
        with stage.pool.connection():
            assert levels(source) == (1, 1, 0)
        assert source.metrics.released == 1


def test_a_closed_pool_with_connections_out_can_still_be_observed(postgres: PostgresServer) -> None:
    with unobserved(postgres) as pool:
        connection = pool.getconn()
        pool.close()
        source = observe(pool)
        assert levels(source) == (0, 1, 0)
        pool.putconn(connection)
        assert levels(source) == (0, 0, 0)
        assert source.state == "closed"


def _restorable() -> dict[tuple[type, str], Any]:
    owners = (
        SYNC,
        SYNC_NULL,
        ASYNC,
        ASYNC_NULL,
        pool.ReturnConnection,
        pool_async.ReturnConnection,
    )
    return {(owner, key): value for owner in owners for key, value in vars(owner).items()}


def test_all_is_put_back(postgres: PostgresServer) -> None:
    uninstrument("psycopg")
    before = _restorable()
    instrument("psycopg")
    assert _restorable() != before
    with sync_stage(postgres) as stage:
        stage.pool.putconn(stage.pool.getconn())
        state = {key for key in vars(stage.pool) if "poolscope" in key}
        assert state
        uninstrument("psycopg")
        assert not {key for key in vars(stage.pool) if "poolscope" in key}
    assert _restorable() == before


def test_a_pool_is_collected_as_before(postgres: PostgresServer) -> None:
    def lives_on() -> bool:
        pool = SYNC(postgres.dsn, min_size=1, open=True)
        pool.wait()
        with pool.connection():
            pass
        reference = weakref.ref(pool)
        del pool
        return reference() is not None

    gc.disable()
    try:
        uninstrument("psycopg")
        assert not lives_on()
        instrument("psycopg")
        assert not lives_on()
    finally:
        gc.enable()
    until(lambda: not postgres.clients())


def test_two_pools_of_one_server_have_names_of_their_own(postgres: PostgresServer) -> None:
    with sync_stage(postgres) as stage:
        other = observe(SYNC(postgres.dsn, open=False))
        where = f"127.0.0.1:{postgres.port}/postgres"
        assert [stage.source.name, other.name] == [where, f"{where}-2"]
        assert other.stats().idle == 0


def test_a_pool_is_observed_from_when_it_opens(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with ASYNC(postgres.dsn, min_size=0, max_size=1, name="tasks", open=False):
            assert registry.find("tasks")

    run(main())
    with SYNC(postgres.dsn, min_size=0, max_size=1, name="threads", open=False):
        assert registry.find("threads")


@pytest.mark.parametrize(
    ("conninfo", "options", "expected"),
    [
        ("", {"name": "orders"}, "orders"),
        ("", {"kwargs": {"application_name": "shop"}}, "shop"),
        ("application_name=shop host=db", {}, "shop"),
        ("host=db dbname=shop", {"name": "pool-7"}, "db:5432/shop"),
        ("host=db,other port=6432,6433 dbname=shop", {}, "db:6432/shop"),
        ("host=/run/postgresql dbname=shop", {}, "/run/postgresql/shop"),
        (f"postgresql://me:{CANARY}@[::1]/shop?sslpassword={CANARY}", {}, "[::1]:5432/shop"),
        ("host=db", {"kwargs": {"dbname": f"postgresql://me:{CANARY}@db/shop"}}, "db:5432"),
        ("host=db", {"kwargs": {"dbname": f"password={CANARY}"}}, "db:5432"),
        ("", {"kwargs": {"user": CANARY, "password": CANARY}}, "postgresql"),
        (f"this is {CANARY} and no conninfo", {}, "postgresql"),
    ],
)
def test_a_pool_is_called_what_its_application_says(
    conninfo: str, options: Any, expected: str
) -> None:
    source = observe(SYNC(conninfo, open=False, **options))
    assert source.name == expected
    assert CANARY not in f"{source} {source.target}"


def test_what_says_where_to_connect_is_not_called(postgres: PostgresServer) -> None:
    def conninfo() -> str:
        raise AssertionError("called")

    pool: Any = SYNC(conninfo, kwargs=conninfo, open=False)  # type: ignore[arg-type]
    assert observe(pool).name == "postgresql"


def test_no_secret_is_told(postgres: PostgresServer, caplog: pytest.LogCaptureFixture) -> None:
    told: list[e.Event] = []
    bad = make_conninfo(postgres.dsn, password=CANARY)
    with SYNC(bad, min_size=1, open=False) as pool:
        source = observe(pool)
        source.bus.subscribe(told.append)
        until(lambda: source.metrics.connect_failures)
        with pytest.raises(psycopg_pool.PoolTimeout):
            pool.getconn(0.01)
    assert (
        CANARY not in f"{told} {source} {source.stats()} {source.metrics.to_json()} {caplog.text}"
    )


def test_a_pool_without_a_limit_shows_none(postgres: PostgresServer) -> None:
    with sync_stage(postgres, SYNC_NULL, max_size=0) as stage:
        assert catalog.MAX.name in stage.source.omits
        with stage.pool.connection(), stage.pool.connection():
            assert stage.levels() == (0, 2, 0, 0)
        stage.pool.resize(0, 3)
        assert catalog.MAX.name not in stage.source.omits


def test_a_forked_child_counts_what_is_its_own(postgres: PostgresServer) -> None:
    with sync_stage(postgres, min_size=2) as stage, stage.pool.connection():
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            found = {"levels": stage.levels(), "acquired": stage.source.metrics.acquired}
            os.write(writable, json.dumps(found).encode())
            os._exit(0)
        os.close(writable)
        with open(readable) as file:
            found = json.load(file)
        os.waitpid(child, 0)
        assert found == {"levels": [0, 0, 0, 0], "acquired": 0}
        assert stage.levels() == (1, 1, 0, 0)
        stage.check()


def test_a_version_with_another_state_is_left_alone(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninstrument("psycopg")
    monkeypatch.setattr(LIBRARY, "_warned", False)
    with monkeypatch.context() as patch:
        patch.delattr(pool.ReturnConnection, "_run")
        patch.setattr(pool.ReturnConnection, "__abstractmethods__", frozenset())
        patch.delattr(pool.MaintenanceTask, "_run")
        assert instrument("psycopg") == []
    assert "differs from what poolscope knows" in caplog.text
    with SYNC(postgres.dsn, min_size=1, open=True) as other, other.connection() as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_errors_are_those_of_the_library(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with async_stage(postgres, max_size=1) as stage, stage.pool.connection():
            with pytest.raises(psycopg_pool.PoolTimeout) as caught:
                await stage.pool.getconn(0.01)
            assert caught.value.__suppress_context__
            assert caught.value.__cause__ is None

    run(main())
    with (
        sync_stage(postgres) as stage,
        pytest.raises(psycopg.errors.DivisionByZero),
        stage.pool.connection() as connection,
    ):
        connection.execute("select 1/0")
