"""Pools of aiomysql whose observation begins late, ends early, or outlives them."""

import asyncio
import gc
import logging
import os
import weakref
from inspect import iscoroutinefunction
from random import Random, SystemRandom
from typing import Any

import aiomysql
import pymysql
import pytest
from aiomysql.connection import Connection
from aiomysql.pool import Pool

from poolscope import instrument, registry
from poolscope.instrument import observe, uninstrument
from poolscope.telemetry import catalog
from poolscope.testing.mariadb import MariadbServer
from tests.instrument.aiomysql.stage import Stage, ask, number, options, stage
from tests.support import run


def replaced() -> dict[str, Any]:
    return {
        f"{kind.__name__}.{name}": it
        for kind in (Pool, Connection)
        for name, it in vars(kind).items()
    }


def test_everything_is_put_back(mariadb_server: MariadbServer) -> None:
    before = replaced()

    async def main() -> None:
        pool = await aiomysql.create_pool(**options(mariadb_server))
        source = observe(pool)
        changed = {name for name, it in replaced().items() if before.get(name) is not it}
        assert {"Pool._acquire", "Pool.release", "Connection.close"} < changed
        assert iscoroutinefunction(Pool._acquire)
        async with pool.acquire() as held:
            source.close()
            assert replaced() == before
            await ask(held, "select 1")
        assert not any("poolscope" in name for name in vars(pool))
        pool.close()
        await pool.wait_closed()

    run(main())


def test_who_comes_late_sees_what_there_is(mariadb_server: MariadbServer) -> None:
    async def main() -> None:
        pool = await aiomysql.create_pool(**options(mariadb_server, minsize=2, maxsize=2))
        held = await pool.acquire()
        other = await pool.acquire()
        waiting = asyncio.create_task(pool._acquire())
        await asyncio.sleep(0)
        on = Stage(pool, observe(pool, "late"), mariadb_server)
        assert on.levels() == (0, 2, 0, 0)
        await pool.release(other)
        assert await waiting is other
        await pool.release(other)
        assert on.levels() == (1, 1, 0, 0)
        assert on.kinds() == []
        async with pool.acquire():
            assert on.levels() == (0, 2, 0, 0)
        await pool.release(held)
        assert on.kinds() == ["ConnectionRequested", "ConnectionAcquired", "ConnectionReleased"]
        on.source.close()
        again = Stage(pool, observe(pool), mariadb_server)
        assert again.levels() == (2, 0, 0, 0)
        pool.close()
        await pool.wait_closed()
        assert again.kinds() == ["ConnectionClosed", "ConnectionClosed", "PoolClosed"]
        assert on.kinds() == ["PoolClosed"]

    run(main())


@pytest.mark.usefixtures("instrumented")
def test_two_pools_on_one_server_are_two(mariadb_server: MariadbServer) -> None:
    place = f"127.0.0.1:{mariadb_server.port}/poolscope"

    async def main() -> None:
        async with stage(mariadb_server) as first, stage(mariadb_server) as second:
            assert [first.source.name, second.source.name] == [place, f"{place}-2"]
            async with first.pool.acquire():
                assert first.levels() == (0, 1, 0, 0)
                assert second.levels() == (0, 0, 0, 0)
            assert second.kinds() == []
            named = await aiomysql.create_pool(
                **options(mariadb_server, minsize=0, maxsize=0, program_name="shop")
            )
            source = observe(named)
            assert source.name == "shop"
            assert {catalog.MAX.name, catalog.IDLE_MAX.name} < source.omits
            assert catalog.MAX.name not in first.source.omits
            named.close()
            await named.wait_closed()

    run(main())


@pytest.mark.usefixtures("instrumented")
def test_an_observed_pool_is_lost_as_any_other(mariadb_server: MariadbServer) -> None:
    async def main() -> None:
        pool = await aiomysql.create_pool(**options(mariadb_server))
        name, lost = observe(pool).name, weakref.ref(pool)
        async with pool.acquire():
            pass
        await pool.clear()
        gc.disable()
        try:
            del pool
            assert lost() is None
        finally:
            gc.enable()
        assert name not in [source.name for source in registry.live()]

    run(main())


