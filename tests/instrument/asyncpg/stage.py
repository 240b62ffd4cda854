"""An observed pool on a real server, and what both say."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from poolscope import events as e
from poolscope.instrument import observe
from poolscope.instrument.source import ForeignPool
from poolscope.testing import Replay
from poolscope.testing.postgres import PostgresServer

OPENING = ["ConnectionRequested", "RequestQueued", "ConnectStarted", "ConnectionOpened"]
KEEPS_FLOOR = hasattr(asyncpg.Pool, "get_init_size")
"""Whether this version opens again what `min_size` lacks."""


class Books(Replay):
    """Those of a foreign pool, of which saturation is judged a moment later than told."""

    def _SaturationStarted(self, event: e.SaturationStarted) -> None: ...

    def _SaturationEnded(self, event: e.SaturationEnded) -> None: ...

    def _check_saturation(self, stats: Any) -> None: ...


class Stage:
    """A pool, and what happened to it."""

    def __init__(self, pool: Any, source: ForeignPool) -> None:
        self.pool = pool
        self.source = source
        self.books = Books()
        self.said = 0
        self.subscription = source.bus.subscribe(self.books)

    def silence(self) -> None:
        """Keep no events: their errors keep alive what was cut short."""
        self.subscription.unsubscribe()
        self.books = Books()

    def kinds(self) -> list[str]:
        """The types of the events since it was last asked."""
        events, self.said = self.books.events[self.said :], len(self.books.events)
        return [type(event).__name__ for event in events]

    def of(self, kind: type[e.Event]) -> list[Any]:
        return [event for event in self.books.events if type(event) is kind]

    def closed(self) -> list[e.CloseReason]:
        return [event.reason for event in self.of(e.ConnectionClosed)]

    def failures(self) -> list[e.FailureReason]:
        return [event.reason for event in self.of(e.AcquireFailed)]

    def levels(self) -> tuple[int, int, int, int]:
        """Idle, in use, connecting, waiting."""
        stats = self.source.stats()
        return stats.idle, stats.in_use, stats.connecting, stats.waiting

    def check(self) -> None:
        """The laws hold now, and the pool says of itself what we say of it."""
        stats = self.source.stats()
        self.books.check(stats)
        assert stats.idle + stats.in_use == self.pool.get_size()
        assert stats.idle == self.pool.get_idle_size()

    async def comes(self, levels: tuple[int, int, int, int]) -> None:
        await until(lambda: self.levels() == levels)


def new_pool(server: PostgresServer, **more: Any) -> Any:
    return asyncpg.create_pool(server.dsn, **{"min_size": 0, "max_size": 2, "ssl": False} | more)


@asynccontextmanager
async def stage(server: PostgresServer, **more: Any) -> AsyncIterator[Stage]:
    """A pool of at most two, none of which is open; the laws hold at the end."""
    pool = new_pool(server, **more)
    on = Stage(pool, observe(pool))
    async with pool:
        try:
            yield on
            on.check()
        except BaseException:
            pool.terminate()
            raise
    on.books.check(on.source.stats())


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - a server tells nobody
            await asyncio.sleep(0.005)
