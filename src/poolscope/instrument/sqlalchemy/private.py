"""What is private of SQLAlchemy's pools, or differs between them: read here and nowhere else."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import DisconnectionError, InvalidRequestError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import AssertionPool, NullPool, QueuePool, SingletonThreadPool, StaticPool
from sqlalchemy.pool.base import _ConnectionRecord

from poolscope.events import CloseReason, FailureReason
from poolscope.instrument.levels import Levels
from poolscope.instrument.source import UNKNOWN
from poolscope.instrument.sqlalchemy.addresses import application as application_in
from poolscope.telemetry import catalog

_LIMIT = frozenset(
    {
        catalog.MAX.name,
        catalog.ACQUIRE_TIMEOUT.name,
        catalog.TIMEOUTS.name,
        catalog.SATURATION_TIME.name,
    }
)
"""What only a pool with a limit can tell, at which requests wait."""
_IDLE = frozenset({catalog.IDLE_MAX.name})

OUTCOMES = (
    (PoolTimeoutError, FailureReason.TIMEOUT),
    (DisconnectionError, FailureReason.VALIDATION_FAILED),
    (InvalidRequestError, FailureReason.VALIDATION_FAILED),
)
"""What errors of the library's own mean to who asked for a connection."""


# Pools


def omits(pool: Any) -> frozenset[str]:
    """Return the metrics that a pool cannot tell."""
    if isinstance(pool, AssertionPool):
        return UNKNOWN | _LIMIT - {catalog.MAX.name}
    if not isinstance(pool, QueuePool):
        return UNKNOWN | _LIMIT | _IDLE
    unknown = UNKNOWN | (_LIMIT if pool._max_overflow < 0 else set())
    if pool.timeout() is None:  # requests wait for ever
        unknown |= {catalog.ACQUIRE_TIMEOUT.name}
    return unknown if pool.size() else unknown | _IDLE


def limits(pool: Any) -> Levels:
    """Return the limits of a pool, and how many wait."""
    if isinstance(pool, AssertionPool):
        return Levels(max_size=1, max_idle=1)
    if not isinstance(pool, QueuePool):
        return Levels()
    size, overflow = pool.size(), pool._max_overflow
    if overflow < 0:
        return Levels(max_idle=size)
    return Levels(
        max_size=size + overflow,
        max_idle=size,
        acquire_timeout=pool.timeout() or 0.0,
        waiting=_waiting(pool._pool),
    )


def _waiting(queue: Any) -> int:
    """Count who waits for a connection, those included who came before anybody looked."""
    if (condition := getattr(queue, "not_empty", None)) is not None:
        return len(condition._waiters)
    loops_own = queue.__dict__.get("_queue")
    return sum(not getter.done() for getter in list(loops_own._getters)) if loops_own else 0


def is_shared(pool: Any) -> bool:
    """Tell whether one connection may be lent several times at once."""
    return isinstance(pool, StaticPool | SingletonThreadPool)


def has_limit(pool: Any) -> bool:
    """Tell whether requests may have to wait for others."""
    return isinstance(pool, QueuePool)


def has_to_wait(pool: Any) -> bool:
    """Tell whether a request that begins now has to wait for others. The pool `has_limit`."""
    return bool(pool._overflow >= pool._max_overflow > -1 and pool._pool.empty())


def application(pool: Any) -> str | None:
    """Return what `connect_args` call the application; the creator of a pool keeps them."""
    creator: Any = getattr(pool, "_creator", None)
    names = getattr(getattr(creator, "__code__", None), "co_freevars", ())
    if "cparams" not in names:
        return None
    options = creator.__closure__[names.index("cparams")].cell_contents
    settings = options.get("server_settings")  # asyncpg's
    return application_in(options) or (
        application_in(settings) if isinstance(settings, Mapping) else None
    )


def records(pool: Any, unused: bool) -> list[Any]:
    """Return the records of a pool that is met, lent ones included."""
    held: list[Any] = []
    if isinstance(pool, QueuePool):
        queue = pool._pool
        loops_own = getattr(queue, "queue", None) or queue.__dict__.get("_queue")
        held = list(getattr(loops_own, "_queue", loops_own) or ())
        unused = unused or pool.checkedout() <= 0
    elif isinstance(pool, SingletonThreadPool):
        held, unused = list(pool._all_conns), True
    elif not isinstance(pool, NullPool):
        only = pool.__dict__.get("connection") or pool.__dict__.get("_conn")
        held, unused = [only] if only is not None else [], True
    if not unused:  # no pool knows what it lent
        found = gc.get_referrers(pool)
        held += [each for each in found if type(each) is _ConnectionRecord and each.in_use]
    return [record for record in held if record.dbapi_connection is not None]


# Records


def pool_of(record: Any) -> Any:
    """Return the pool that a record is of."""
    return record._ConnectionRecord__pool


def is_lost(record: Any) -> bool:
    """Tell whether who had the connection forgot it."""
    return record.fairy_ref is not None and record.fairy_ref() is None


def why_invalid(error: BaseException | None) -> CloseReason:
    """Tell why SQLAlchemy closes a connection at once."""
    if error is not None and not isinstance(error, Exception):
        return CloseReason.DIRTY
    if isinstance(error, DisconnectionError):
        return CloseReason.VALIDATION  # by the ping, or by who listens to "checkout"
    passed = error.__traceback__ if error is not None else None
    if passed is not None and passed.tb_frame.f_code.co_name == "_finalize_fairy":
        return CloseReason.RESET
    return CloseReason.BROKEN


def why_renewed(pool: Any, record: Any) -> CloseReason:
    """Tell why SQLAlchemy puts another connection in the place of one that it is to lend."""
    outdated = max(pool._invalidate_time, record._soft_invalidate_time) > record.starttime
    return CloseReason.STALE if outdated else CloseReason.LIFETIME
