"""An observability-first connection pool: it says why it is slow."""

from poolscope._version import __version__
from poolscope.asgi import ConnectionPoolMiddleware
from poolscope.bus import EventBus, Subscription
from poolscope.connectors import MissingDriverError
from poolscope.errors import (
    ConnectFailedError,
    PoolClosedError,
    PoolError,
    PoolTimeoutError,
    QueueFullError,
    ReleaseError,
    ValidationFailedError,
    WrongLoopError,
)
from poolscope.instrument import instrument, observe, uninstrument
from poolscope.manager import PoolManager
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.opening import create_pool, create_sync_pool
from poolscope.pool import ConnectionPool
from poolscope.settings import ConnectionPoolSettings
from poolscope.stats import PoolStats
from poolscope.sync_pool import SyncConnectionPool

__all__ = [
    "ConnectFailedError",
    "ConnectionPool",
    "ConnectionPoolMetrics",
    "ConnectionPoolMiddleware",
    "ConnectionPoolSettings",
    "EventBus",
    "MissingDriverError",
    "PoolClosedError",
    "PoolError",
    "PoolManager",
    "PoolStats",
    "PoolTimeoutError",
    "QueueFullError",
    "ReleaseError",
    "Subscription",
    "SyncConnectionPool",
    "ValidationFailedError",
    "WrongLoopError",
    "__version__",
    "create_pool",
    "create_sync_pool",
    "instrument",
    "observe",
    "uninstrument",
]
