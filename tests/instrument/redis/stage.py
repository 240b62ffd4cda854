"""An observed pool of redis-py or valkey-py on a real server, and what both say.

Each test is for threads and for asyncio: what may be awaitable goes through `act`.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import redis

from poolscope.events import CloseReason, ConnectionClosed, Event
from poolscope.instrument import observe
from poolscope.instrument.source import ForeignPool
from poolscope.testing.redis import RedisServer


async def act(result: Any) -> Any:
    """Wait for a result, if it is to be waited for."""
    return await result if inspect.isawaitable(result) else result


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - a server does not tell when it is done
            await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Flavour:
    """One of the two libraries, and one of its two halves."""

    library: str
    in_loop: bool

    def __str__(self) -> str:
        return f"{self.library}-{'asyncio' if self.in_loop else 'threads'}"

    @property
    def package(self) -> Any:
        return import_module(self.library + ".asyncio" * self.in_loop)

    @property
    def errors(self) -> Any:
        return import_module(f"{self.library}.exceptions")

    @property
    def client(self) -> Any:
        return getattr(self.package, self.library.title())

    @property
    def classes(self) -> list[type]:
        """All that may be changed, and more."""
        modules = (self.library, f"{self.library}.asyncio")
        names = ("ConnectionPool", "BlockingConnectionPool", "Connection", "AbstractConnection")
        pools = [getattr(import_module(f"{m}.connection"), n) for m in modules for n in names]
        clients = [getattr(import_module(m), self.library.title()) for m in modules]
        return pools + clients

    def url(self, server: RedisServer) -> str:
        return server.url.replace("redis://", f"{self.library}://")

    def pool(self, server: RedisServer, blocking: bool = True, **more: Any) -> Any:
        kind = "BlockingConnectionPool" if blocking else "ConnectionPool"
        return getattr(self.package, kind).from_url(self.url(server), **more)

    async def get(self, pool: Any) -> Any:
        """Acquire as each version wants to be asked."""
        first = next(iter(inspect.signature(pool.get_connection).parameters.values()))
        args = ["_"] if first.default is inspect.Parameter.empty else []
        return await act(pool.get_connection(*args))

    def get_aside(self, pool: Any) -> "asyncio.Task[Any]":
        """Acquire in a task, or in a thread."""
        if self.in_loop:
            return asyncio.create_task(self.get(pool))
        return asyncio.create_task(asyncio.to_thread(asyncio.run, self.get(pool)))


FLAVOURS = [Flavour(name, in_loop) for name in ("redis", "valkey") for in_loop in (False, True)]


class Stage:
    """A pool, and what happened to it."""

    def __init__(self, flavour: Flavour, pool: Any, source: ForeignPool) -> None:
        self.flavour = flavour
        self.pool = pool
        self.source = source
        self.events: list[Event] = []
        source.bus.subscribe(self.events.append)

    async def get(self) -> Any:
        return await self.flavour.get(self.pool)

    async def give(self, connection: Any) -> None:
        await act(self.pool.release(connection))

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
async def stage(
    flavour: Flavour, server: RedisServer, blocking: bool = True, **more: Any
) -> AsyncIterator[Stage]:
    """A pool of at most two, none of which is open; a blocking one waits for at most 10 s."""
    more = {"max_connections": 2} | ({"timeout": 10} if blocking else {}) | more
    pool = flavour.pool(server, blocking, **more)
    try:
        yield Stage(flavour, pool, observe(pool))
    finally:
        await act(pool.disconnect())


async def say(connection: Any, *words: str) -> Any:
    await act(connection.send_command(*words))
    return await act(connection.read_response())


async def number(connection: Any) -> int:
    """What the server calls a connection."""
    return int(await say(connection, "CLIENT", "ID"))


async def kill(server: RedisServer, *connections: Any) -> None:
    """Have the server end them, and wait until their ends here can know."""
    doomed = [await number(connection) for connection in connections]
    server.disconnect(*doomed)
    await until(lambda: not {each.id for each in server.clients()} & {*doomed})


def blocked(server: RedisServer) -> int:
    """How many wait for what does not come."""
    with redis.Redis.from_url(server.url) as asking:
        return int(asking.info("clients")["blocked_clients"])
