"""An observability-first connection pool: it says why it is slow."""

from poolscope._version import __version__
from poolscope.bus import EventBus, Subscription
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
from poolscope.manager import PoolManager
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.pool import ConnectionPool
from poolscope.settings import ConnectionPoolSettings
from poolscope.stats import PoolStats

__all__ = [
    "ConnectFailedError",
    "ConnectionPool",
    "ConnectionPoolMetrics",
    "ConnectionPoolSettings",
    "EventBus",
    "PoolClosedError",
    "PoolError",
    "PoolManager",
    "PoolStats",
    "PoolTimeoutError",
    "QueueFullError",
    "ReleaseError",
    "Subscription",
    "ValidationFailedError",
    "WrongLoopError",
    "__version__",
]
