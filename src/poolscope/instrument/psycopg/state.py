"""What pools of psycopg_pool say of themselves: all that is read of their private state."""

from __future__ import annotations

import gc
import re
from collections.abc import Container, Iterable
from math import inf
from time import monotonic
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncNullConnectionPool, NullConnectionPool

from poolscope.events import CloseReason
from poolscope.instrument.levels import Levels
from poolscope.instrument.naming import pool_name
from poolscope.target import Target

GONE = int(TransactionStatus.UNKNOWN)
"""The status by which psycopg_pool itself knows a connection that is closed or broken."""

_NAMES = ("application_name", "host", "hostaddr", "port", "dbname")
_NUMBERED = re.compile(r"pool-\d+")
"""What a pool calls itself when nobody gave it a name."""
_PLAIN = re.compile(r"[^@=;&?]*")
"""What can be neither a URL nor a conninfo with a password in it."""


def keeps_none(pool: Any) -> bool:
    """Tell whether a pool opens a connection for each request, but those that had to wait."""
    return isinstance(pool, NullConnectionPool | AsyncNullConnectionPool)


def levels(pool: Any, known: Iterable[int], inherited: Container[int]) -> Levels:
    """Return the levels of a pool, of whose connections these identities are known.

    Those that are neither idle nor closed are in use: by their holders, by one that has just been
    given it, or by the pool itself, which rolls back, resets and checks them. The size that the
    pool tells would count those that it hopes to open, and those that it lost.
    """
    idle = {id(connection) for connection in list(pool._pool)}
    return Levels(
        idle=sum(key not in inherited for key in idle),
        in_use=len(set(known) - idle),
        # Those that gave up stay in line until a connection is offered to them.
        waiting=sum(not (each.conn or each.error) for each in list(pool._waiting)),
        min_size=pool.min_size,
        max_size=pool.max_size,
        max_idle=0 if keeps_none(pool) else pool.max_size,
        acquire_timeout=pool.timeout,
        state="open" if not pool.closed else "closed" if pool._opened else "new",
    )


def has_to_wait(pool: Any) -> bool:
    """Tell whether a request that begins now does, when no connection is idle."""
    if pool.closed or 0 < pool.max_waiting <= len(pool._waiting):
        return False
    return not keeps_none(pool) or 0 < pool.max_size <= pool.get_stats()["pool_size"]


def on_loan(pool: Any) -> list[Any]:
    """Return the connections that are neither idle nor being opened. It takes some time."""
    if not pool._opened or pool.get_stats()["pool_size"] <= len(pool._pool):
        return []
    kinds: tuple[type, ...] = (psycopg.Connection, psycopg.AsyncConnection)
    if isinstance(pool.connection_class, type):
        kinds += (pool.connection_class,)
    # By type, for the `__class__` of a proxy may be anything, and may run code.
    candidates = [thing for thing in gc.get_objects() if issubclass(type(thing), kinds)]
    return [thing for thing in candidates if getattr(thing, "_pool", None) is pool]


def why_left(pool: Any, connection: Any, before: int) -> CloseReason:
    """Return why a connection was closed that was given back with this status."""
    if pool.closed:
        return CloseReason.POOL_CLOSED
    if before == TransactionStatus.ACTIVE:
        return CloseReason.DIRTY
    if getattr(connection, "_created_at", inf) <= getattr(pool, "_drained_at", -inf):
        return CloseReason.STALE
    if is_expired(connection):
        return CloseReason.LIFETIME
    failed = before != TransactionStatus.IDLE and getattr(connection, "broken", True)
    return CloseReason.BROKEN if failed or pool._reset is None else CloseReason.RESET


def is_expired(connection: Any) -> bool:
    """Tell whether a connection is older than it may be."""
    expires: float = getattr(connection, "_expire_at", inf)
    return expires <= monotonic()


def why_lost(pool: Any) -> CloseReason:
    """Return why a pool has dropped a connection that was given back in a good state."""
    if pool is None or pool.closed:
        return CloseReason.POOL_CLOSED
    return CloseReason.BROKEN if pool._check is None else CloseReason.VALIDATION


def describe(pool: Any, name: str | None) -> tuple[str | None, Target]:
    """Return what to call a pool, and what it connects to. Calls nothing of the application's."""
    given = None if _NUMBERED.fullmatch(pool.name) else pool.name
    options = _options(pool)
    host = _first(options, "host") or _first(options, "hostaddr")
    port = _first(options, "port") or "5432"
    here = not host or host.startswith("/")
    target = Target(
        "postgresql",
        host or None,
        None if here or not port.isdecimal() else int(port),
        _first(options, "dbname") or None,
    )
    return pool_name(name or given, options.get("application_name"), target), target


def _options(pool: Any) -> dict[str, Any]:
    """Return what is said without a call, and is no secret."""
    conninfo, options = pool.conninfo, pool.kwargs or {}
    if callable(options):
        return {}
    try:
        said = {} if callable(conninfo) else conninfo_to_dict(conninfo or "")
    except psycopg.Error:
        said = {}
    return {key: options.get(key) or said.get(key) for key in _NAMES}


def _first(options: dict[str, Any], key: str) -> str:
    """Return an option, of several hosts or ports the first; nothing if it may hold a secret."""
    text = str(options.get(key) or "").split(",")[0]
    return text if _PLAIN.fullmatch(text) else ""
