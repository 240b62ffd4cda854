"""A pool of psycopg_pool, as it is observed."""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from time import monotonic
from typing import Any

from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from poolscope.events import (
    AcquireSource,
    CloseReason,
    ConnectFault,
    ConnectionAcquired,
    ConnectionClosed,
    ConnectionRequested,
    FailureReason,
    LeakReclaimed,
    PoolDrained,
    PoolResized,
)
from poolscope.instrument.levels import Levels
from poolscope.instrument.psycopg import state
from poolscope.instrument.reports import Connection, why
from poolscope.instrument.source import UNKNOWN, ForeignPool
from poolscope.telemetry import catalog

asking: ContextVar[int] = ContextVar("asking", default=0)
"""The request of a pool that keeps no connections, in the context of which one is opened."""

# Every request reaches these without a look-up.
_IDLE, _NEW = AcquireSource.IDLE, AcquireSource.NEW
_UNLIMITED = UNKNOWN | {catalog.MAX.name}
_ENDS = (
    (PoolTimeout, FailureReason.TIMEOUT),
    (TooManyRequests, FailureReason.QUEUE_FULL),
    (PoolClosed, FailureReason.CLOSED),
)


class PsycopgPool(ForeignPool):
    """One of the four kinds of pools, observed. Safe from any thread.

    Connections are known by weak references: one that the pool or its holder loses is closed when
    it is collected, and counts no longer.
    """

    def __init__(self, pool: Any, name: str | None) -> None:
        """Begin to observe. Raises what comes of it if the state of the pool cannot be read."""
        self.begin()  # because the levels are read at once
        self.pool = weakref.ref(pool)
        self.drains = 0
        myself = weakref.ref(self)

        def levels() -> Levels:
            source = myself()
            return source.read() if source is not None else Levels(state="closed")

        omits = UNKNOWN if pool.max_size else _UNLIMITED
        super().__init__(*state.describe(pool, name), levels, omits)
        state.has_to_wait(pool)

    def begin(self) -> None:
        """Know of nothing under way, and count from zero."""
        super().begin()
        self.opening: set[Connection] = set()
        """Connections being opened."""
        self.nets: dict[int, weakref.ref[Any]] = {}
        """What catches connections when they are collected, by their identity."""

    def read(self) -> Levels:
        """Return the levels, as the pool itself says."""
        pool = self.pool()
        if pool is None:
            return Levels(state="closed")
        levels = state.levels(pool, list(self.connections), self.inherited)
        levels.connecting = len(self.opening)
        return levels

    def look_around(self, pool: Any, everywhere: bool = False) -> list[Any]:
        """Return the connections there are; meet those of which nobody told."""
        for connection in list(pool._pool) + (state.on_loan(pool) if everywhere else []):
            if id(connection) not in self.inherited:
                self.meet(connection)
        return [net() for net in list(self.nets.values())]

    # Requests

    def asked(self, pool: Any) -> int:
        """Tell of a request that may have to wait, or to have a connection checked."""
        request = self.requested()
        if state.keeps_none(pool):
            asking.set(request)
        if not pool._pool and state.has_to_wait(pool):
            self.queued(request)
        return request

    def lent(self, began: float, connection: object) -> None:
        """Tell of a request, and that it got a connection at once: `requested` and `acquired`.

        These two, made one for what nearly all requests are.
        """
        now, key = monotonic(), id(connection)
        lease = self.connections.get(key) or self._meet(connection, now)
        bus, number = self.bus, self.number
        requested, acquired = bus.request_hooks
        request = lease.request = number()
        if requested:
            bus.publish(ConnectionRequested, self.name, began, request)
        source = _IDLE if lease.since else _NEW
        lease.since = now
        leases, strain = self.leases, self.strain
        leases[key] = lease
        if now >= strain.step_ends:
            strain.step(len(leases), now)
        elif len(leases) > strain.peak:
            strain.peak = len(leases)
        sequence = number()
        for hook in acquired:
            try:
                hook(self.name, now, sequence, request, now - began, source, lease.id)
            except BaseException as error:  # a subscriber must not harm the pool
                bus.report(hook, ConnectionAcquired, error)

    def served(self, pool: Any, request: int, connection: object) -> None:
        """Tell that a request got a connection, after others that did not pass its check."""
        if pool._check is not None:
            self.sweep(pool, self.look_around(pool), CloseReason.VALIDATION)
        self.acquired(request, connection)

    def refused(self, pool: Any, request: int, began: float, error: BaseException) -> None:
        """Tell that a request ended without a connection; if it is 0, that there was one."""
        if not request:
            request = self.requested()
            self.requests[request] = began
        if pool._check is not None:
            self.sweep(pool, self.look_around(pool), CloseReason.VALIDATION)
        self.failed(request, error, why(error, *_ENDS))

    # Connections

    def started(self, timeout: float | None) -> Connection:
        """Tell that a connection is being opened: in the context of its request if in haste."""
        new = self.connecting(asking.get() if timeout is not None else 0)
        self.opening.add(new)
        return new

    def not_opened(
        self, new: Connection, error: BaseException, fault: ConnectFault | None = None
    ) -> None:
        """Tell that a connection could not be opened, or not be configured."""
        self.opening.discard(new)
        super().not_opened(new, error, fault)

    def opened(self, new: Connection, connection: object) -> None:
        """Tell that a connection is open: this object it is from now on."""
        self.opening.discard(new)
        super().opened(new, connection)
        self._catch(connection)

    def closed(self, connection: object, reason: CloseReason) -> None:
        """Tell that a connection is closed. Told twice, it counts once."""
        self.nets.pop(id(connection), None)
        super().closed(connection, reason)
        if self.retired:
            self.retire()

    def broken(self, pool: Any, connection: Any) -> None:
        """Tell that a connection is given back that is closed, if it was lent by this pool."""
        if getattr(connection, "_pool", None) is pool:
            self.closed(connection, CloseReason.BROKEN)

    def not_taken_back(self, pool: Any, connection: Any, before: int | None) -> None:
        """Tell that a pool raised when a connection was given back, whatever that was."""
        if before is not None:
            self.sweep(pool, [connection], state.why_left(pool, connection, before))

    def left(self, pool: Any, connection: Any, before: int) -> None:
        """Tell that a connection is closed since it was given back with this status."""
        if id(connection) not in self.leases:  # else it was lent, and broke, meanwhile
            self.closed(connection, state.why_left(pool, connection, before))

    def dropped(self, pool: Any, connection: Any, before: int, unused: bool) -> None:
        """Tell that a worker found a connection closed, or closed it, which may be `unused`."""
        if before != state.GONE:
            self.left(pool, connection, before)
        else:
            self.closed(connection, state.why_lost(pool) if unused else CloseReason.BROKEN)

    def not_kept(self, pool: Any, connection: Any) -> None:
        """Tell that a pool which keeps none has closed a connection, for nobody waits."""
        if id(connection) not in self.leases:
            reason = CloseReason.POOL_CLOSED if pool.closed else CloseReason.EXCESS
            self.closed(connection, reason)

    def sweep(self, pool: Any, connections: list[Any], reason: CloseReason) -> None:
        """Tell of each of these that is closed, and neither lent nor in the pool, why it is."""
        idle = {id(connection) for connection in list(pool._pool)}
        for each in connections:
            if each is None or id(each) in idle or id(each) in self.leases:
                continue
            if each.pgconn.transaction_status == state.GONE:
                unfit = reason is CloseReason.VALIDATION and state.is_expired(each)
                self.closed(each, CloseReason.LIFETIME if unfit else reason)

    def _meet(self, connection: object, now: float) -> Connection:
        self._catch(connection)
        return super()._meet(connection, now)

    def _catch(self, connection: Any) -> None:
        key, myself = id(connection), weakref.ref(self)

        def lost(net: weakref.ref[Any]) -> None:
            source = myself()
            if source is not None and source.nets.get(key) is net:
                source._lost(key)

        self.nets[key] = weakref.ref(connection, lost)

    def _lost(self, key: int) -> None:
        """Tell that nobody has a connection any more: it is closed by that."""
        del self.nets[key]
        now, pool = monotonic(), self.pool()
        lease, known = self.leases.pop(key, None), self.connections.pop(key, None)
        reason = state.why_lost(pool)
        if lease is not None:
            reason = CloseReason.LEAK
            use = now - lease.since
            self.publish(LeakReclaimed, lease.request, lease.id, use, reason, lease.site)
        if known is not None:
            self.publish(ConnectionClosed, known.id, reason, now - known.opened_at)
        if self.retired:
            self.retire()

    # The pool

    def drained(self, pool: Any) -> None:
        """Tell that every older connection is closed when it is free."""
        self.drains += 1
        self.publish(PoolDrained, self.drains)

    def resized(self, pool: Any) -> None:
        """Tell that the limits were changed."""
        self.omits = UNKNOWN if pool.max_size else _UNLIMITED
        self.publish(PoolResized, pool.min_size, pool.max_size)

    def ended(self, pool: Any) -> None:
        """Tell that the pool was closed, unless it was never open."""
        if state.levels(pool, (), ()).state == "closed":
            self.retire()

    def retire(self) -> None:
        """Tell that the pool closed: the observation ends when its last connection does."""
        self.retired = True
        if not self.connections and not self.requests:
            self.close()
