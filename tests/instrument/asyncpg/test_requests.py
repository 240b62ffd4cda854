"""Requests of asyncpg's pools and their outcomes."""

import asyncio
import random
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from poolscope.events import (
    AcquireSource,
    AcquireTimedOut,
    CloseReason,
    ConnectFailed,
    ConnectFault,
    ConnectionAcquired,
    ConnectionClosed,
    ConnectStarted,
    FailureReason,
)
from poolscope.instrument import observe
from poolscope.testing.postgres import PostgresServer
from poolscope.testing.server import free_port
from tests.instrument.asyncpg.stage import OPENING, Stage, new_pool, stage, until
from tests.support import run

pytestmark = pytest.mark.usefixtures("instrumented")

LEASE = ["ConnectionRequested", "ConnectionAcquired", "ConnectionReleased"]


def test_a_cycle_is_a_request_a_connect_and_a_lease(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres) as on:
            async with on.pool.acquire() as connection:
                assert on.levels() == (0, 1, 0, 0)
                assert await connection.fetchval("select 1") == 1
            assert on.kinds() == [*OPENING, "ConnectionAcquired", "ConnectionReleased"]
            assert on.levels() == (1, 0, 0, 0)

    run(main())


def test_each_way_to_a_connection_is_a_request(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres, min_size=1) as on:
            assert on.kinds() == ["ConnectStarted", "ConnectionOpened"]
            connection = await on.pool.acquire()
            assert await on.pool.release(connection) is None
            assert await on.pool.release(connection) is None, "again, which does nothing"
            assert await on.pool.fetchval("select 1") == 1
            assert await on.pool.execute("select 1") == "SELECT 1"
            timed = await on.pool.acquire(timeout=5)
            await on.pool.release(timed)
            assert on.kinds() == LEASE * 4
            sources = [event.source for event in on.of(ConnectionAcquired)]
            assert sources == [AcquireSource.NEW] + [AcquireSource.IDLE] * 3

    run(main())


def test_who_waits_for_a_release_is_handed_the_connection(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres, max_size=1) as on:
            connection = await on.pool.acquire()
            on.kinds()
            waiting = asyncio.create_task(on.pool._acquire(None))
            await on.comes((0, 1, 0, 1))
            assert on.kinds() == ["ConnectionRequested", "RequestQueued", "SaturationStarted"]
            on.check()
            await on.pool.release(connection)
            handed = await waiting
            assert on.kinds() == ["ConnectionReleased", "SaturationEnded", "ConnectionAcquired"]
            assert on.of(ConnectionAcquired)[-1].source is AcquireSource.HANDOFF
            await on.pool.release(handed)

    run(main())


def test_a_deadline_that_passes_is_a_timeout_with_no_cause(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres, max_size=1) as on, on.pool.acquire():
            with pytest.raises(TimeoutError):
                await on.pool.acquire(timeout=0.02)
            (timed_out,) = on.of(AcquireTimedOut)
            assert timed_out.error is None
            assert timed_out.wait >= 0.02
            assert timed_out.stats.in_use == 1
            assert on.source.metrics.connection_timeouts == 1

    run(main())


def test_a_refused_connect_fails_its_request(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres, host="127.0.0.1", port=free_port()) as on:
            with pytest.raises(OSError, match="Connect call failed"):
                await on.pool.acquire(timeout=5)
            assert on.kinds() == [*OPENING[:3], "ConnectFailed", "AcquireFailed"]
            assert [event.fault for event in on.of(ConnectFailed)] == [ConnectFault.REFUSED]
            assert on.failures() == [FailureReason.CONNECT_FAILED]
            (started,), requests = on.of(ConnectStarted), on.books.requests
            assert started.request_id > 0
            assert not requests

    run(main())


def test_a_wrong_password_is_a_failure_to_connect(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres, password="no such canary") as on:
            with pytest.raises(asyncpg.InvalidPasswordError):
                await on.pool.acquire()
            assert [event.fault for event in on.of(ConnectFailed)] == [ConnectFault.AUTH]
            assert on.failures() == [FailureReason.CONNECT_FAILED]

    run(main())


def test_a_connect_that_times_out_is_no_timeout_of_the_acquire(postgres: PostgresServer) -> None:
    async def refuse(connection: Any) -> None:
        raise TimeoutError("of its own")

    async def main() -> None:
        async with stage(postgres, init=refuse) as on:
            with pytest.raises(TimeoutError, match="of its own"):
                await on.pool.acquire(timeout=5)
            assert [event.fault for event in on.of(ConnectFailed)] == [ConnectFault.TIMEOUT]
            assert on.failures() == [FailureReason.CONNECT_FAILED]

    run(main())


class Unfit(Exception):
    pass


def test_a_setup_that_fails_closes_the_connection(postgres: PostgresServer) -> None:
    async def refuse(connection: Any) -> None:
        raise Unfit

    async def main() -> None:
        async with stage(postgres, setup=refuse) as on:
            with pytest.raises(Unfit):
                await on.pool.acquire()
            assert on.kinds() == [*OPENING, "ConnectionClosed", "AcquireFailed"]
            assert on.closed() == [CloseReason.VALIDATION]
            assert on.failures() == [FailureReason.VALIDATION_FAILED]

    run(main())


