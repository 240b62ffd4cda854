import asyncio
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from poolscope import events as e
from poolscope.events import AcquireSource, CloseReason, FailureReason
from poolscope.testing.postgres import PostgresServer
from tests.instrument.psycopg.stage import (
    ASYNC,
    ASYNC_NULL,
    async_stage,
    can_close_to_return,
    can_drain,
    counts,
    keeps_what_is_interrupted,
    kill,
)
from tests.support import run

BOTH = pytest.mark.parametrize("kind", [ASYNC, ASYNC_NULL])


@BOTH
def test_a_request_gets_a_connection_and_gives_it_back(postgres: PostgresServer, kind: Any) -> None:
    async def main() -> None:
        async with async_stage(postgres, kind) as stage:
            for _ in range(2):
                async with stage.pool.connection() as connection:
                    await connection.execute("select 1")
                    assert stage.levels() == (0, 1, 0, 0)
                    stage.check()
                stage.check()
            new = AcquireSource.NEW
            expected = [new, new if kind is ASYNC_NULL else AcquireSource.IDLE]
            assert [each.source for each in stage.of(e.ConnectionAcquired)] == expected
            assert stage.source.metrics.released == 2

    run(main())


@BOTH
def test_requests_wait_and_end_in_each_way(postgres: PostgresServer, kind: Any) -> None:
    async def main() -> None:
        async with async_stage(postgres, kind, max_size=1, max_waiting=3) as stage:
            pool = stage.pool
            first = await pool.getconn()
            late = asyncio.create_task(pool.getconn(timeout=0.05))
            given_up = asyncio.create_task(pool.getconn())
            served = asyncio.create_task(pool.getconn())
            await stage.will_come(0, 1, 0, 3)
            with pytest.raises(TooManyRequests):
                await pool.getconn()
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            with pytest.raises(PoolTimeout):
                await late
            assert stage.levels() == (0, 1, 0, 1)
            await pool.putconn(first)
            assert await served is first
            assert stage.failures() == {
                FailureReason.QUEUE_FULL: 1,
                FailureReason.CANCELLED: 1,
                FailureReason.TIMEOUT: 1,
            }
            assert stage.of(e.ConnectionAcquired)[-1].source is AcquireSource.HANDOFF
            stage.check()
            refused = asyncio.create_task(pool.getconn())
            await stage.will_come(0, 1, 0, 1)
            await pool.close()
            with pytest.raises(PoolClosed):
                await refused
            assert stage.failures()[FailureReason.CLOSED] == 1
            await pool.putconn(first)
            assert stage.reasons() == {CloseReason.POOL_CLOSED: 1}
            stage.check()
            assert type(stage.books.events[-1]) is e.PoolClosed

    run(main())


def test_one_that_comes_as_its_request_is_cancelled_is_not_lost(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with async_stage(postgres, max_size=1) as stage:
            for yields in range(8):
                connection = await stage.pool.getconn()
                task = asyncio.create_task(stage.pool.getconn())
                await stage.will_come(0, 1, 0, 1)
                await stage.pool.putconn(connection)
                for _ in range(yields):
                    await asyncio.sleep(0)
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await stage.pool.putconn(await task)
                await stage.will_come(1, 0, 0, 0)
                stage.check()

    run(main())


@keeps_what_is_interrupted
def test_a_null_pool_is_cancelled_while_it_connects(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with async_stage(postgres, ASYNC_NULL) as stage:
            task = asyncio.create_task(stage.pool.getconn())
            await stage.will_come(0, 0, 1, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert stage.failures() == {FailureReason.CANCELLED: 1}
            assert stage.levels() == (0, 0, 0, 0)
            stage.check()

    run(main())


@BOTH
def test_one_that_the_server_ended_is_broken(postgres: PostgresServer, kind: Any) -> None:
    async def main() -> None:
        async with async_stage(postgres, kind) as stage:
            with suppress(psycopg.OperationalError):
                async with stage.pool.connection() as connection:
                    kill(postgres, connection.info.backend_pid)
                    await connection.execute("select 1")
            assert stage.reasons() == {CloseReason.BROKEN: 1}
            await stage.will_come(0 if kind is ASYNC_NULL else 1, 0, 0, 0)
            stage.check()

    run(main())


def test_one_that_comes_back_within_a_query_is_dirty(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with async_stage(postgres) as stage:
            connection = await stage.pool.getconn()
            connection.pgconn.send_query(b"select 1")
            await stage.pool.putconn(connection)
            assert stage.reasons() == {CloseReason.DIRTY: 1}
            await stage.will_come(1, 0, 0, 0)
            stage.check()

    run(main())


def test_one_that_cannot_be_reset_is_closed_for_that(postgres: PostgresServer) -> None:
    async def reset(connection: Any) -> None:
        raise ValueError

    async def main() -> None:
        async with async_stage(postgres, reset=reset) as stage:
            await stage.pool.putconn(await stage.pool.getconn())
            await stage.will_come(1, 0, 0, 0)
            assert stage.reasons() == {CloseReason.RESET: 1}
            stage.check()

    run(main())


def test_one_that_does_not_pass_the_check_is_closed_for_that(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with async_stage(postgres, max_size=1, check=ASYNC.check_connection) as stage:
            kill(postgres)
            async with stage.pool.connection() as connection:
                await connection.execute("select 1")
            assert stage.reasons() == {CloseReason.VALIDATION: 1}
            assert counts(stage)["ConnectionRequested"] == 1
            stage.check()

    run(main())


@can_drain
def test_the_pool_closes_idle_ones_for_its_own_reasons(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with async_stage(postgres, min_size=2, max_idle=0.2) as stage:
            kill(postgres, postgres.clients()[0].id)
            await stage.pool.check()
            await stage.will_come(2, 0, 0, 0)
            assert stage.reasons() == {CloseReason.VALIDATION: 1}
            await stage.pool.drain()
            await stage.will_come(2, 0, 0, 0)
            assert stage.reasons()[CloseReason.STALE] == 2
            await stage.pool.resize(1, 2)
            await stage.will_come(1, 0, 0, 0)
            assert stage.reasons()[CloseReason.IDLE] == 1
            stage.check()
            await stage.pool.close()
            assert stage.reasons()[CloseReason.POOL_CLOSED] == 1

    run(main())


@can_close_to_return
def test_close_may_give_back(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with async_stage(postgres, close_returns=True) as stage:
            connection = await stage.pool.getconn()
            await connection.close()
            assert stage.levels() == (1, 0, 0, 0)
            assert stage.source.metrics.released == 1
            with pytest.raises(ValueError, match="doesn't come from any pool"):
                await stage.pool.putconn(connection)
            stage.check()

    run(main())


def test_methods_stay_what_they_are(postgres: PostgresServer) -> None:
    for kind in (ASYNC, ASYNC_NULL):
        for name in ("getconn", "putconn", "_connect", "check", "close", "resize"):
            assert asyncio.iscoroutinefunction(getattr(kind, name)), name
