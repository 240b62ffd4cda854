"""Pools of asyncpg that are met late, left early, forked, lost, or of an unknown version."""

import asyncio
import gc
import inspect
import logging
import os
import traceback
import weakref
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from asyncpg.pool import Pool, PoolConnectionHolder

from poolscope import instrument, registry
from poolscope.events import Event, FailureReason, PoolClosed
from poolscope.instrument import ForeignPool, observe, uninstrument
from poolscope.instrument.asyncpg import source as private
from poolscope.target import Target
from poolscope.telemetry import catalog
from poolscope.testing.postgres import PostgresServer
from tests.instrument.asyncpg.conftest import KINDS
from tests.instrument.asyncpg.stage import KEEPS_FLOOR, new_pool, stage, until
from tests.support import run

instrumented = pytest.mark.usefixtures("instrumented")


def only() -> ForeignPool:
    (source,) = registry.live()
    assert isinstance(source, ForeignPool)
    return source


def levels(source: ForeignPool) -> tuple[int, int, int]:
    stats = source.stats()
    return stats.idle, stats.in_use, stats.waiting


def test_a_pool_that_is_met_late_is_right_from_the_first_reading(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with new_pool(postgres, min_size=2) as pool:
            one, two = await pool.acquire(), await pool.acquire()
            waiters = [asyncio.create_task(pool.fetchval("select 1")) for _ in range(2)]
            await asyncio.sleep(0)
            instrument("asyncpg")
            source = only()
            assert levels(source) == (0, 2, 2)
            await pool.release(one)
            assert [await waiter for waiter in waiters] == [1, 1]
            assert levels(source) == (1, 1, 0)
            assert source.metrics.use.count == 0, "nobody knows when they were lent"
            await two.close()
            assert source.metrics.to_dict()["closed"] == {"broken": 1}
            await pool.fetchval("select 1")
            assert (source.metrics.wait.count, source.metrics.use.count) == (1, 1)
            await pool.close()
            assert source.state == "closed"
            assert source.metrics.to_dict()["closed"]["pool_closed"] >= 1

    try:
        run(main())
    finally:
        uninstrument("asyncpg")


def test_a_pool_is_left_with_connections_out_and_callers_in_line(postgres: PostgresServer) -> None:
    before = [list(vars(kind).items()) for kind in KINDS]

    async def main() -> None:
        async with new_pool(postgres, max_size=1) as pool:
            source = observe(pool)
            events: list[Event] = []
            source.bus.subscribe(events.append)
            connection = await pool.acquire()
            waiting = asyncio.create_task(pool._acquire(None))
            refused = asyncio.create_task(pool._acquire(0.1))
            await until(lambda: source.stats().waiting == 2)
            uninstrument("asyncpg")
            assert [list(vars(kind).items()) for kind in KINDS] == before
            assert type(pool._holders) is list
            with pytest.raises(TimeoutError):
                await refused
            await pool.release(connection)
            await pool.release(await waiting)
            assert await pool.fetchval("select 1") == 1
            assert type(events[-1]) is PoolClosed
            again = observe(pool)
            assert levels(again) == (1, 0, 0)
            await pool.fetchval("select 1")
            assert again.metrics.use.count == 1

    try:
        run(main())
    finally:
        uninstrument("asyncpg")
    assert [list(vars(kind).items()) for kind in KINDS] == before


@instrumented
def test_a_closed_handle_leaves_its_pool_alone(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with new_pool(postgres) as pool:
            connection = await pool.acquire()
            source = only()
            assert observe(pool) is source
            source.close()
            await pool.release(connection)
            await pool.fetchval("select 1")
            assert registry.live() == []
            assert source.metrics.use.count == 0
            assert observe(pool) is not source

    run(main())


@instrumented
def test_pools_are_named_without_secrets_and_told_apart(postgres: PostgresServer) -> None:
    async def main() -> None:
        address = f"127.0.0.1:{postgres.port}/postgres"
        settings = {"application_name": "shop"}
        async with (
            new_pool(postgres) as one,
            new_pool(postgres) as two,
            new_pool(postgres, server_settings=settings) as three,
            new_pool(postgres) as four,
        ):
            named = [observe(one), observe(two), observe(three), observe(four, "known already")]
            names = [source.name for source in named]
            assert names == [address, f"{address}-2", "shop", f"{address}-3"]
            never_used = asyncpg.create_pool(postgres.dsn)
            assert observe(never_used, "given").name == "given"
            assert named[0].target == named[1].target
            assert named[0].target == Target.from_url(postgres.dsn)

    run(main())


@pytest.mark.parametrize(
    ("dsn", "options", "target"),
    [
        ("postgres://u:canary@h:1/d", {}, ("h", 1, "d")),
        ("postgres://u:canary@h:1/d", {"host": "o", "port": 2, "database": "e"}, ("o", 2, "e")),
        (None, {"host": ["a", "b"], "port": [3, 4], "password": "canary"}, ("a", 3, None)),
        (None, {"host": "/run/pg", "port": 5}, ("/run/pg", 5, None)),
        ("postgres://u:can/ary@h:1/d", {}, ("e", 6, None)),
        ("service=canary", {"host": "h", "port": "canary"}, ("h", 5432, None)),
        (None, {"database": "d"}, ("e", 6, "d")),
    ],
)
def test_a_target_comes_from_options_then_from_the_dsn(
    dsn: str | None,
    options: dict[str, Any],
    target: tuple[Any, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGHOST", "e,f")
    monkeypatch.setenv("PGPORT", "6,7")
    monkeypatch.delenv("PGDATABASE", raising=False)

    async def main() -> None:
        pool = asyncpg.create_pool(dsn, **options)
        source = observe(pool)
        found = source.target
        assert found is not None
        assert (found.address, found.port, found.namespace) == target
        assert "canary" not in f"{source!r} {source.name} {found}"

    try:
        run(main())
    finally:
        uninstrument("asyncpg")


@instrumented
def test_no_secret_is_in_what_is_told(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "poolscope")

    async def main() -> None:
        secrets = {"user": "canary_user", "password": "canary_word"}
        async with stage(postgres, **secrets) as on:
            with pytest.raises(asyncpg.PostgresError):
                await on.pool.acquire()
            told = [repr(on.source), on.source.metrics.to_json(), *map(repr, on.books.events)]
            assert on.failures() == [FailureReason.CONNECT_FAILED]
            assert "canary" not in "\n".join([*told, caplog.text])

    run(main())


@instrumented
def test_what_asyncpg_cannot_tell_is_not_shown(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres) as on:
            omitted = {catalog.LEAKS.name, catalog.ACQUIRE_TIMEOUT.name}
            if not KEEPS_FLOOR:
                omitted.add(catalog.IDLE_MIN.name)
            assert on.source.omits == omitted
            stats = on.source.stats()
            assert (stats.max_size, stats.max_idle) == (2, 2)

    run(main())


class Canary:
    """Part of a pool: it goes when the pool goes."""

    async def __call__(self, connection: Any) -> None: ...


@instrumented
def test_an_observed_pool_is_lost_without_a_collection(postgres: PostgresServer) -> None:
    async def main() -> None:
        canary = Canary()
        pool = new_pool(postgres, init=canary)
        source, gone = observe(pool), weakref.ref(canary)
        gc.disable()
        try:
            del canary, pool
            assert gone() is None
            assert source.state == "closed"
        finally:
            gc.enable()

    run(main())


@instrumented
def test_a_used_pool_is_lost_with_a_collection_as_ever(postgres: PostgresServer) -> None:
    async def main() -> weakref.ref[Canary]:
        canary = Canary()
        async with new_pool(postgres, init=canary) as pool:
            await pool.fetchval("select 1")
        return weakref.ref(canary)

    gone = run(main())
    gc.collect()
    assert gone() is None
    assert registry.live() == []


@instrumented
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_event_loop_that_is_closed_with_connections_out_harms_nobody(
    postgres: PostgresServer,
) -> None:
    async def main() -> Any:
        pool = await new_pool(postgres, min_size=2)
        await pool.acquire()
        return pool

    pool = asyncio.run(main())
    source = only()
    assert levels(source) == (1, 1, 0)
    with suppress(RuntimeError):
        pool.terminate()
    assert "canary" not in repr(source)
    del pool
    gc.collect()
    assert registry.live() == []
    assert source.stats().state == "closed"


@instrumented
def test_a_forked_child_counts_nothing_of_its_parent(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with new_pool(postgres, min_size=1, max_size=2) as pool:
            connection = await pool.acquire()
            idle = await pool.acquire()
            await pool.release(idle)
            source = only()
            assert levels(source) == (1, 1, 0)
            assert in_child(lambda: (*levels(source), source.metrics.opened)) == (0, 0, 0, 0)
            assert levels(source) == (1, 1, 0)
            await pool.release(connection)

    run(main())


def in_child(ask: Any) -> Any:
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writing, repr(ask()).encode())
        except BaseException:
            os.write(writing, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    answer = os.read(reading, 10_000).decode()
    os.close(reading)
    os.close(writing)
    return eval(answer)  # of our own child


def test_what_is_replaced_looks_as_before() -> None:
    before = [inspect.signature(Pool.close), inspect.signature(PoolConnectionHolder.connect)]
    instrument("asyncpg")
    try:
        assert inspect.iscoroutinefunction(Pool.close)
        assert inspect.iscoroutinefunction(PoolConnectionHolder.connect)
        assert not inspect.iscoroutinefunction(Pool.terminate)
        after = [inspect.signature(Pool.close), inspect.signature(PoolConnectionHolder.connect)]
        assert after == before
        assert Pool.close.__doc__ is not None
    finally:
        uninstrument("asyncpg")


def test_errors_are_those_that_the_pool_raised(postgres: PostgresServer) -> None:
    error = LookupError("mine")

    async def refuse(connection: Any) -> None:
        raise error

    async def main() -> list[str]:
        async with new_pool(postgres, setup=refuse) as pool:
            with pytest.raises(LookupError) as caught:
                await pool.acquire()
            assert caught.value is error
            error.__traceback__ = None
            return [frame.name for frame in traceback.extract_tb(caught.tb)]

    plain = run(main())
    instrument("asyncpg")
    try:
        seen = run(main())
    finally:
        uninstrument("asyncpg")
    assert [name for name in seen if name != "acquire"] == [n for n in plain if n != "acquire"]
    assert len(seen) == len(plain) + 1


def test_a_version_that_differs_is_left_alone_with_one_line_in_the_log(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(private._READ, "Pool", "_holders _no_longer_there")
    before = dict(vars(Pool))

    async def main() -> None:
        async with new_pool(postgres) as pool:
            instrument("asyncpg")
            with pytest.raises(RuntimeError, match="cannot be observed"):
                observe(pool)
            assert await pool.fetchval("select 1") == 1

    try:
        run(main())
    finally:
        uninstrument("asyncpg")
        monkeypatch.setattr(private, "_READ", private._READ)
    assert dict(vars(Pool)) == before
    warnings = [each for each in caplog.records if each.levelno == logging.WARNING]
    (line,) = [each.getMessage() for each in warnings if each.name == "poolscope"]
    assert line.startswith("pools of asyncpg ")
