"""What is known of a pool of asyncpg, and all that is read of its private state."""

from __future__ import annotations

import os
import sys
import weakref
from asyncio import CancelledError
from collections.abc import Callable
from contextvars import ContextVar
from inspect import unwrap
from time import monotonic
from types import CodeType, FrameType
from typing import Any

from asyncpg import Connection as AsyncpgConnection
from asyncpg import InterfaceError
from asyncpg.pool import Pool, PoolConnectionHolder, PoolConnectionProxy

from poolscope.events import CloseReason, ConnectFault, ConnectionClosed, FailureReason
from poolscope.instrument.levels import Levels
from poolscope.instrument.library import MARK
from poolscope.instrument.naming import pool_name
from poolscope.instrument.reports import Connection, why
from poolscope.instrument.source import UNKNOWN, ForeignPool
from poolscope.target import Target
from poolscope.telemetry import catalog

_TIMELESS = UNKNOWN | {catalog.ACQUIRE_TIMEOUT.name}
"""A deadline is given with each acquire, or none is."""
_TIMEOUT = ((TimeoutError, FailureReason.TIMEOUT),)

_READ = {
    "Pool": "_holders _queue _closed _connect_args _connect_kwargs _generation",
    "PoolConnectionHolder": "_pool _con _in_use _generation",
    "PoolConnectionProxy": "_con _holder",
    "Connection": "_aborted _proxy _cancellations",
}
"""What is read here, by class."""


class Holders(list[Any]):
    """The holders of a pool, in the place of the list that was there.

    It can have attributes and be weakly referenced, as the pool itself cannot.
    """

    __hash__ = object.__hash__  # type: ignore[assignment]


asking: ContextVar[int] = ContextVar("asking", default=0)
"""The last request that was made in this context."""

_owners: weakref.WeakValueDictionary[int, Source] = weakref.WeakValueDictionary()
"""By the identity of a connection, who has to know of its end."""


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
        self.refused: set[int] = set()
        """Requests for which a connection could not be opened."""

    # Requests

    def lent(self, request: int, proxy: Any) -> None:
        """Tell what a request got. It may be closed already, if a task got it for its caller."""
        if self.state == "closed":
            return
        con = proxy._con
        self.acquired(request, con or proxy)
        if con is None:
            self.released(proxy)
            self.connections.pop(id(proxy), None)

    def lent_nothing(self, request: int, error: BaseException, pool: Any, timed: bool) -> None:
        """Tell that a request ended without a connection; `timed` if it had a deadline."""
        if self.state == "closed":
            return
        reason = why(error, *_TIMEOUT if timed else ())
        if request in self.refused:
            self.refused.discard(request)
            reason = FailureReason.CONNECT_FAILED
        elif reason is FailureReason.CONNECT_FAILED:  # it was not that
            closed = pool.is_closing() or not pool._holders
            reason = FailureReason.CLOSED if closed else FailureReason.VALIDATION_FAILED
        self.failed(request, error, reason)

    # Connections

    def connects(self, pool: Any) -> tuple[Connection, int]:
        """Tell that one is being opened; return for which request, too."""
        held = {id(holder._con) for holder in pool._holders}
        for key in self.connections.keys() - held:  # let go of, for they had expired
            known = self.connections.pop(key)
            age = monotonic() - known.opened_at
            self.publish(ConnectionClosed, known.id, CloseReason.STALE, age)
        request = asking.get()
        # A task that was begun by a request goes on to bear it.
        request = request if request in self.requests else 0
        self.opening += 1
        return self.connecting(request), request

    def connected(self, new: Connection, con: Any) -> None:
        """Tell that one is open."""
        self.opening -= 1
        if self.state != "closed":
            _owners[id(con)] = self
            self.opened(new, con)

    def not_connected(
        self, new: Connection, request: int, error: BaseException, closing: bool
    ) -> None:
        """Tell that one could not be opened, perhaps because the pool closed meanwhile."""
        self.opening -= 1
        if self.state == "closed":
            return
        gave_up = closing and isinstance(error, InterfaceError)
        if request and isinstance(error, Exception) and not gave_up:
            self.refused.add(request)
        self.not_opened(new, error, ConnectFault.ABANDONED if gave_up else None)

    def ends(self, con: Any, reason: CloseReason) -> None:
        """Tell that one is about to close, lent or not."""
        if reason is CloseReason.POOL_CLOSED and id(con) in self.leases:
            self.reclaimed(con, reason)
        else:
            self.released(con)
            self.closed(con, reason)


