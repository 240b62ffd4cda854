"""What is known of a pool of asyncpg, and all that is read of its private state."""

from __future__ import annotations

import os
import sys
import weakref
from asyncio import CancelledError
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any

from asyncpg import Connection as AsyncpgConnection
from asyncpg import InterfaceError
from asyncpg.pool import Pool, PoolConnectionHolder, PoolConnectionProxy
from asyncpg.protocol.protocol import BaseProtocol

from poolscope.events import CloseReason, ConnectFault, FailureReason
from poolscope.instrument.levels import Levels
from poolscope.instrument.library import MARK
from poolscope.instrument.naming import pool_name
from poolscope.instrument.reports import Connection, why
from poolscope.instrument.source import UNKNOWN, ForeignPool
from poolscope.target import Target
from poolscope.telemetry import catalog

_TIMELESS = UNKNOWN | {catalog.ACQUIRE_TIMEOUT.name}
"""A deadline is given with each acquire, or none is."""

_READ = {
    "Pool": "_holders _queue _closed _connect_args _connect_kwargs _generation",
    "PoolConnectionHolder": "_pool _con _in_use _generation _max_queries",
    "PoolConnectionProxy": "_con _holder",
    "Connection": "_aborted _protocol _proxy",
    "BaseProtocol": "queries_count _is_cancelling",
}
"""What is read here, by class."""


class Holders(list[Any]):
    """The holders of a pool, in the place of the list that was there.

    It can have attributes and be weakly referenced, as the pool itself cannot.
    """

    __hash__ = object.__hash__  # type: ignore[assignment]


class Request:
    """A request under way, as those see it who open connections for it."""

    __slots__ = ("not_connected", "number", "source")

    def __init__(self, source: Source, pool: Any) -> None:
        """Begin one, which waits if no holder is free."""
        self.source = source
        self.number = source.requested()
        self.not_connected = False
        """Whether a connection could not be opened for it."""
        queue = pool._queue
        if queue is not None and queue.empty() and not pool.is_closing():
            source.queued(self.number)

    def succeeded(self, proxy: Any) -> None:
        """End it. What it got may be closed already, if it had a deadline: a task of its own."""
        source, con = self.source, proxy._con
        if source.state == "closed":
            return
        source.acquired(self.number, con or proxy)
        if con is None:
            source.released(proxy)
            source.connections.pop(id(proxy), None)

    def failed(self, pool: Any, error: BaseException, has_deadline: bool) -> None:
        """End it without a connection."""
        source, reason = self.source, why(error)
        if source.state == "closed":
            return
        if self.not_connected:
            reason = FailureReason.CONNECT_FAILED
        elif has_deadline and isinstance(error, TimeoutError):
            reason = FailureReason.TIMEOUT
        elif isinstance(error, Exception):
            closed = pool.is_closing() or not pool._holders
            reason = FailureReason.CLOSED if closed else FailureReason.VALIDATION_FAILED
        source.failed(self.number, error, reason)


asking: ContextVar[Request | None] = ContextVar("asking", default=None)
"""For what connections are opened in this context."""

_owners: weakref.WeakValueDictionary[int, Source] = weakref.WeakValueDictionary()
"""By the identity of a connection, who has to know of its end."""


def owner_of(con: Any) -> Source | None:
    """Return who has to know of the end of a connection. Asked again, it is nobody."""
    source = _owners.pop(id(con), None)
    return source if source is not None and source.state != "closed" else None


class Source(ForeignPool):
    """A pool of asyncpg, observed."""

    def __init__(self, pool: Any, holders: Holders, name: str | None) -> None:
        """Begin to observe, and meet the connections that are there."""
        dsn, options = next(iter(pool._connect_args), None), pool._connect_kwargs
        settings, target = options.get("server_settings") or {}, _target(dsn, options)
        # Only versions that tell it from the initial size keep what `min_size` says.
        keeps = hasattr(pool, "get_init_size")
        super().__init__(
            pool_name(name, settings.get("application_name"), target),
            target,
            _levels(holders, pool.get_min_size() if keeps else 0, pool.get_max_size()),
            _TIMELESS if keeps else _TIMELESS | {catalog.IDLE_MIN.name},
        )
        for holder in list(holders):
            if holder.is_connected():
                self.meet(holder._con)
                _owners[id(holder._con)] = self

    def begin(self) -> None:
        """Know of nothing under way, and count from zero."""
        super().begin()
        self.opening = 0
        """Connections that are being opened."""
        self.returning: dict[int, tuple[float, CloseReason]] = {}
        """Those being given back, since when, and why the pool closes them, should it."""
        self.terminated = False

    # Connections

    def begin_connect(self) -> tuple[Connection, Request | None]:
        """Tell that one is being opened; return for which request, too, if for one."""
        request = asking.get()
        # A task that was begun meanwhile goes on to bear a request that has ended.
        if request is not None and (
            request.source is not self or request.number not in self.requests
        ):
            request = None
        self.opening += 1
        return self.connecting(request.number if request is not None else 0), request

    def connected(self, new: Connection, con: Any) -> None:
        """Tell that one is open."""
        self.opening -= 1
        if self.state != "closed":
            _owners[id(con)] = self
            self.opened(new, con)

    def not_connected(
        self, new: Connection, request: Request | None, error: BaseException, closing: bool
    ) -> None:
        """Tell that one could not be opened, perhaps because the pool closed meanwhile."""
        self.opening -= 1
        gave_up = closing and isinstance(error, InterfaceError)
        if request is not None and isinstance(error, Exception) and not gave_up:
            request.not_connected = True
        if self.state != "closed":
            self.not_opened(new, error, ConnectFault.ABANDONED if gave_up else None)

    # Leases

    def taking(self, holder: Any) -> None:
        """Tell that a holder is about to lend its connection, or to open one in its place."""
        if (con := holder._con) is None:
            return
        if con.is_closed():
            self.closed(con, CloseReason.BROKEN)
        elif holder._generation != holder._pool._generation:
            self.closed(con, CloseReason.STALE)

    def returns(self, holder: Any) -> int:
        """Tell that a connection is on its way back; return its key in `returning`."""
        con = holder._con
        self.returning[id(con)] = (monotonic(), _why_not_kept(holder, con))
        return id(con)

    def freed(self, holder: Any) -> None:
        """Tell that a holder is free again, if it was not."""
        con = holder._con
        if con is None or holder._in_use is None:
            return
        returning = self.returning.get(id(con))
        if returning is not None:
            self.released(con, monotonic() - returning[0])
        elif self.terminated and con._aborted:
            self.reclaimed(con, CloseReason.POOL_CLOSED)
        else:
            self.released(con)


