"""What concerns tasks and event loops alone."""

import asyncio
import gc
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only, greenlet_spawn

from poolscope import events as e
from poolscope import registry
from poolscope.errors import WrongLoopError
from poolscope.sqlalchemy import AsyncObservedPool
from poolscope.testing.postgres import PostgresServer
from tests.sqlalchemy.stage import Stage
from tests.support import run


@pytest.fixture
def sqlite(tmp_path: Path) -> Stage:
    return Stage("sqlite+aiosqlite", f"sqlite:///{tmp_path}/shop.db")


async def ask(engine: AsyncEngine) -> object:
    async with engine.connect() as lent:
        return await lent.scalar(text("select 1"))


def test_tasks_are_served_in_the_order_of_their_coming(sqlite: Stage) -> None:
    served: list[int] = []

    async def main() -> None:
        engine = sqlite.engine(pool_size=1, max_overflow=0)

        async def come(number: int) -> None:
            async with engine.connect():
                served.append(number)

        async with engine.connect():
            tasks = [asyncio.create_task(come(number)) for number in range(8)]
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
        await engine.dispose()

    with sqlite.watched():
        run(main())
    assert served == list(range(8))


def test_a_task_cancelled_while_it_waits_takes_nothing_with_it(sqlite: Stage) -> None:
    async def main() -> None:
        engine = sqlite.engine(pool_size=1, max_overflow=0)
        async with engine.connect():
            task = asyncio.create_task(ask(engine))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert await ask(engine) == 1
        await engine.dispose()

    with sqlite.watched():
        run(main())
    (failed,) = sqlite.of(e.AcquireFailed)
    assert failed.reason is e.FailureReason.CANCELLED


def test_tasks_that_wait_at_dispose_go_on_with_the_next_pool(sqlite: Stage) -> None:
    async def main() -> None:
        engine = sqlite.engine(pool_size=1, max_overflow=0, name="shop")
        async with engine.connect():
            task = asyncio.create_task(ask(engine))
            await asyncio.sleep(0.01)
            await engine.dispose()
            assert await task == 1
        await engine.dispose()

    with sqlite.watched():
        run(main())


@pytest.mark.servers
@pytest.mark.parametrize("disposes", [True, False])
def test_an_engine_serves_one_loop_after_the_other(
    postgres: PostgresServer, disposes: bool
) -> None:
    stage = Stage("postgresql+asyncpg", postgres.url, postgres)
    engine = stage.engine(name="shop")

    async def main() -> None:
        assert await ask(engine) == 1
        if disposes:
            await engine.dispose()

    with stage.watched():
        for _ in range(3):
            run(main())
        engine.sync_engine.dispose()
    assert {each.pool for each in stage.events} == {"shop"}
    assert stage.reasons() == [e.CloseReason.POOL_CLOSED] * 3


def test_an_engine_used_on_two_loops_at_a_time_is_refused_with_the_remedy(sqlite: Stage) -> None:
    async def main() -> None:
        engine = sqlite.engine()
        await ask(engine)
        with pytest.raises(WrongLoopError, match="one pool per loop"):
            await asyncio.to_thread(asyncio.run, ask(engine))
        await engine.dispose()

    with sqlite.watched():
        run(main())


def test_a_pool_that_is_lost_says_nothing_and_gives_its_name_back() -> None:
    async def main() -> None:
        pool = AsyncObservedPool(Mock, name="lost")
        lent = await greenlet_spawn(pool.connect)
        await greenlet_spawn(lent.close)
        assert registry.find("lost") is not None
        del pool, lent
        gc.collect()
        assert registry.find("lost") is None

    run(main())


def test_each_task_that_cannot_connect_is_told_by_its_own_attempt() -> None:
    attempts: list[object] = []

    def connect() -> Mock:
        attempts.append(None)
        await_only(asyncio.sleep(0.01))
        if len(attempts) == 1:
            return Mock()
        raise ConnectionRefusedError

    async def main() -> None:
        pool = AsyncObservedPool(connect, pool_size=1, max_overflow=9)
        lent = await greenlet_spawn(pool.connect)
        asking = (greenlet_spawn(pool.connect) for _ in range(5))
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(each) for each in answers] == [ConnectionRefusedError] * 5
        await greenlet_spawn(lent.close)
        await greenlet_spawn(pool.dispose)

    run(main())
    assert len(attempts) == 6


@pytest.mark.servers
def test_a_ping_that_is_never_answered_takes_no_longer_than_it_may(
    postgres: PostgresServer,
) -> None:
    stage = Stage("postgresql+asyncpg", postgres.url, postgres)

    async def main() -> None:
        engine = stage.engine(pool_pre_ping=True, validate_timeout=0.2)
        assert await ask(engine) == 1
        postgres.pause()
        try:
            asking = asyncio.create_task(ask(engine))
            await asyncio.sleep(0.5)
        finally:
            postgres.resume()
        assert await asking == 1
        await engine.dispose()

    with stage.watched():
        run(main())
    reasons: list[Any] = stage.reasons()
    assert reasons == [e.CloseReason.VALIDATION, e.CloseReason.POOL_CLOSED]
