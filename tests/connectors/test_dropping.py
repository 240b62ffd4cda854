"""Connections dropped at once, where there is no time for a goodbye or nobody to hear it."""

import asyncio
import gc
import os
import threading
import time
from typing import Any

import pytest

from poolscope.connectors import for_asyncio, for_threads
from poolscope.functions import Functions
from poolscope.opening import create_pool, create_sync_pool
from poolscope.pool import ConnectionPool
from poolscope.sync_pool import SyncConnectionPool
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
BEGUN = ENDLESS.replace("select 1", "select begun()")


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


@pytest.mark.parametrize("kind", parameters(*SYNC_FILES))
def test_a_pool_that_closes_under_a_holder_of_a_file_interrupts_it(place, tmp_path):
    begun, heard = threading.Event(), []
    pool = create_sync_pool(place.url)

    def hold() -> None:
        with pool.connection() as connection:
            raw = getattr(getattr(connection, "connection", None), "driver_connection", connection)
            raw.create_function("begun", 0, begun.set)
            try:
                place.kind.run(connection, BEGUN)
            except Exception as error:
                heard.append(str(error))

    holder = threading.Thread(target=hold)
    holder.start()
    begun.wait()
    pool.close(timeout=0.01)
    holder.join()
    assert "interrupted" in heard[0]
    gc.collect()  # connections of sqlite3 know themselves
    assert str(tmp_path / "things.db") not in open_files()


def open_files() -> list[str]:
    folder = "/proc/self/fd"
    if not os.path.isdir(folder):
        return []  # this system does not tell
    paths = [os.path.join(folder, number) for number in os.listdir(folder)]
    return [os.readlink(path) for path in paths if os.path.islink(path)]


@pytest.mark.parametrize("make", [ConnectionPool, SyncConnectionPool])
def test_a_terminate_func_that_has_to_be_awaited_is_refused(make):
    async def terminate(_: object) -> None: ...

    with pytest.raises(ValueError, match="terminate_func must be plain"):
        make(object, terminate_func=terminate)


def test_what_cannot_be_closed_is_terminated():
    async def main() -> None:
        async with ConnectionPool(object, close_func=fail, terminate_func=seen.append):
            pass

    def fail(connection: object) -> None:
        seen.append(connection)
        raise OSError

    seen: list[object] = []
    run(main())
    assert len(seen) == 2
    assert seen[0] is seen[1]
    seen.clear()
    with SyncConnectionPool(object, close_func=fail, terminate_func=seen.append):
        pass
    assert len(seen) == 2
    assert seen[0] is seen[1]
