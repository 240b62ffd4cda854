"""Pools of aiomysql.

Connections are opened within `Pool._fill_free_pool`, which each acquire calls, and which opens
what `minsize` lacks, too. They are closed by `Connection.close`, whoever calls it. What is private
of them is read in the first half of this module.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Collection
from contextvars import ContextVar
from typing import Any

from poolscope.events import CloseReason, FailureReason
from poolscope.instrument.levels import Levels
from poolscope.instrument.library import MARK, Library
from poolscope.instrument.naming import pool_name
from poolscope.instrument.patches import Patches
from poolscope.instrument.reports import why
from poolscope.instrument.source import UNKNOWN, ForeignPool
from poolscope.target import Target
from poolscope.telemetry import catalog

Inner = Callable[..., Any]

_TIMELESS = UNKNOWN | {catalog.ACQUIRE_TIMEOUT.name, catalog.TIMEOUTS.name}
"""Its acquire knows no deadline: one set from outside cancels it."""
_LIMITS = frozenset({catalog.MAX.name, catalog.IDLE_MAX.name})

_asking: ContextVar[tuple[ForeignPool, int] | None] = ContextVar("_asking", default=None)
"""For which pool, and which of its requests, connections are opened in this context."""


class AiomysqlLibrary(Library):
    """Observes `aiomysql.Pool`."""

    name = "aiomysql"
    distribution = "aiomysql"
    tried = "0.2.0 to 0.3.2"

    def kinds(self) -> tuple[type, ...]:
        """Return the one class there is."""
        from aiomysql.pool import Pool  # type: ignore[import-untyped]

        return (Pool,)

    def patch(self, patches: Patches) -> None:
        """Replace what lends, takes back, opens and closes."""
        from aiomysql.connection import Connection  # type: ignore[import-untyped]

        (pool,) = self.kinds()
        patches.wrap(pool, "__init__", _init)
        patches.wrap(pool, "_acquire", _acquire)
        patches.wrap(pool, "_fill_free_pool", _fill)
        patches.wrap(pool, "release", _release)
        patches.wrap(pool, "terminate", _terminate)
        patches.wrap(pool, "wait_closed", _wait_closed)
        patches.wrap(Connection, "_connect", _connect)
        patches.wrap(Connection, "close", _close)
        patches.wrap(Connection, "ensure_closed", _ensure_closed)

    def begin(self, pool: Any, name: str | None) -> ForeignPool:
        """Return a source; it meets the connections that are there."""
        options = pool._conn_kwargs
        target = _target(options)
        source = ForeignPool(
            pool_name(name, options.get("program_name"), target),
            target,
            _levels(pool),
            _TIMELESS if pool.maxsize else _TIMELESS | _LIMITS,
        )
        for connection in (*pool._free, *pool._used):
            source.meet(connection)
        if pool.closed:
            source.retire()
        return source

    def lender(self, connection: Any) -> tuple[Any, ForeignPool] | None:
        """Return the pool that a connection belongs to, and what to report to."""
        for pool, source in list(self._sources.items()):
            if id(connection) in source.connections:
                return pool, source
        return None


LIBRARY = AiomysqlLibrary()


def _target(options: dict[str, Any]) -> Target:
    if options.get("read_default_file"):
        return Target("mysql")  # the file has the last word on the rest
    database = options.get("db")
    if socket := options.get("unix_socket"):
        return Target("mysql", str(socket), namespace=database)
    return Target("mysql", options.get("host", "localhost"), options.get("port", 3306), database)


def _levels(pool: Any) -> Callable[[], Levels]:
    pool_ref, process = weakref.ref(pool), os.getpid()

    def levels() -> Levels:
        pool = pool_ref()
        if pool is None:
            return Levels(state="closed")
        source = pool.__dict__.get(MARK)
        inherited = source.inherited if source is not None else set()
        return Levels(
            idle=_own(pool._free, inherited),
            in_use=_own(pool._used, inherited),
            # A forked child goes on with nothing that its parent was opening.
            connecting=pool._acquiring if os.getpid() == process else 0,
            min_size=pool.minsize,
            max_size=pool.maxsize or 0,
            max_idle=pool.maxsize or 0,
            state="closed" if pool.closed else "closing" if pool._closing else "open",
        )

    pool._cond.locked()  # there is such a thing, or this is no pool we know
    return levels


def _own(connections: Collection[Any], inherited: set[int]) -> int:
    """Count those that are not of a parent process."""
    if not inherited:
        return len(connections)
    return sum(id(connection) not in inherited for connection in list(connections))


def has_to_wait(pool: Any) -> bool:
    """Tell whether an acquire that begins now does: for others, or for a new connection."""
    return not pool._closing and (not pool._free or pool._cond.locked())


def why_closed(pool: Any, connection: Any) -> CloseReason:
    """Tell why a pool closes a connection, which is still open."""
    reader = getattr(connection, "_reader", None)
    if connection.get_transaction_status():
        return CloseReason.DIRTY
    if pool._closing:
        return CloseReason.POOL_CLOSED
    if reader is None or reader.at_eof() or reader.exception():
        return CloseReason.BROKEN
    # Some servers say farewell first: the end is there, but not yet read.
    return CloseReason.BROKEN if getattr(reader, "eof_received", False) else CloseReason.LIFETIME


def why_lost(connection: Any) -> CloseReason:
    """Tell why a connection comes back closed."""
    cut_short = getattr(connection, "_close_reason", None)
    return CloseReason.DIRTY if cut_short else CloseReason.BROKEN


def _init(inner: Inner) -> Inner:
    def init(pool: Any, *args: Any, **options: Any) -> None:
        inner(pool, *args, **options)
        LIBRARY.source_of(pool)

    return init


def _acquire(inner: Inner) -> Inner:
    async def acquire(pool: Any) -> Any:
        source = pool.__dict__.get(MARK) or LIBRARY.source_of(pool)
        if source is None:
            return await inner(pool)
        request = source.requested()
        if has_to_wait(pool):
            source.queued(request)
        _asking.set((source, request))
        try:
            connection = await inner(pool)
        except BaseException as error:
            closed = [(RuntimeError, FailureReason.CLOSED)] if pool._closing else []
            source.failed(request, error, why(error, *closed))
            raise
        finally:
            _asking.set(None)
        source.acquired(request, connection)
        return connection

    return acquire


def _fill(inner: Inner) -> Inner:
    async def fill(pool: Any, override_min: bool) -> Any:
        asking = _asking.get()
        if asking is not None:
            result = await inner(pool, override_min)
            if not pool._free:
                asking[0].queued(asking[1])
            return result
        source = pool.__dict__.get(MARK) or LIBRARY.source_of(pool)
        if source is None:
            return await inner(pool, override_min)
        _asking.set((source, 0))
        try:
            return await inner(pool, override_min)
        finally:
            _asking.set(None)

    return fill


def _connect(inner: Inner) -> Inner:
    async def connect(connection: Any) -> Any:
        asking = _asking.get()
        if asking is None:  # not of a pool, or by `ping` in the place of one that is
            return await inner(connection)
        source, request = asking
        source.queued(request)
        # While others are idle, what is opened is not for the one who has to wait for it.
        new = source.connecting(0 if source.stats().idle else request)
        try:
            result = await inner(connection)
        except BaseException as error:
            source.not_opened(new, error)
            raise
        source.opened(new, connection)
        return result

    return connect


def _release(inner: Inner) -> Inner:
    def release(pool: Any, conn: Any) -> Any:
        source = pool.__dict__.get(MARK) or LIBRARY.source_of(pool)
        if source is not None:
            source.released(conn)
            if getattr(conn, "closed", False):  # it may be anything
                source.closed(conn, why_lost(conn))
        return inner(pool, conn)

    return release


def _terminate(inner: Inner) -> Inner:
    def terminate(pool: Any) -> Any:
        source = pool.__dict__.get(MARK) or LIBRARY.source_of(pool)
        if source is not None:
            for connection in list(pool._used):
                source.reclaimed(connection, CloseReason.POOL_CLOSED)
        return inner(pool)

    return terminate


def _wait_closed(inner: Inner) -> Inner:
    async def wait_closed(pool: Any) -> Any:
        result = await inner(pool)
        source = pool.__dict__.get(MARK)
        if source is not None:
            source.retire()
        return result

    return wait_closed


def _close(inner: Inner) -> Inner:
    def close(connection: Any) -> Any:
        if not connection.closed and (found := LIBRARY.lender(connection)) is not None:
            pool, source = found
            if connection not in pool._used:  # else its holder closes it, and the pool keeps it
                source.closed(connection, why_closed(pool, connection))
        return inner(connection)

    return close


def _ensure_closed(inner: Inner) -> Inner:
    async def ensure_closed(connection: Any) -> Any:
        if not connection.closed and (found := LIBRARY.lender(connection)) is not None:
            pool, source = found
            if connection not in pool._used:
                source.closed(connection, CloseReason.STALE)  # by `Pool.clear`
        return await inner(connection)

    return ensure_closed
