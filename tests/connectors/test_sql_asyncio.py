"""Databases under asyncio: real servers, and the server's own view of what happened."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiomysql
import pytest

from poolscope.connectors import Recipe, for_asyncio
from poolscope.errors import ConnectFailedError, PoolTimeoutError
from poolscope.events import CloseReason, ConnectionClosed, ConnectionOpened
from poolscope.faults import classify
from poolscope.opening import create_pool
from poolscope.pool import ConnectionPool
from poolscope.reasons import ConnectFault
from tests.connectors.kinds import (
    ASYNC_FILES,
    IN_LOOP,
    OFF_LOOP,
    TABLE,
    Kind,
    Place,
    count,
    find,
    parameters,
    settled,
)
from tests.support import run

SERVERS = (*IN_LOOP, *OFF_LOOP)
CANARY = "can" + "ary"


@pytest.fixture
def place(kind: Kind, request: pytest.FixtureRequest, tmp_path: Any) -> Place:
    return find(kind, request, tmp_path)


class Watched:
    """A pool of one connection, and the reasons for which connections were closed."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self.pool = pool
        self.closed: list[CloseReason] = []
        self.opened = 1
        pool.bus.subscribe(lambda event: self.closed.append(event.reason), ConnectionClosed)
        pool.bus.subscribe(self._count, ConnectionOpened)

    def _count(self, _: object) -> None:
        self.opened += 1


@asynccontextmanager
async def watched(place: Place, **settings: Any) -> AsyncIterator[Watched]:
    before = await count(place.server)
    pool = await create_pool(place.url, max_size=1, **settings)
    async with pool:
        yield Watched(pool)
    await settled(place.server, before)


@pytest.mark.parametrize("kind", parameters(*SERVERS, *ASYNC_FILES))
def test_a_pool_is_open_and_works(place):
    async def main() -> None:
        async with watched(place) as w:
            assert w.pool.stats().idle == 1
            for _ in range(3):
                async with w.pool.connection() as connection:
                    assert await place.kind.run(connection, "select 40 + 2") == 42
            assert (w.closed, w.opened) == ([], 1)

    run(main())


@pytest.mark.parametrize("kind", parameters(*SERVERS))
def test_a_connection_the_server_killed_while_it_was_idle_is_not_lent(place):
    async def main() -> None:
        async with watched(place) as w:
            async with w.pool.connection() as connection:
                first = await place.kind.run(connection, place.session)
            await asyncio.to_thread(place.disconnect, first)
            async with w.pool.connection() as connection:
                assert await place.kind.run(connection, place.session) != first
            assert w.closed == [CloseReason.VALIDATION]

    run(main())


@pytest.mark.parametrize("kind", parameters(*SERVERS))
def test_a_connection_the_server_killed_in_use_is_not_lent_again(place):
    async def main() -> None:
        async with watched(place, validate_on_acquire=False) as w:
            async with w.pool.connection() as connection:
                first = await place.kind.run(connection, place.session)
                await asyncio.to_thread(place.disconnect, first)
                with pytest.raises(Exception) as lost:  # noqa: PT011 - each driver has its own
                    await place.kind.run(connection, "select 1")
            assert not isinstance(lost.value, AssertionError)
            async with w.pool.connection() as connection:
                assert await place.kind.run(connection, place.session) != first
            assert w.closed == [CloseReason.RESET]

    run(main())


@pytest.mark.parametrize("kind", parameters(*SERVERS, *ASYNC_FILES))
def test_a_transaction_left_open_is_rolled_back(place):
    async def main() -> None:
        keep_quiet()
        ask = place.kind.run
        async with watched(place) as w:
            async with w.pool.connection() as connection:
                await ask(connection, TABLE)
                if place.url.startswith("postgresql://"):
                    await ask(connection, "begin")
                elif place.url.startswith("postgresql"):
                    await connection.commit()
                await ask(connection, "insert into things values (1)")
                assert await ask(connection, "select count(*) from things") == 1
            async with w.pool.connection() as connection:
                assert await ask(connection, "select count(*) from things") == 0
            assert (w.closed, w.opened) == ([], 1)
            async with w.pool.connection() as connection:
                await ask(connection, "drop table things")

    run(main())


@pytest.mark.parametrize("kind", parameters(*IN_LOOP))
def test_the_reply_to_a_cancelled_command_never_reaches_the_next_borrower(place):
    async def main() -> None:
        async with watched(place) as w:
            for number in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05), w.pool.connection() as connection:
                        await place.kind.run(connection, place.sleep)
                async with w.pool.connection() as connection:
                    question = f"select {number} + 40"
                    assert await place.kind.run(connection, question) == number + 40

    run(main())


@pytest.mark.filterwarnings("ignore:Previous unbuffered result")
@pytest.mark.parametrize("kind", parameters(IN_LOOP[1]))
def test_a_connection_with_rows_unread_is_not_lent_again(place):
    async def main() -> None:
        async with watched(place) as w:
            async with w.pool.connection() as connection:
                cursor = await connection.cursor(aiomysql.SSCursor)
                await cursor.execute("select 1 union select 2")
            async with w.pool.connection() as connection:
                assert await place.kind.run(connection, "select 42") == 42
            assert w.closed == [CloseReason.RESET]

    run(main())


@pytest.mark.parametrize("kind", parameters(*SERVERS))
def test_a_wrong_password_is_told_as_such_and_not_repeated(place):
    user, host = place.url.partition("://")[2].split("@")
    url = f"{place.kind.scheme}://{user.partition(':')[0]}:{CANARY}@{host}"

    async def main() -> None:
        with pytest.raises(ConnectFailedError) as failed:
            await create_pool(url, retry_limit=0)
        assert failed.value.__cause__ is not None
        assert classify(failed.value.__cause__) is ConnectFault.AUTH
        assert CANARY not in str(failed.value)

    run(main())


@pytest.mark.parametrize("kind", parameters(*SERVERS))
def test_a_check_that_waits_for_a_server_that_hangs_is_cut_short(place):
    async def main() -> None:
        async with watched(place, acquire_timeout=0.5, validate_timeout=0.2) as w:
            place.server.pause()
            try:
                began = time.monotonic()
                with pytest.raises(PoolTimeoutError):
                    await w.pool.acquire()
                assert time.monotonic() - began < 2.0
                assert w.closed == [CloseReason.VALIDATION]
            finally:
                place.server.resume()
            async with w.pool.connection(timeout=10) as connection:
                assert await place.kind.run(connection, "select 42") == 42

    run(main())


@pytest.mark.parametrize("kind", parameters(*IN_LOOP))
def test_a_cancelled_connect_leaves_no_connection(place):
    async def main() -> None:
        keep_quiet()
        before = await count(place.server)
        recipe = for_asyncio(place.url)
        for steps in range(12):
            await connect_and_cancel(recipe, steps)
        await settled(place.server, before)

    run(main())


async def connect_and_cancel(recipe: Recipe, steps: int) -> None:
    connecting = asyncio.ensure_future(recipe.factory())
    for _ in range(steps):
        await asyncio.sleep(0)
    connecting.cancel()
    with suppress(asyncio.CancelledError):
        await recipe.close_func(await connecting)


def keep_quiet() -> None:
    """Let asyncpg complain to nobody: of a cancelled connect, and of a transaction left open."""
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
