"""Connections dropped at once, where there is no time for a goodbye or nobody to hear it."""

import asyncio
import threading
import time
from typing import Any

import pytest

from poolscope.connectors import for_asyncio, for_threads
from poolscope.functions import Functions
from poolscope.opening import create_pool, create_sync_pool
from poolscope.pool import ConnectionPool
from tests.connectors.kinds import (
    ASYNC_FILES,
    IN_LOOP,
    OFF_LOOP,
    SYNC_FILES,
    SYNC_SERVERS,
    Kind,
    Place,
    count,
    find,
    parameters,
    settled,
)
from tests.support import run

ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n"


@pytest.fixture
def place(kind: Kind, request: pytest.FixtureRequest, tmp_path: Any) -> Place:
    return find(kind, request, tmp_path)


@pytest.mark.parametrize("kind", parameters(*SYNC_SERVERS, *SYNC_FILES))
def test_a_thread_that_waits_in_a_dropped_connection_waits_no_more(place):
    recipe = for_threads(place.url)
    connection = recipe.factory()
    session = place.server and place.kind.run(connection, place.session)
    asking, heard = threading.Event(), []

    def wait() -> None:
        asking.set()
        try:
            heard.append(place.kind.run(connection, place.sleep if place.server else ENDLESS))
        except Exception as error:
            heard.append(error)

    holder = threading.Thread(target=wait)
    holder.start()
    asking.wait()
    while not heard:  # it may not have begun to wait when it is interrupted
        dropped(recipe, connection)
        holder.join(0.05)
    assert isinstance(heard[0], Exception)
    if place.server:
        place.disconnect(session)  # PostgreSQL does not look up from its work


def dropped(recipe: Any, connection: Any) -> bool:
    return Functions(recipe.factory, terminate_func=recipe.terminate_func).terminate(connection)


@pytest.mark.parametrize("kind", parameters(*SYNC_SERVERS, *SYNC_FILES))
def test_an_idle_connection_of_threads_is_dropped(place):
    before = run(count(place.server))
    recipe = for_threads(place.url)
    connection = recipe.factory()
    place.kind.run(connection, "select 1")  # with SQLAlchemy a transaction is open now
    assert dropped(recipe, connection)
    run(settled(place.server, before))
    assert not dropped(recipe, connection)


@pytest.mark.parametrize("kind", parameters(*IN_LOOP, *OFF_LOOP, *ASYNC_FILES))
def test_an_idle_connection_is_dropped_under_asyncio(place):
    async def main() -> None:
        before = await count(place.server)
        recipe = for_asyncio(place.url)
        connection = await recipe.factory()
        await place.kind.run(connection, "select 1")
        assert dropped(recipe, connection)
        await settled(place.server, before)

    run(main())


@pytest.mark.parametrize("kind", parameters(*IN_LOOP, *OFF_LOOP, *ASYNC_FILES))
def test_a_loop_that_ends_before_its_pool_leaves_no_connection(place):
    pools: list[ConnectionPool[Any]] = []

    async def main() -> int:
        before = await count(place.server)
        pools.append(await create_pool(place.url))
        connection = await pools[0].acquire()
        await place.kind.run(connection, "select 1")
        return before

    before = asyncio.run(main())
    run(settled(place.server, before))


@pytest.mark.parametrize("kind", parameters(*SYNC_SERVERS))
def test_a_close_that_waits_for_a_server_that_hangs_leaves_no_thread(place):
    assert place.server is not None
    threads = set(threading.enumerate())
    pool = create_sync_pool(place.url)
    connection = pool.acquire()
    place.kind.run(connection, "select 1")
    place.server.pause()
    try:
        began = time.monotonic()
        pool.close(timeout=0.2)
        for thread in set(threading.enumerate()) - threads:
            thread.join(5)
        assert time.monotonic() - began < 4
    finally:
        place.server.resume()