def test_a_setup_that_times_out_is_no_timeout_of_the_acquire(postgres: PostgresServer) -> None:
    async def refuse(connection: Any) -> None:
        raise TimeoutError("of its own")

    async def main() -> None:
        async with stage(postgres, setup=refuse) as on:
            with pytest.raises(TimeoutError, match="of its own"):
                await on.pool.acquire()
            assert on.failures() == [FailureReason.VALIDATION_FAILED]

    run(main())


def test_who_gives_up_while_waiting_is_cancelled(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres, max_size=1) as on, on.pool.acquire():
            for deadline in (None, 5):
                waiting = asyncio.create_task(on.pool._acquire(deadline))
                await on.comes((0, 1, 0, 1))
                await cancel(waiting)
                assert on.levels() == (0, 1, 0, 0)
            assert on.failures() == [FailureReason.CANCELLED] * 2

    run(main())


def test_who_gives_up_during_a_connect_is_cancelled(postgres: PostgresServer) -> None:
    reached = asyncio.Event()

    async def linger(connection: Any) -> None:
        reached.set()
        await asyncio.sleep(60)

    async def main() -> None:
        async with stage(postgres, init=linger) as on:
            waiting = asyncio.create_task(on.pool._acquire(None))
            await reached.wait()
            assert on.levels() == (0, 0, 1, 1)
            await cancel(waiting)
            assert on.levels() == (0, 0, 0, 0)
            assert on.failures() == [FailureReason.CANCELLED]
            assert [event.fault for event in on.of(ConnectFailed)] == [ConnectFault.ABANDONED]

    run(main())


def test_who_gives_up_during_setup_leaves_a_dirty_connection(postgres: PostgresServer) -> None:
    reached = asyncio.Event()

    async def linger(connection: Any) -> None:
        reached.set()
        await asyncio.sleep(60)

    async def main() -> None:
        async with stage(postgres, setup=linger) as on:
            waiting = asyncio.create_task(on.pool._acquire(None))
            await reached.wait()
            await cancel(waiting)
            assert on.failures() == [FailureReason.CANCELLED]
            assert on.closed() == [CloseReason.DIRTY]

    run(main())


def test_a_task_that_is_cancelled_before_it_begins_asks_for_nothing(
    postgres: PostgresServer,
) -> None:
    async def main() -> None:
        async with stage(postgres) as on:
            await cancel(asyncio.create_task(on.pool._acquire(None)))
            assert on.kinds() == []

    run(main())


def test_a_closed_pool_and_one_not_yet_open_refuse(postgres: PostgresServer) -> None:
    async def main() -> None:
        pool = new_pool(postgres, max_size=1)
        on = Stage(pool, observe(pool))
        assert on.source.stats().state == "new"
        with pytest.raises(asyncpg.InterfaceError, match="not initialized"):
            await pool.acquire()
        await pool
        connection = await pool.acquire()
        closing = asyncio.create_task(pool.close())
        await until(pool.is_closing)
        assert on.source.stats().state == "closing"
        with pytest.raises(asyncpg.InterfaceError, match="closing"):
            await pool.acquire()
        await pool.release(connection)
        await closing
        assert on.failures() == [FailureReason.CLOSED] * 2
        assert on.kinds()[-3:] == ["ConnectionReleased", "ConnectionClosed", "PoolClosed"]
        assert on.closed() == [CloseReason.POOL_CLOSED]
        on.books.check(on.source.stats())
        with pytest.raises(asyncpg.InterfaceError, match="closed"):
            await pool.acquire()
        assert on.kinds() == []

    run(main())


@pytest.mark.parametrize("seed", [random.SystemRandom().getrandbits(32) for _ in range(3)])
def test_the_laws_hold_whenever_callers_give_up(postgres: PostgresServer, seed: int) -> None:
    rng = random.Random(seed)
    print(f"{seed=}")

    async def use(on: Stage) -> None:
        with suppress(TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError):
            async with on.pool.acquire(timeout=rng.choice([None, 0.001, 0.01, 1])) as connection:
                await connection.execute(f"select pg_sleep({rng.random() / 100})")

    async def main() -> None:
        # When a release is cancelled, asyncpg goes on with it, and nobody hears of its failure.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with stage(postgres, max_size=3, max_queries=12) as on:
            for _ in range(15):
                users = [asyncio.create_task(use(on)) for _ in range(rng.randrange(1, 9))]
                for user in users:
                    await asyncio.sleep(rng.random() * 0.008)
                    if rng.random() < 0.5:
                        user.cancel()
                    if rng.random() < 0.1:
                        await on.pool.expire_connections()
                    on.check()
                await asyncio.wait(users)
                for user in users:
                    if not user.cancelled():
                        user.result()
            await until(lambda: on.source.stats().in_use == 0)
            assert not on.books.requests
        assert not on.books.open
        assert on.of(ConnectionClosed)

    run(main())


async def cancel(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
