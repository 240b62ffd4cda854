"""Our pool, its peers and the floors under them: each with ten connections and its own defaults."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from benchmarks.case import SIZE, Case, FakeConnection, Opener, UnsoundError
from benchmarks.server import Server
from poolscope import ConnectionPool, ConnectionPoolSettings

OURS = "poolscope"
CHECKING = "poolscope, asking whether it is closed"
SILENT = "poolscope, nobody listening"
BARE_LEASE = "bare lease over a deque"
SEMAPHORE = "asyncio.Semaphore"
QUEUE_POOL = "asyncio-connection-pool"
PSYCOPG = "psycopg_pool"
ASYNCPG_NO_RESET = "asyncpg, reset no-op"
ASYNCPG = "asyncpg"
SQLALCHEMY_POOL = "SQLAlchemy pool"
SQLALCHEMY_ENGINE = "SQLAlchemy engine"

FAKE = "fake"
REAL = "PostgreSQL"


def our_pool(
    validate: Callable[[FakeConnection], bool] | None = None,
) -> ConnectionPool[FakeConnection]:
    settings = ConnectionPoolSettings(min_size=SIZE, max_size=SIZE)
    return ConnectionPool(FakeConnection, settings, validate)


@asynccontextmanager
async def ours(_: Server) -> AsyncIterator[Case]:
    async with our_pool() as pool:
        yield Case(OURS, FAKE, pool.connection)


@asynccontextmanager
async def checking(_: Server) -> AsyncIterator[Case]:
    async with our_pool(lambda connection: not connection.is_closed) as pool:
        yield Case(CHECKING, FAKE, pool.connection)


@asynccontextmanager
async def silent(_: Server) -> AsyncIterator[Case]:
    async with our_pool() as pool:
        pool.get_metrics().unsubscribe()
        if any(pool.bus.hooks.values()):
            raise UnsoundError("somebody listens to the pool that nobody should listen to")
        yield Case(SILENT, FAKE, pool.connection)


class BareLease:
    """The least that lends something in an `async with` block."""

    __slots__ = ("_connection", "_idle")

    def __init__(self, idle: deque[FakeConnection]) -> None:
        self._idle = idle

    async def __aenter__(self) -> FakeConnection:
        self._connection = connection = self._idle.pop()
        return connection

    async def __aexit__(self, *_: object) -> None:
        self._idle.append(self._connection)


@asynccontextmanager
async def bare_lease(_: Server) -> AsyncIterator[Case]:
    idle = deque(FakeConnection() for _ in range(SIZE))
    yield Case(BARE_LEASE, FAKE, partial(BareLease, idle), identify=None)


@asynccontextmanager
async def semaphore(_: Server) -> AsyncIterator[Case]:
    semaphore = asyncio.Semaphore(SIZE)
    yield Case(SEMAPHORE, "none", lambda: semaphore, identify=None)


@asynccontextmanager
async def queue_pool(_: Server) -> AsyncIterator[Case]:
    from asyncio_connection_pool import ConnectionPool as QueuePool
    from asyncio_connection_pool import ConnectionStrategy

    class Strategy(ConnectionStrategy[FakeConnection]):
        async def make_connection(self) -> FakeConnection:
            return FakeConnection()

        def connection_is_closed(self, conn: FakeConnection) -> bool:
            return conn.is_closed

        async def close_connection(self, conn: FakeConnection) -> None:
            conn.close()

    pool = QueuePool(strategy=Strategy(), max_size=SIZE)
    yield Case(QUEUE_POOL, FAKE, pool.get_connection)


@asynccontextmanager
async def psycopg(server: Server) -> AsyncIterator[Case]:
    from psycopg_pool import AsyncConnectionPool

    pool = AsyncConnectionPool(server.dsn(), min_size=SIZE, max_size=SIZE, open=False)
    async with pool:
        await pool.wait()
        yield Case(PSYCOPG, REAL, pool.connection, lambda lent: lent.info.backend_pid)


@asynccontextmanager
async def asyncpg(server: Server, name: str = ASYNCPG, **options: Any) -> AsyncIterator[Case]:
    from asyncpg import create_pool

    async with create_pool(server.dsn(), min_size=SIZE, max_size=SIZE, **options) as pool:
        yield Case(name, REAL, pool.acquire, lambda lent: lent.get_server_pid())


async def _no_reset(_: object) -> None:
    """Spare the round trip to the server that asyncpg makes on release."""


class QueuePoolLease:
    """Drives SQLAlchemy's pool as its async engine does: one greenlet each way."""

    __slots__ = ("_lent", "_pool", "_spawn")

    def __init__(self, pool: Any, spawn: Any) -> None:
        self._pool = pool
        self._spawn = spawn

    async def __aenter__(self) -> Any:
        self._lent = lent = await self._spawn(self._pool.connect)
        return lent

    async def __aexit__(self, *_: object) -> None:
        await self._spawn(self._lent.close)


@asynccontextmanager
async def sqlalchemy_pool(_: Server) -> AsyncIterator[Case]:
    from sqlalchemy.pool import AsyncAdaptedQueuePool
    from sqlalchemy.util import greenlet_spawn

    create: Any = FakeConnection
    pool = AsyncAdaptedQueuePool(create, pool_size=SIZE, max_overflow=0)
    borrow = partial(QueuePoolLease, pool, greenlet_spawn)
    yield Case(SQLALCHEMY_POOL, FAKE, borrow, lambda lent: id(lent.dbapi_connection))
    await greenlet_spawn(pool.dispose)


@asynccontextmanager
async def sqlalchemy_engine(server: Server) -> AsyncIterator[Case]:
    from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

    def identify(lent: AsyncConnection) -> object:
        assert lent.sync_connection is not None
        connection: Any = lent.sync_connection.connection.driver_connection
        return connection.get_server_pid()

    url = server.dsn().replace("postgresql:", "postgresql+asyncpg:", 1)
    engine = create_async_engine(url, pool_size=SIZE, max_overflow=0)
    yield Case(SQLALCHEMY_ENGINE, REAL, engine.connect, identify)
    await engine.dispose()


PEERS: dict[str, Opener] = {
    QUEUE_POOL: queue_pool,
    PSYCOPG: psycopg,
    ASYNCPG_NO_RESET: partial(asyncpg, name=ASYNCPG_NO_RESET, reset=_no_reset),
    SQLALCHEMY_POOL: sqlalchemy_pool,
    SQLALCHEMY_ENGINE: sqlalchemy_engine,
    ASYNCPG: asyncpg,
}

DISTRIBUTIONS = ("asyncio-connection-pool", "psycopg", "psycopg-pool", "asyncpg", "sqlalchemy")
