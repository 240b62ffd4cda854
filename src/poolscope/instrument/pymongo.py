"""Pools of PyMongo: one for each server that a client knows, and one more to watch that server.

PyMongo publishes events of its pools, yet none for a request that is cancelled while it waits, and
none to a listener that comes after the client. So the methods that publish them are wrapped. What
is private of a pool is read in the first half of this module.
"""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from poolscope.events import CloseReason, FailureReason
from poolscope.instrument.around import around, reporting
from poolscope.instrument.levels import Levels
from poolscope.instrument.library import MARK, Library
from poolscope.instrument.naming import pool_name
from poolscope.instrument.patches import Patches
from poolscope.instrument.reports import Connection, why
from poolscope.instrument.source import UNKNOWN, ForeignPool
from poolscope.target import Target
from poolscope.telemetry import catalog

_LIMITS = frozenset({catalog.MAX.name, catalog.IDLE_MAX.name})
_REASONS = {
    "idle": CloseReason.IDLE,
    "stale": CloseReason.STALE,
    "poolClosed": CloseReason.POOL_CLOSED,
}
"""By PyMongo's own words, those of `ConnectionClosedReason`; all others mean that it broke."""

_asking: ContextVar[int] = ContextVar("_asking", default=0)
"""The request for which connections are opened in this context."""


class PymongoLibrary(Library):
    """Observes the pools of `MongoClient` and `AsyncMongoClient`."""

    name = "pymongo"
    distribution = "pymongo"
    tried = "4.13 to 4.20"

    def kinds(self) -> tuple[type, ...]:
        """Return the class for threads and that for asyncio."""
        from pymongo.asynchronous.pool import Pool as AsyncPool
        from pymongo.synchronous.pool import Pool

        return Pool, AsyncPool

    def patch(self, patches: Patches) -> None:
        """Replace what lends, takes back, opens and closes."""
        for pool, connection in zip(self.kinds(), _connections(), strict=True):
            patches.wrap(pool, "__init__", reporting(then=self.source_of))
            patches.wrap(pool, "_get_conn", around(_asks, _gets, _fails))
            patches.wrap(pool, "connect", around(_connects, _opens, _opens_not))
            patches.wrap(pool, "checkin", reporting(_returns))
            patches.wrap(pool, "close", reporting(then=_ends))
            patches.wrap(connection, "close_conn", reporting(_closes, _ends_for))

    def pool_of(self, thing: Any) -> Any:
        """Return the pool of a client; its only one. Raises TypeError if it has not got one yet."""
        try:
            from pymongo import AsyncMongoClient, MongoClient

            if not isinstance(thing, (MongoClient, AsyncMongoClient)):
                return super().pool_of(thing)
        except ImportError:  # too old
            return None
        servers = getattr(getattr(thing, "_topology", None), "_servers", None) or {}
        if len(servers) == 1:
            return next(iter(servers.values())).pool
        raise TypeError(
            f"this client has {len(servers)} pools, one for each server it has found so far; "
            "observe one that has found a single server, or call instrument('pymongo') instead"
        )

    def source_of(self, pool: Any) -> ForeignPool | None:
        """Return what to report to; nothing for the pool that watches a server."""
        return None if _watches(pool) else super().source_of(pool)

    def begin(self, pool: Any, name: str | None) -> ForeignPool:
        """Return a source; it meets the connections that are there."""
        options = pool.opts
        target = Target("mongodb", *pool.address)
        omits = UNKNOWN
        if not options.max_pool_size:
            omits |= _LIMITS
        if not options.wait_queue_timeout:
            omits |= {catalog.ACQUIRE_TIMEOUT.name}
        source = MongoPool(pool, pool_name(name, options.appname, target), target, omits)
        for connection in (*pool.conns, *_lent(pool)):
            source.known[id(connection)] = connection
            source.meet(connection)
        if pool.closed:
            source.close()
        return source


class MongoPool(ForeignPool):
    """An observed pool, and the connections it has."""

    def __init__(self, pool: Any, name: str | None, target: Target, omits: frozenset[str]) -> None:
        """Begin with no connection known."""
        self.known: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        super().__init__(name, target, _levels(pool, weakref.ref(self)), omits)


LIBRARY = PymongoLibrary()


