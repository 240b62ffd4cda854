"""What happened to a pool, counted: the one subscriber that sees every acquire and release.

It subscribes with taps, so that counting an acquire and a release costs no event objects.

Threads that share a pool count at once. What is rare takes turns. An acquire and a release cannot
afford that: where there is a GIL, they call nothing while they count, so nothing comes in between.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from poolscope.bus import EventBus, Subscription, Tap
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
    Event,
    FailureReason,
    LeakReclaimed,
    LeakSuspected,
    MisuseDetected,
    SubscriberFailed,
)
from poolscope.histogram import Histogram
from poolscope.stats import PoolStats
from poolscope.telemetry import catalog

# The two taps that every acquire and release calls reach these without a look-up.
_IDLE = AcquireSource.IDLE
_WAIT_BUCKETS = catalog.WAIT_BUCKETS
_USE_BUCKETS = catalog.USE_BUCKETS
_FIRST_WAIT = _WAIT_BUCKETS[0]
_FIRST_USE = _USE_BUCKETS[0]

K = TypeVar("K")

RECENT = 60
"""How many recent values the lists of the contract keep."""


class Readable(Protocol):
    """Something whose levels can be read, in one snapshot."""

    def stats(self) -> PoolStats:
        """Return its levels."""


def _nothing() -> None:
    return None


def _has_gil() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def _count(counter: Counter[K], key: K) -> None:
    counter.setdefault(key, 0)  # for one that is missing, a `Counter` runs code while it counts
    counter[key] += 1


class Tally:
    """Count the events of one pool: plain numbers, fixed buckets, bounded lists."""

    def __init__(self) -> None:
        """Start at zero."""
        self._source: Callable[[], Readable | None] = _nothing
        # Weakly: they know these counts, and a cycle would outlast its pool.
        self._subscriptions: list[weakref.ref[Subscription]] = []
        self._renew_lock()
        _tallies.add(self)
        self.reset()

    def _renew_lock(self) -> None:
        # Reentrant, because a finalizer or a signal handler may come in while it is held.
        self._lock = threading.RLock()

    def reset(self) -> None:
        """Set all counts to zero."""
        with self._lock:
            self._begin()

    def _begin(self) -> None:
        self.failures: Counter[FailureReason] = Counter()
        """Requests that ended without a connection, by reason."""
        # All are there from the beginning, for they are counted without a lock.
        self.sources: Counter[AcquireSource] = Counter(dict.fromkeys(AcquireSource, 0))
        """Requests that got a connection which was not idle, by source."""
        self.reclaimed = 0
        self.detached = 0
        self.opened = 0
        self.connect_faults: Counter[ConnectFault] = Counter()
        """Connects that failed, by fault."""
        self.closed: Counter[CloseReason] = Counter()
        self.leaks = 0
        self.misuses = 0
        self.subscriber_errors = 0
        self.wait = Histogram(catalog.WAIT_BUCKETS)
        """Seconds until a connection was acquired."""
        self.failed_wait: dict[FailureReason, Histogram] = {}
        """Seconds until a request ended without a connection, by reason."""
        self.use = Histogram(catalog.USE_BUCKETS)
        """Seconds between acquiring a connection and the end of the lease."""
        self.create = Histogram(catalog.CREATE_BUCKETS)
        """Seconds it took to open a connection."""
        self.failed_create: dict[ConnectFault, Histogram] = {}
        """Seconds a failed connect took, by fault."""
        self.acquisition_times: deque[float] = deque(maxlen=RECENT)
        """The most recent waits, in ms."""
        self.release_times: deque[float] = deque(maxlen=RECENT)
        """How long the most recent releases took (`reset_func`), in ms."""
        self.connection_lifetimes: list[float] = []
        """The ages at which the most recent connections were closed, in s."""
        self._release_time = 0.0

    def subscribe_to(self, bus: EventBus, source: Callable[[], Readable | None]) -> None:
        """Count what this bus publishes, and read levels from what `source` returns."""
        self._source = source
        has_gil = _has_gil()
        taps: dict[type[Event], Tap] = {
            ConnectionAcquired: self._acquired if has_gil else self._acquired_in_turn,
            AcquireTimedOut: self._timed_out,
            AcquireFailed: self._failed,
            ConnectionReleased: self._released if has_gil else self._released_in_turn,
            ConnectionDetached: self._detached,
            LeakReclaimed: self._reclaimed,
            LeakSuspected: self._leaked,
            ConnectionOpened: self._opened,
            ConnectFailed: self._connect_failed,
            ConnectionClosed: self._closed,
            MisuseDetected: self._misused,
            SubscriberFailed: self._subscriber_failed,
        }
        self._subscriptions.append(weakref.ref(bus.tap(taps)))

    @property
    def connect_failures(self) -> int:
        """Return how many connects failed, those the pool gave up itself included."""
        with self._lock:
            return sum(self.connect_faults.values())

    def stats(self) -> PoolStats | None:
        """Return the levels of the pool that is counted, None if there is none."""
        source = self._source()
        return source.stats() if source is not None else None

    def unsubscribe(self) -> None:
        """Count no more. The levels stay readable."""
        for reference in self._subscriptions:
            if (subscription := reference()) is not None:
                subscription.unsubscribe()
        self._subscriptions.clear()

    def _acquired(
        self, _pool: str, _time: float, _sequence: int, _request: int, wait: float,
        source: AcquireSource, _connection: str,
    ) -> None:  # fmt: skip
        histogram = self.wait
        self.acquisition_times.append(wait * 1000)
        bucket = 0 if wait <= _FIRST_WAIT else bisect_left(_WAIT_BUCKETS, wait)
        histogram.counts[bucket] += 1
        histogram.sum += wait
        if source is not _IDLE:
            self.sources[source] += 1

    def _released(
        self, _pool: str, _time: float, _sequence: int, _request: int, _connection: str,
        use: float, reset: float,
    ) -> None:  # fmt: skip
        histogram = self.use
        self.release_times.append(reset * 1000)
        bucket = 0 if use <= _FIRST_USE else bisect_left(_USE_BUCKETS, use)
        histogram.counts[bucket] += 1
        histogram.sum += use
        if reset:
            self._release_time += reset

    def _acquired_in_turn(self, *fields: Any) -> None:
        with self._lock:
            self._acquired(*fields)

    def _released_in_turn(self, *fields: Any) -> None:
        with self._lock:
            self._released(*fields)

    def _timed_out(
        self, _pool: str, _time: float, _sequence: int, _request: int, wait: float, *_: object
    ) -> None:
        self._count_failure(FailureReason.TIMEOUT, wait)

    def _failed(
        self, _pool: str, _time: float, _sequence: int, _request: int, wait: float,
        reason: FailureReason, _error: object,
    ) -> None:  # fmt: skip
        self._count_failure(reason, wait)

    def _count_failure(self, reason: FailureReason, wait: float) -> None:
        with self._lock:
            _count(self.failures, reason)
            if reason not in self.failed_wait:
                self.failed_wait.setdefault(reason, Histogram(catalog.WAIT_BUCKETS))
            self.failed_wait[reason].record(wait)

    def _detached(
        self, _pool: str, _time: float, _sequence: int, _request: int, _connection: str,
        use: float, age: float,
    ) -> None:  # fmt: skip
        with self._lock:
            self.detached += 1
            self.use.record(use)
            self._note_lifetime(age)

    def _reclaimed(
        self, _pool: str, _time: float, _sequence: int, _request: int, _connection: str,
        use: float, *_: object,
    ) -> None:  # fmt: skip
        with self._lock:
            self.reclaimed += 1
            self.use.record(use)

    def _leaked(self, *_: object) -> None:
        with self._lock:
            self.leaks += 1

    def _opened(
        self, _pool: str, _time: float, _sequence: int, _connection: str, create: float
    ) -> None:
        with self._lock:
            self.opened += 1
            self.create.record(create)

    def _connect_failed(
        self, _pool: str, _time: float, _sequence: int, _connection: str, create: float,
        _attempt: int, _error: object, fault: ConnectFault,
    ) -> None:  # fmt: skip
        with self._lock:
            _count(self.connect_faults, fault)
            if fault not in self.failed_create:
                self.failed_create.setdefault(fault, Histogram(catalog.CREATE_BUCKETS))
            self.failed_create[fault].record(create)

    def _closed(
        self, _pool: str, _time: float, _sequence: int, _connection: str, reason: CloseReason,
        age: float,
    ) -> None:  # fmt: skip
        with self._lock:
            _count(self.closed, reason)
            self._note_lifetime(age)

    def _note_lifetime(self, age: float) -> None:
        self.connection_lifetimes.append(age)
        del self.connection_lifetimes[:-RECENT]

    def _misused(self, *_: object) -> None:
        with self._lock:
            self.misuses += 1

    def _subscriber_failed(self, *_: object) -> None:
        with self._lock:
            self.subscriber_errors += 1


_tallies: weakref.WeakSet[Tally] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for tally in tuple(_tallies):
        tally._renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
