"""Observed pools on a real server, and what the events, the levels and the server say."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg_pool
import pytest

from poolscope import events as e
from poolscope.events import CloseReason, FailureReason
from poolscope.instrument import ForeignPool, observe
from poolscope.stats import PoolStats
from poolscope.testing import Replay
from poolscope.testing.postgres import PostgresServer

SYNC = psycopg_pool.ConnectionPool
SYNC_NULL = psycopg_pool.NullConnectionPool
ASYNC = psycopg_pool.AsyncConnectionPool
ASYNC_NULL = psycopg_pool.AsyncNullConnectionPool

_VERSION = tuple(int(part) for part in psycopg_pool.__version__.split(".")[:3])
can_drain = pytest.mark.skipif(_VERSION < (3, 3), reason="came with 3.3")
can_close_to_return = can_drain
keeps_what_is_interrupted = pytest.mark.skipif(
    _VERSION < (3, 3, 2), reason="before 3.3.2 connections are lost so"
)


class Books(Replay):
    """Replays the events of a pool whose line is not ours: its places are not to the moment."""

    def _SaturationEnded(self, event: e.SaturationEnded) -> None:
        self._expect(self.saturation is not None, f"never began: {event}")
        self.saturation = None

    def _check_saturation(self, stats: PoolStats) -> None:
        self._expect(self.saturation is None or stats.saturation_time > 0, f"{stats}")


class Stage:
    """A pool, and what is told of it."""

    def __init__(self, pool: Any, server: PostgresServer) -> None:
        self.pool = pool
        self.source: ForeignPool = observe(pool)
        self.server = server
        self.books = Books()
        self.source.bus.subscribe(self.books)

    def levels(self) -> tuple[int, int, int, int]:
        """Idle, in use, connecting, waiting."""
        stats = self.source.stats()
        return stats.idle, stats.in_use, stats.connecting, stats.waiting

    def is_true(self) -> bool:
        """Whether the server has as many connections as are told of."""
        stats = self.source.stats()
        return len(self.server.clients()) == stats.idle + stats.in_use

    def check(self) -> None:
        """Compare the laws, which hold, and the server, which may need a moment."""
        self.books.check(self.source.stats())
        until(self.is_true)

    def of(self, kind: type[e.Event]) -> list[Any]:
        return self.books.of(kind)

    def reasons(self) -> dict[CloseReason, int]:
        return dict(self.source.metrics.closed)

    def failures(self) -> dict[FailureReason, int]:
        return dict(self.source.metrics.failures)

    def comes(self, *levels: int) -> None:
        until(lambda: self.levels() == levels)

    async def will_come(self, *levels: int) -> None:
        async with asyncio.timeout(10):
            while self.levels() != levels:  # noqa: ASYNC110  # each step is seen
                await asyncio.sleep(0)


@contextmanager
def sync_stage(server: PostgresServer, kind: Any = SYNC, **options: Any) -> Iterator[Stage]:
    """A pool of at most two, one of which is open at once."""
    sizes = {"min_size": 0 if kind is SYNC_NULL else 1, "max_size": 2}
    with kind(server.dsn, open=False, **(sizes | options)) as pool:
        stage = Stage(pool, server)
        stage.comes(0 if kind is SYNC_NULL else pool.min_size, 0, 0, 0)
        yield stage
    until(lambda: not server.clients())


@asynccontextmanager
async def async_stage(
    server: PostgresServer, kind: Any = ASYNC, **options: Any
) -> AsyncIterator[Stage]:
    """The same for asyncio."""
    sizes = {"min_size": 0 if kind is ASYNC_NULL else 1, "max_size": 2}
    async with kind(server.dsn, open=False, **(sizes | options)) as pool:
        stage = Stage(pool, server)
        await stage.will_come(0 if kind is ASYNC_NULL else pool.min_size, 0, 0, 0)
        yield stage
    until(lambda: not server.clients())


def until(holds: Callable[[], object]) -> None:
    ends = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < ends, "it does not come"
        time.sleep(0.005)


def kill(server: PostgresServer, *ids: int) -> None:
    """Have the server end connections, or all there are; they find out in their next query."""
    doomed = set(ids) or {client.id for client in server.clients()}
    server.disconnect(*doomed)
    until(lambda: doomed.isdisjoint(client.id for client in server.clients()))


def counts(stage: Stage) -> Counter[str]:
    return Counter(type(event).__name__ for event in stage.books.events)
