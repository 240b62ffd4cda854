"""The errors a request can end with: what happened, the state of the pool, the remedy."""

from __future__ import annotations

from poolscope.errors import (
    ConnectFailedError,
    PoolClosedError,
    PoolError,
    PoolTimeoutError,
    QueueFullError,
    ValidationFailedError,
)
from poolscope.stats import PoolStats


def timed_out(stats: PoolStats, wait: float, error: BaseException | None) -> PoolTimeoutError:
    """Return the error of a request whose deadline passed."""
    verdict = PoolTimeoutError(
        f"no connection from pool {stats.pool!r} in {wait:.2f} s: {stats}. "
        f"Likely: {_likely(stats, error)}.",
        stats,
    )
    verdict.__cause__ = error
    return verdict


def _likely(stats: PoolStats, error: BaseException | None) -> str:
    if error is not None:
        return (
            f"new connections fail ({type(error).__name__}, chained above); check that the "
            "server runs, is reachable and has connections left"
        )
    if stats.in_use < stats.max_size and stats.connecting:
        return "opening a connection takes longer than acquire_timeout; check server and network"
    if stats.oldest_use >= 10 * stats.oldest_wait and stats.oldest_use > 1:
        return "a leak or a slow query at the place named; else raise max_size"
    return "connections are held too long, or max_size is too small for this load"


def closed(stats: PoolStats) -> PoolClosedError:
    """Return the error of a request to a closed pool."""
    return PoolClosedError(
        f"pool {stats.pool!r} is {stats.state} and gives out no connections. "
        "Make a new pool, or close this one later.",
        stats,
    )


def queue_full(stats: PoolStats, max_waiting: int) -> PoolError:
    """Return the error of a request that found the line full."""
    return QueueFullError(
        f"the line of pool {stats.pool!r} is full (max_waiting={max_waiting}): {stats}. "
        "Shed load, hold connections for a shorter time, or raise max_size.",
        stats,
    )


def connects_failed(stats: PoolStats, attempts: int, error: BaseException) -> PoolError:
    """Return the error of a request that has seen too many connects fail."""
    if isinstance(error, ValidationFailedError):
        refusal = ValidationFailedError(
            f"pool {stats.pool!r} opened connections, but validate_func refused them "
            f"{attempts} times in a row: {stats}. Check validate_func, and whether the server "
            "is what it should be (a read-only replica after a failover?).",
            stats,
        )
        refusal.__cause__ = error.__cause__
        return refusal
    verdict = ConnectFailedError(
        f"pool {stats.pool!r} could not connect, {attempts} times in a row "
        f"({type(error).__name__}, chained above): {stats}. Check that the server runs, is "
        "reachable and accepts these credentials.",
        stats,
    )
    verdict.__cause__ = error
    return verdict
