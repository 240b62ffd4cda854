"""What happens to another library's pool, as its adapter reports it, becomes events.

An adapter wraps the methods of a library and reports what they do: `requested`, then `acquired` or
`failed`, then `released`, `detached` or `reclaimed`; `connecting`, then `opened` or `not_opened`,
then `closed`. Reports of what nobody knew before, such as the return of a connection that was lent
before anybody looked, change nothing.
"""

from __future__ import annotations

import asyncio
import threading
from itertools import count
from time import monotonic
from typing import Any

from poolscope.bus import ROOT, EventBus
from poolscope.events import (
    AcquireFailed,
    AcquireSource,
    AcquireTimedOut,
    CloseReason,
    ConnectFailed,
    ConnectFault,
    ConnectionAcquired,
    ConnectionClosed,
    ConnectionDetached,
    ConnectionOpened,
    ConnectionReleased,
    ConnectionRequested,
    ConnectStarted,
    Event,
    FailureReason,
    LeakReclaimed,
    RequestQueued,
    SaturationEnded,
    SaturationStarted,
)
from poolscope.faults import classify
from poolscope.stats import PoolStats
from poolscope.strain import Strain

_IDLE = AcquireSource.IDLE


class Connection:
    """A connection of a foreign pool, and the lease it is in."""

    __slots__ = ("attempt", "id", "opened_at", "request", "since", "site")

    def __init__(self, connection_id: str, opened_at: float) -> None:
        self.id = connection_id
        self.opened_at = opened_at
        """Or since when it has been known."""
        self.request = 0
        """Of the present or last lease."""
        self.since = 0.0
        """When that began; 0 before the first, if it is known from its beginning."""
        self.site: str | None = None
        """Where the application asked for it, as `file:line`, when known."""
        self.attempt = 0