def owner_of(con: Any) -> Source | None:
    """Return who has to know of the end of a connection. Asked again, it is nobody."""
    source = _owners.pop(id(con), None)
    return source if source is not None and source.state != "closed" else None


def has_to_wait(pool: Any) -> bool:
    """Tell whether an acquire that begins now finds no holder."""
    queue = pool._queue
    return queue is not None and queue.empty() and not pool.is_closing()


_ENDS = (
    (PoolConnectionHolder, "release", CloseReason.RESET),
    (PoolConnectionHolder, "acquire", CloseReason.VALIDATION),
    (PoolConnectionHolder, "_deactivate_inactive_connection", CloseReason.IDLE),
    (PoolConnectionHolder, "close", CloseReason.POOL_CLOSED),
    (AsyncpgConnection, "_cancel", CloseReason.DIRTY),
    (Pool, "terminate", CloseReason.POOL_CLOSED),
    (Pool, "_async__init__", CloseReason.POOL_CLOSED),
)
"""What closes connections, and why."""
_reasons: dict[CodeType, CloseReason] = {}
"""The same, by what runs then."""
_DEEP = 20
"""Frames looked at: asyncpg is nearer."""
_CANCELLING = ("_wait_for_cancellation", "wait_for")
"""What waits for the end of the command that a caller left."""


def why_closed(con: Any) -> CloseReason:
    """Tell why a connection ends, by who is ending it at this moment, in this thread."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_DEEP):
        if frame is None:
            break
        reason = _reasons.get(frame.f_code)
        if reason is CloseReason.RESET:
            return _why_not_kept(con)
        if reason is CloseReason.VALIDATION and isinstance(sys.exception(), CancelledError):
            return CloseReason.DIRTY
        if reason is not None:
            return reason
        frame = frame.f_back
    return _why_lost(con)


def _why_not_kept(con: Any) -> CloseReason:
    """Tell why a connection that is given back is closed."""
    error = sys.exception()
    trace = error.__traceback__ if error is not None else None
    if trace is not None and _reasons.get(trace.tb_frame.f_code) is CloseReason.RESET:
        within = trace.tb_next.tb_frame.f_code.co_name if trace.tb_next is not None else ""
        cancelling = con._cancellations or within.endswith(_CANCELLING)
        return CloseReason.DIRTY if cancelling else CloseReason.RESET
    if con._aborted:
        return _why_lost(con)
    holder = con._proxy._holder
    is_stale = holder._generation != holder._pool._generation
    return CloseReason.STALE if is_stale else CloseReason.LIFETIME


def _why_lost(con: Any) -> CloseReason:
    """Tell why a connection ends that the pool did not mean to close."""
    # Who waits for the end of a command that was left, and gives up, may be on no stack.
    return CloseReason.DIRTY if con._aborted and con._cancellations else CloseReason.BROKEN


def _target(dsn: Any, options: dict[str, Any]) -> Target:
    """Return where a pool connects to; its options come before its DSN, as asyncpg has it."""
    try:
        known = Target.from_url(dsn) if isinstance(dsn, str) else Target()
    except ValueError:  # it may be anything
        known = Target()
    address = _first(options.get("host") or known.address or os.environ.get("PGHOST"))
    port = _first(options.get("port") or known.port or os.environ.get("PGPORT"))
    database = options.get("database") or known.namespace or os.environ.get("PGDATABASE")
    if not address:
        return Target("postgresql", namespace=database)
    default = None if address.startswith("/") else 5432
    return Target("postgresql", address, int(port) if port.isdecimal() else default, database)


def _first(option: Any) -> str:
    """Return the first of several hosts or ports, given as asyncpg takes them."""
    if not isinstance(option, (list, tuple)):
        option = str(option or "").split(",")
    return str(next(iter(option), ""))


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
            if con is None or con.is_closed() or id(con) in inherited:
                continue
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


def look_for_all() -> None:
    """Look for what is read here. Raises AttributeError if something is missing."""
    for kind in (Pool, PoolConnectionHolder, PoolConnectionProxy, AsyncpgConnection):
        for name in _READ[kind.__name__].split():
            getattr(kind, name)
    for kind, name, reason in _ENDS:
        _reasons[unwrap(getattr(kind, name)).__code__] = reason
