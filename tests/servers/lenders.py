"""Pools of each kind, on servers of each kind: how they are opened, and spoken to."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from poolscope import ConnectionPoolMetrics, EventBus, create_pool, create_sync_pool, events
from poolscope.sqlalchemy import AsyncObservedPool, ObservedPool
from poolscope.stats import PoolStats
from poolscope.testing.mariadb import MariadbServer
from poolscope.testing.postgres import PostgresServer
from poolscope.testing.redis import RedisServer
from poolscope.testing.server import PrivateServer
from tests.connectors import kinds

SIZE = 4
PATIENCE = 0.7
"""Seconds anything may take for which there is a setting."""
SLACK = 0.8
"""Seconds a busy machine may add."""

TIMES = {"connect_timeout": PATIENCE, "validate_timeout": PATIENCE, "close_timeout": PATIENCE}
OURS: dict[str, Any] = TIMES | {
    "max_size": SIZE,
    "max_idle": SIZE,
    "acquire_timeout": PATIENCE,
    "retry_delay": 0.05,
    "retry_limit": 2,
}
THEIRS: dict[str, Any] = TIMES | {
    "pool_size": SIZE,
    "max_overflow": 0,
    "pool_timeout": PATIENCE,
    "pool_pre_ping": True,
}
SESSION = {
    PostgresServer: "select pg_backend_pid()",
    MariadbServer: "select connection_id()",
}

Listener = Callable[[events.Event], object]


@dataclass(frozen=True)
class Pooled:
    """An open pool of any kind."""

    lease: Callable[[], Any]
    stats: Callable[[], PoolStats | None]
    metrics: ConnectionPoolMetrics
    close: Callable[[], Any]


@dataclass(frozen=True)
class Lender:
    """One kind of pool on one kind of server."""

    scheme: str
    server: type[PrivateServer]
    in_loop: bool
    open: Callable[[str, Listener, dict[str, Any]], Any]
    """Opens a pool; of what is `in_loop`, this and all else is to be awaited."""
    ask: Callable[[Any, str], Any]
    options: dict[str, Any] = field(default_factory=dict)
    """Of the driver, so that it does not wait for a server for ever."""
    enter: float | None = PATIENCE
    """Seconds after which a caller knows what becomes of a request; None: the driver decides."""
    leave: float | None = PATIENCE
    """Seconds after which a caller has given back, in the same way."""

    def __str__(self) -> str:
        return f"{self.open.__name__} {self.scheme}"

    def session(self, connection: Any) -> Any:
        """Return, or await, the server's own number for a connection."""
        return self.ask(connection, SESSION.get(self.server, ""))

    def url(self, url: str) -> str:
        return f"{self.scheme}://{url.partition('://')[2]}"


# How they are opened


async def pool(url: str, listener: Listener, options: dict[str, Any]) -> Pooled:
    bus = EventBus()
    bus.subscribe(listener)
    opened = await create_pool(url, bus=bus, driver_options=options, **OURS)
    return Pooled(opened.connection, opened.stats, opened.get_metrics(), opened.close)


def sync_pool(url: str, listener: Listener, options: dict[str, Any]) -> Pooled:
    bus = EventBus()
    bus.subscribe(listener)
    opened = create_sync_pool(url, bus=bus, driver_options=options, **OURS)
    return Pooled(opened.connection, opened.stats, opened.get_metrics(), opened.close)


async def async_engine(url: str, listener: Listener, options: dict[str, Any]) -> Pooled:
    made = create_async_engine(url, poolclass=AsyncObservedPool, connect_args=options, **THEIRS)
    pool: Any = made.pool
    pool.bus.subscribe(listener)
    return Pooled(made.connect, pool.stats, pool.get_metrics(), made.dispose)


def engine(url: str, listener: Listener, options: dict[str, Any]) -> Pooled:
    made = create_engine(url, poolclass=ObservedPool, connect_args=options, **THEIRS)
    pool: Any = made.pool
    pool.bus.subscribe(listener)
    return Pooled(made.connect, pool.stats, pool.get_metrics(), made.dispose)


# How they are spoken to


async def redis_in_loop(client: Any, _: str) -> int:
    return int(await client.client_id())


def redis_in_thread(client: Any, _: str) -> int:
    return int(client.client_id())


def _ask_in_loop(scheme: str) -> Callable[[Any, str], Awaitable[Any]]:
    (ask,) = [kind.run for kind in kinds.IN_LOOP if kind.scheme == scheme]
    return ask  # type: ignore[no-any-return]


def _ask_in_thread(scheme: str) -> Callable[[Any, str], Any]:
    (ask,) = [kind.run for kind in kinds.SYNC_SERVERS if kind.scheme == scheme]
    return ask


def _of_loop(scheme: str, server: type[PrivateServer]) -> Lender:
    if "+" not in scheme:
        return Lender(scheme, server, True, pool, _ask_in_loop(scheme))
    # Its request may ping a connection that is lost, and open another. Who gives back rolls back,
    # which waits for the server.
    asked = _ask_in_loop(scheme)
    return Lender(scheme, server, True, async_engine, asked, enter=2 * PATIENCE, leave=None)


def _of_threads(scheme: str, server: type[PrivateServer], **options: Any) -> Lender:
    ask = _ask_in_thread(scheme)
    if "+" not in scheme:
        return Lender(scheme, server, False, sync_pool, ask, options)
    # It connects and rolls back in the caller's thread, where the driver has its own limits.
    options["connect_timeout"] = 1
    return Lender(scheme, server, False, engine, ask, options, enter=None, leave=None)


LENDERS = (
    _of_loop("postgresql", PostgresServer),
    _of_threads("postgresql", PostgresServer),
    _of_loop("postgresql+asyncpg", PostgresServer),
    _of_loop("postgresql+psycopg", PostgresServer),
    _of_threads("postgresql+psycopg", PostgresServer),
    _of_loop("mysql", MariadbServer),
    _of_threads("mysql", MariadbServer, read_timeout=1),
    _of_loop("mysql+aiomysql", MariadbServer),
    _of_threads("mysql+pymysql", MariadbServer, read_timeout=1),
    Lender("redis", RedisServer, True, pool, redis_in_loop, {"socket_timeout": 1}),
    Lender("redis", RedisServer, False, sync_pool, redis_in_thread, {"socket_timeout": 1}),
)
