"""Our pool for threads, its peers and the floors: ten connections and its own defaults each."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from typing import Any

from benchmarks import handmade
from benchmarks.case import SIZE, Borrow, Case, FakeConnection, Opener, UnsoundError
from benchmarks.contestants import FAKE, REAL
from benchmarks.server import Server
from poolscope import ConnectionPoolSettings
from poolscope.sync_pool import SyncConnectionPool

OURS = "poolscope"
SILENT = "poolscope, nobody listening"
FLOOR = handmade.BARE
floor = handmade.bare
SEMAPHORE = "threading.Semaphore"
PSYCOPG = "psycopg_pool"
QUEUE_POOL = "SQLAlchemy QueuePool"
REDIS = "redis.ConnectionPool"
REDIS_BLOCKING = "redis.BlockingConnectionPool"
CONNPOOL = "connpool"
GENERIC = "generic-connection-pool"


@contextmanager
def our_pool() -> Iterator[SyncConnectionPool[FakeConnection]]:
    settings = ConnectionPoolSettings(min_size=SIZE, max_size=SIZE)
    pool = SyncConnectionPool(FakeConnection, settings)
    try:
        yield pool
    finally:
        pool.close()


@asynccontextmanager
async def ours(_: Server) -> AsyncIterator[Case]:
    with our_pool() as pool:
        yield Case(OURS, FAKE, pool.connection, is_sync=True)


@asynccontextmanager
async def silent(_: Server) -> AsyncIterator[Case]:
    with our_pool() as pool:
        pool.get_metrics().unsubscribe()
        if any(pool.bus.hooks.values()):
            raise UnsoundError("somebody listens to the pool that nobody should listen to")
        yield Case(SILENT, FAKE, pool.connection, is_sync=True)


@asynccontextmanager
async def semaphore(_: Server) -> AsyncIterator[Case]:
    semaphore = threading.Semaphore(SIZE)
    yield Case(SEMAPHORE, "none", lambda: semaphore, identify=None, is_sync=True)


@asynccontextmanager
async def psycopg(server: Server) -> AsyncIterator[Case]:
    from psycopg_pool import ConnectionPool

    with ConnectionPool(server.dsn(), min_size=SIZE, max_size=SIZE, open=True) as pool:
        pool.wait()
        identify = lambda lent: lent.info.backend_pid  # noqa: E731
        yield Case(PSYCOPG, REAL, pool.connection, identify, is_sync=True)


@asynccontextmanager
async def queue_pool(_: Server) -> AsyncIterator[Case]:
    from sqlalchemy.pool import QueuePool

    create: Any = FakeConnection
    pool = QueuePool(create, pool_size=SIZE, max_overflow=0)

    def cycles(_: Borrow, count: int) -> None:
        for _number in range(count):
            pool.connect().close()

    borrow = lambda: closing(pool.connect())  # noqa: E731
    identify = lambda lent: id(lent.dbapi_connection)  # noqa: E731
    yield Case(QUEUE_POOL, FAKE, borrow, identify, is_sync=True, cycles=cycles)
    pool.dispose()


class RedisConnection(FakeConnection):
    """What redis-py's pools ask of a connection, none of which costs a system call here."""

    def __init__(self, **_: object) -> None:
        super().__init__()
        self.pid = os.getpid()

    def connect(self) -> None:
        """Be connected already."""

    def disconnect(self) -> None:
        self.close()

    def re_auth(self) -> None:
        """Use the same password as ever."""

    def can_read(self) -> bool:
        return False

    def should_reconnect(self) -> bool:
        return False


@asynccontextmanager
async def redis(_: Server, name: str = REDIS) -> AsyncIterator[Case]:
    import redis

    kind = redis.BlockingConnectionPool if name == REDIS_BLOCKING else redis.ConnectionPool
    connection_class: Any = RedisConnection
    pool = kind(connection_class=connection_class, max_connections=SIZE)

    def cycles(_: Borrow, count: int) -> None:
        for _number in range(count):
            connection = pool.get_connection()
            pool.release(connection)

    @contextmanager
    def borrow() -> Iterator[Any]:
        connection = pool.get_connection()
        try:
            yield connection
        finally:
            pool.release(connection)

    yield Case(name, FAKE, borrow, is_sync=True, cycles=cycles)
    pool.disconnect()


@asynccontextmanager
async def connpool(_: Server) -> AsyncIterator[Case]:
    from connpool import ConnectionPool, PoolConfig

    config = PoolConfig(min_size=SIZE, max_size=SIZE)
    with ConnectionPool.from_callables(FakeConnection, config=config) as pool:
        yield Case(CONNPOOL, FAKE, pool.connection, is_sync=True)


@asynccontextmanager
async def generic(_: Server) -> AsyncIterator[Case]:
    from generic_connection_pool.threading import BaseConnectionManager, ConnectionPool

    class Manager(BaseConnectionManager[str, FakeConnection]):
        def create(self, endpoint: str, timeout: float | None = None) -> FakeConnection:
            return FakeConnection()

        def dispose(
            self, endpoint: str, conn: FakeConnection, timeout: float | None = None
        ) -> None:
            conn.close()

    pool = ConnectionPool(Manager(), min_idle=SIZE, max_size=SIZE, total_max_size=SIZE)
    yield Case(GENERIC, FAKE, partial(pool.connection, "server"), is_sync=True)
    pool.close()


WAITING_PEERS: dict[str, Opener] = {
    PSYCOPG: psycopg,
    QUEUE_POOL: queue_pool,
    REDIS_BLOCKING: partial(redis, name=REDIS_BLOCKING),
    CONNPOOL: connpool,
    GENERIC: generic,
}
"""Those that let a caller wait for a connection."""

PEERS: dict[str, Opener] = {**WAITING_PEERS, REDIS: redis}

DISTRIBUTIONS = ("redis", "connpool", "generic-connection-pool")
