"""An observed pool on a real server, and what both say."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiomysql

from poolscope.events import CloseReason, ConnectionClosed, Event
from poolscope.instrument import observe
from poolscope.instrument.source import ForeignPool
from poolscope.testing.mariadb import MariadbServer


def options(server: MariadbServer, **more: Any) -> dict[str, Any]:
    """What `aiomysql.create_pool` takes."""
    arguments = dict(server.arguments)
    return arguments | {"db": arguments.pop("database")} | more


class Stage:
    """A pool, and what happened to it."""

    def __init__(self, pool: Any, source: ForeignPool, server: MariadbServer) -> None:
        self.pool = pool
        self.source = source
        self.options = options(server)
        self.events: list[Event] = []
        self.subscription = source.bus.subscribe(self.events.append)

    def silence(self) -> None:
        """Keep no events: their errors keep alive what was cut short."""
        self.subscription.unsubscribe()
        self.events.clear()

    def kinds(self) -> list[str]:
        """The types of the events since it was last asked."""
        kinds = [type(event).__name__ for event in self.events]
        self.events.clear()
        return kinds

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if type(event) is kind]

    def closed(self) -> list[CloseReason]:
        return [event.reason for event in self.of(ConnectionClosed)]

    def levels(self) -> tuple[int, int, int, int]:
        """Idle, in use, connecting, waiting."""
        stats = self.source.stats()
        return stats.idle, stats.in_use, stats.connecting, stats.waiting

    async def comes(self, levels: tuple[int, int, int, int]) -> None:
        await until(lambda: self.levels() == levels)


@asynccontextmanager
async def stage(server: MariadbServer, **more: Any) -> AsyncIterator[Stage]:
    """A pool of at most two, none of which is open."""
    pool = await aiomysql.create_pool(**{"minsize": 0, "maxsize": 2} | options(server, **more))
    try:
        yield Stage(pool, observe(pool), server)
    finally:
        pool.terminate()
        await pool.wait_closed()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - a server tells nobody
            await asyncio.sleep(0.005)


async def ask(connection: Any, query: str) -> Any:
    async with connection.cursor() as cursor:
        await cursor.execute(query)
        return await cursor.fetchone()


async def number(connection: Any) -> int:
    """What the server calls a connection."""
    return int((await ask(connection, "select connection_id()"))[0])