def _connections() -> tuple[Any, ...]:
    from pymongo.asynchronous.pool import AsyncConnection
    from pymongo.synchronous.pool import Connection as SyncConnection

    return SyncConnection, AsyncConnection


def _watches(pool: Any) -> bool:
    """Tell whether a pool serves to watch a server, not to ask it."""
    return bool(pool.is_sdam if hasattr(pool, "is_sdam") else not pool.handshake)


def _lent(pool: Any) -> Iterator[Any]:
    """Yield the connections that are in use, which a pool holds in no place."""
    if pool.active_sockets:
        kinds = _connections()
        for thing in gc.get_objects():
            if issubclass(type(thing), kinds) and thing.active and thing.pool_ref() is pool:
                yield thing


def _levels(pool: Any, source_ref: Callable[[], MongoPool | None]) -> Callable[[], Levels]:
    pool_ref, process = weakref.ref(pool), os.getpid()

    def levels() -> Levels:
        pool, source = pool_ref(), source_ref()
        if pool is None or source is None:
            return Levels(state="closed")
        options, inherited = pool.opts, getattr(source, "inherited", ())
        idle = [id(each) for each in list(pool.conns)]
        known = list(source.known.items())
        return Levels(
            idle=sum(key not in inherited for key in idle),
            in_use=sum(each.active for key, each in known if key not in inherited),
            # A forked child goes on with nothing that its parent was opening.
            connecting=pool._pending if os.getpid() == process else 0,
            min_size=options.min_pool_size,
            max_size=options.max_pool_size or 0,
            max_idle=options.max_pool_size or 0,
            acquire_timeout=options.wait_queue_timeout or 0.0,
            state="closed" if pool.closed else "open",
        )

    _has_to_wait(pool)
    return levels


def _has_to_wait(pool: Any) -> bool:
    """Tell whether a request does that begins now: for a place, or for others that connect."""
    full, connecting = pool.requests >= pool.max_pool_size, pool._pending >= pool._max_connecting
    return bool(full or (connecting and not pool.conns))


# What is reported


def _source_of(pool: Any) -> Any:
    return pool.__dict__.get(MARK) or LIBRARY.source_of(pool)


def _asks(pool: Any, *_: Any) -> tuple[Any, ...] | None:
    source = _source_of(pool)
    if source is None:
        return None
    request = source.requested()
    if not pool.closed and _has_to_wait(pool):
        source.queued(request)
    _asking.set(request)
    return source, request, pool


def _gets(source: Any, request: int, pool: Any, connection: Any) -> None:
    _asking.set(0)
    source.acquired(request, connection)


def _fails(source: Any, request: int, pool: Any, error: BaseException) -> None:
    from pymongo.errors import PyMongoError, WaitQueueTimeoutError

    _asking.set(0)
    timeout = (WaitQueueTimeoutError, FailureReason.TIMEOUT)
    closed = [(PyMongoError, FailureReason.CLOSED)] if pool.closed else []
    source.failed(request, error, why(error, timeout, *closed))


def _connects(pool: Any, *_: Any) -> tuple[Any, ...] | None:
    source = _source_of(pool)
    if source is None:
        return None
    request = _asking.get()
    return source, source.connecting(request if request in source.requests else 0)


def _opens(source: Any, new: Connection, connection: Any) -> None:
    source.known[id(connection)] = connection
    source.opened(new, connection)


def _opens_not(source: Any, new: Connection, error: BaseException) -> None:
    source.not_opened(new, error)


def _returns(pool: Any, connection: Any, *_: Any) -> None:
    source = _source_of(pool)
    if source is not None:
        source.released(connection)
        if connection.closed:
            source.closed(connection, CloseReason.BROKEN)


def _closes(connection: Any, reason: Any = None, *_: Any) -> None:
    # One that breaks while it is in use leaves the pool when it is given back.
    if not connection.active and (pool := connection.pool_ref()) is not None:
        source = pool.__dict__.get(MARK)
        if source is not None:
            source.closed(connection, _REASONS.get(reason, CloseReason.BROKEN))


def _ends(pool: Any) -> None:
    """End the observation of a closed pool, once nothing is open."""
    source = pool.__dict__.get(MARK)
    if source is not None and pool.closed and not source.connections:
        source.close()


def _ends_for(connection: Any) -> None:
    if (pool := connection.pool_ref()) is not None:
        _ends(pool)