class Reports:
    """Takes reports of one pool, from any thread, and publishes events."""

    name: str

    def __init__(self) -> None:
        """Know of nothing."""
        self.bus = EventBus(ROOT)
        self.retired = False
        """Whether the pool is closed, but for what is lent."""
        self.begin()

    def begin(self) -> None:
        """Know of nothing under way, and count from zero."""
        self._lock = threading.RLock()
        self._numbers = count(1)
        self.number = self._numbers.__next__
        """Return the number of the next event, which names a request too."""
        self.serial = count(1).__next__
        self.requests: dict[int, float] = {}
        """Those not yet ended, and when they began."""
        self.line: dict[int, float] = {}
        """Those of them that have to wait."""
        self.connections: dict[int, Connection] = {}
        """Those known, by the identity of their objects."""
        self.leases: dict[int, Connection] = {}
        """Those in use, by the same."""
        self.inherited: set[int] = set()
        """Identities of connections that a parent process opened, and this one has not used."""
        self.strain = Strain()
        self.streak = 0
        """Connects that failed since the last success."""

    def stats(self) -> PoolStats:
        """Return the levels of the pool."""
        raise NotImplementedError

    def retire(self) -> None:
        """Tell that the pool closed: the observation ends when the last lease does."""
        raise NotImplementedError

    def publish(self, kind: type[Event], *fields: Any) -> None:
        """Publish an event of this pool, which happens now."""
        self._publish_at(monotonic(), kind, *fields)

    def _publish_at(self, now: float, kind: type[Event], *fields: Any) -> None:
        number = self.number()
        if self.bus.hooks[kind]:
            self.bus.publish(kind, self.name, now, number, *fields)

    # Requests

    def requested(self) -> int:
        """Tell that somebody asks for a connection; return the number of the request."""
        now, request = monotonic(), self.number()
        self.requests[request] = now
        for hook in self.bus.request_hooks[0]:
            try:
                hook(self.name, now, request)
            except BaseException as error:  # a subscriber must not harm the pool
                self.bus.report(hook, ConnectionRequested, error)
        return request

    def queued(self, request: int) -> None:
        """Tell that a request has to wait. May be told again."""
        if request not in self.requests or request in self.line:
            return
        self.line[request] = monotonic()
        self.publish(RequestQueued, request, len(self.line))
        stats = self.stats()
        if 0 < stats.max_size <= stats.in_use:
            with self._lock:
                now, waiting, begins = monotonic(), len(self.line), not self.strain.saturated
                if begins:
                    self.strain.begin(now, waiting)
                self.strain.peak_waiting = max(self.strain.peak_waiting, waiting)
            if begins:
                self._publish_at(now, SaturationStarted, waiting)

    def acquired(self, request: int, connection: object) -> Connection | None:
        """Tell that a request got a connection; return what is known of that."""
        now = monotonic()
        began = self.requests.pop(request, None)
        if began is None:
            return None
        key = id(connection)
        lease = self.connections.get(key)
        if lease is None:
            lease = self._meet(connection, now)
        source = _IDLE if lease.since else AcquireSource.NEW
        if self.line and self._leave_line(request, now) and source is _IDLE:
            source = AcquireSource.HANDOFF
        lease.request = request
        lease.since = now
        leases = self.leases
        leases[key] = lease
        strain = self.strain
        if now >= strain.step_ends:
            strain.step(len(leases), now)
        elif len(leases) > strain.peak:
            strain.peak = len(leases)
        number = self.number()
        for hook in self.bus.request_hooks[1]:
            try:
                hook(self.name, now, number, request, now - began, source, lease.id)
            except BaseException as error:  # a subscriber must not harm the pool
                self.bus.report(hook, ConnectionAcquired, error)
        return lease

    def failed(self, request: int, error: BaseException, reason: FailureReason) -> None:
        """Tell that a request ended without a connection."""
        began = self.requests.pop(request, None)
        if began is None:
            return
        now = monotonic()
        self._leave_line(request, now)
        if reason is FailureReason.TIMEOUT:
            cause = error.__cause__
            cause = cause if isinstance(cause, Exception) else None  # a deadline cancels
            self.publish(AcquireTimedOut, request, now - began, self.stats(), cause)
        else:
            self.publish(AcquireFailed, request, now - began, reason, error)
        if self.retired:
            self.retire()

    def _leave_line(self, request: int, now: float) -> bool:
        """Take a request out of the line; tell whether it was there."""
        if self.line.pop(request, None) is None:
            return False
        if not self.line and (ended := self._end_saturation(now)) is not None:
            self._publish_at(now, SaturationEnded, *ended)
        return True

    def _end_saturation(self, now: float) -> tuple[float, int] | None:
        with self._lock:
            if not self.strain.saturated:
                return None
            return self.strain.end(now), self.strain.peak_waiting

    # Leases

    def released(self, connection: object, reset: float = 0.0) -> None:
        """Tell that a connection is given back. Tell it before anybody else can get it."""
        lease = self.leases.pop(id(connection), None)
        if lease is None:
            return
        now, number = monotonic(), self.number()
        for hook in self.bus.release_hooks:
            try:
                hook(self.name, now, number, lease.request, lease.id, now - lease.since, reset)
            except BaseException as error:  # a subscriber must not harm the pool
                self.bus.report(hook, ConnectionReleased, error)
        if self.retired:
            self.retire()

    def detached(self, connection: object) -> None:
        """Tell that a connection was taken out of the pool for good."""
        lease = self.leases.pop(id(connection), None)
        known = self.connections.pop(id(connection), None)
        if lease is not None and known is not None:
            now = monotonic()
            use, age = now - lease.since, now - known.opened_at
            self.publish(ConnectionDetached, lease.request, lease.id, use, age)
        if self.retired:
            self.retire()

    def reclaimed(self, connection: object, reason: CloseReason) -> None:
        """Tell that the pool took a connection back by force, and closes it."""
        if (lease := self.leases.pop(id(connection), None)) is not None:
            use = monotonic() - lease.since
            self.publish(LeakReclaimed, lease.request, lease.id, use, reason, lease.site)
        self.closed(connection, reason)
        if self.retired:
            self.retire()

    # Connections

    def connecting(self, request: int = 0) -> Connection:
        """Tell that a connection is being opened, and for which request, if for one."""
        connection = Connection(f"{self.name}#{self.serial()}", monotonic())
        connection.request, connection.attempt = request, self.streak + 1
        self.queued(request)
        self.publish(ConnectStarted, connection.id, connection.attempt, request)
        return connection

    def opened(self, new: Connection, connection: object) -> None:
        """Tell that a connection is open: this object it is from now on."""
        now = monotonic()
        create, new.opened_at, new.request = now - new.opened_at, now, 0
        self.streak = 0
        self.inherited.discard(id(connection))
        self.connections[id(connection)] = new
        self.publish(ConnectionOpened, new.id, create)

    def not_opened(
        self, new: Connection, error: BaseException, fault: ConnectFault | None = None
    ) -> None:
        """Tell that a connection could not be opened; the error says why, unless `fault` does."""
        if fault is None:
            fault = classify(error) if isinstance(error, Exception) else ConnectFault.ABANDONED
        self.streak += fault is not ConnectFault.ABANDONED
        create = monotonic() - new.opened_at
        self.publish(ConnectFailed, new.id, create, new.attempt, error, fault)

    def closed(self, connection: object, reason: CloseReason) -> None:
        """Tell that a connection is closed, or is about to be. Told twice, it counts once."""
        if (known := self.connections.pop(id(connection), None)) is not None:
            self.publish(ConnectionClosed, known.id, reason, monotonic() - known.opened_at)

    def meet(self, connection: object) -> None:
        """Tell of a connection that was there before anybody looked."""
        self.connections.get(id(connection)) or self._meet(connection, monotonic())

    def _meet(self, connection: object, now: float) -> Connection:
        key, met = id(connection), Connection(f"{self.name}#{self.serial()}", now)
        met.since = now  # it is not new
        self.inherited.discard(key)
        return self.connections.setdefault(key, met)


def why(error: BaseException, *known: tuple[type[BaseException], FailureReason]) -> FailureReason:
    """Return why a request failed, by the type of what its caller got; `known` ones come first."""
    for kind, reason in known:
        if isinstance(error, kind):
            return reason
    if isinstance(error, asyncio.CancelledError) or not isinstance(error, Exception):
        return FailureReason.CANCELLED
    return FailureReason.CONNECT_FAILED