@pytest.mark.usefixtures("instrumented")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_none_of_it(mariadb_server: MariadbServer) -> None:
    async def main() -> None:
        async with stage(mariadb_server, maxsize=3) as on:
            idle = await on.pool.acquire()
            async with on.pool.acquire():
                await on.pool.release(idle)
                connecting = asyncio.gather(on.pool.acquire(), on.pool.acquire())
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert on.levels() == (0, 2, 1, 1)
                if (child := os.fork()) == 0:
                    os._exit(on.levels() != (0, 0, 0, 0) or on.source.metrics.acquired)
                assert os.waitpid(child, 0)[1] == 0  # noqa: ASYNC222 - it ends at once
                for connection in await connecting:
                    await on.pool.release(connection)

    run(main())


def test_a_version_that_differs_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mariadb_server: MariadbServer
) -> None:
    monkeypatch.delattr(Connection, "ensure_closed")
    before = replaced()
    assert instrument("aiomysql") == []
    assert replaced() == before
    monkeypatch.undo()

    async def main() -> None:
        pool = await aiomysql.create_pool(**options(mariadb_server, minsize=0))
        cond = pool.__dict__.pop("_cond")
        with pytest.raises(RuntimeError, match="cannot be observed"):
            observe(pool)
        pool._cond = cond
        async with pool.acquire() as connection:
            assert await ask(connection, "select 1") == (1,)
        pool.close()
        await pool.wait_closed()

    run(main())
    uninstrument("aiomysql")
    warned = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) <= 1


SEED = int(os.environ.get("POOLSCOPE_SEED") or SystemRandom().getrandbits(32))


class Crowd:
    """Callers who use a pool at random, and are cut short at random."""

    def __init__(self, on: Stage, random: Random) -> None:
        self.on = on
        self.random = random

    def check(self) -> None:
        idle, in_use, _, waiting = self.on.levels()
        counts = self.on.source.metrics
        failed = sum(counts.failures.values())
        assert counts.connection_requests == counts.acquired + failed + waiting
        assert counts.acquired == counts.released + in_use
        assert counts.opened == sum(counts.closed.values()) + idle + in_use

    async def call(self) -> None:
        for _ in range(10):
            # aiomysql wakes nobody when a connection comes back in a transaction: none waits long.
            limit = self.random.expovariate(60) if self.random.random() < 0.5 else 0.25
            try:
                async with asyncio.timeout(limit), self.on.pool.acquire() as connection:
                    await self.use(connection)
            except (TimeoutError, pymysql.MySQLError):
                pass

    async def use(self, connection: Any) -> None:
        kind = self.random.random()
        if kind < 0.2:
            await connection.begin()
        elif kind < 0.3:
            await connection.kill(await number(connection))
        else:
            await ask(connection, f"select sleep({self.random.expovariate(200):.4f})")


@pytest.mark.usefixtures("instrumented")
# A connect that is cut short leaves its socket to the collector.
@pytest.mark.filterwarnings("ignore:Unclosed connection:ResourceWarning")
def test_the_numbers_are_those_of_the_server_whatever_is_cut_short(
    mariadb_server: MariadbServer,
) -> None:
    print(f"repeat with POOLSCOPE_SEED={SEED}")

    async def main() -> None:
        async with stage(mariadb_server, minsize=1, maxsize=4) as on:
            on.silence()
            crowd = Crowd(on, Random(SEED))
            for _ in range(2):
                async with asyncio.TaskGroup() as group:
                    callers = [group.create_task(crowd.call()) for _ in range(8)]
                    while not all(caller.done() for caller in callers):
                        crowd.check()
                        await asyncio.sleep(crowd.random.expovariate(200))
                crowd.check()
                assert on.levels() == (on.levels()[0], 0, 0, 0)
                gc.collect()  # with what connects that were cut short have left
                async with asyncio.timeout(10):
                    while len(mariadb_server.clients()) != on.levels()[0]:
                        async with on.pool.acquire():  # which finds what the server has closed
                            await asyncio.sleep(0.005)

    run(main())