def _why_not_kept(holder: Any, con: Any) -> CloseReason:
    """Tell why a connection that is given back is closed, if it is."""
    protocol = con._protocol
    if con.is_closed():
        return CloseReason.BROKEN
    if protocol.queries_count >= holder._max_queries:
        return CloseReason.LIFETIME
    if holder._generation != holder._pool._generation:
        return CloseReason.STALE
    return CloseReason.DIRTY if protocol._is_cancelling() else CloseReason.RESET


def why_closed(source: Source, con: Any) -> CloseReason:
    """Tell why a connection ends, at its end. It is aborted if nobody said goodbye on purpose."""
    returning = source.returning.get(id(con))
    if returning is not None:
        lost = returning[1] in (CloseReason.RESET, CloseReason.DIRTY) and not con._aborted
        return CloseReason.BROKEN if lost else returning[1]
    if con._proxy is None:
        if source.stats().state != "open":
            return CloseReason.POOL_CLOSED
        return CloseReason.IDLE if con._aborted else CloseReason.BROKEN
    if con._proxy._holder._in_use is None:  # `setup` is at it
        cancelled = isinstance(sys.exception(), CancelledError)
        return CloseReason.DIRTY if cancelled else CloseReason.VALIDATION
    return CloseReason.POOL_CLOSED if source.terminated else CloseReason.BROKEN


def _target(dsn: Any, options: dict[str, Any]) -> Target:
    """Return where a pool connects to; its options come before its DSN, as asyncpg has it."""
    try:
        known = Target.from_url(dsn) if isinstance(dsn, str) else Target()
    except ValueError:  # it may be anything
        known = Target()
    environ = os.environ
    address = _first(options.get("host")) or known.address or environ.get("PGHOST")
    port = _first(options.get("port")) or known.port or environ.get("PGPORT") or 5432
    database = options.get("database") or known.namespace or environ.get("PGDATABASE")
    return Target("postgresql", address, int(port) if address else None, database)


def _first(option: Any) -> Any:
    return next(iter(option), None) if isinstance(option, (list, tuple)) else option


def _levels(holders: Holders, min_size: int, max_size: int) -> Callable[[], Levels]:
    found = weakref.ref(holders)

    def levels() -> Levels:
        holders, levels = found(), Levels(min_size=min_size, max_size=max_size, max_idle=max_size)
        if not holders:
            levels.state = "closed" if holders is None else "new"
            return levels
        pool, source = holders[0]._pool, getattr(holders, MARK, None)
        inherited = source.inherited if source is not None else ()
        for holder in list(holders):
            con = holder._con
            if con is not None and not con.is_closed() and id(con) not in inherited:
                if holder._in_use is None:
                    levels.idle += 1
                else:
                    levels.in_use += 1
        levels.connecting = source.opening if source is not None else 0
        levels.waiting = 0 if os.getpid() != process else _waiting(pool)
        levels.state = "closed" if pool._closed else "closing" if pool.is_closing() else "open"
        return levels

    process = os.getpid()
    return levels


def _waiting(pool: Any) -> int:
    getters = getattr(pool._queue, "_getters", ())
    return sum(not getter.done() for getter in list(getters))


def check() -> None:
    """Raise AttributeError if something that is read here is missing."""
    for kind in (Pool, PoolConnectionHolder, PoolConnectionProxy, AsyncpgConnection, BaseProtocol):
        for name in _READ[kind.__name__].split():
            getattr(kind, name)
