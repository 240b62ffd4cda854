"""The durations of all pools, recorded one by one through the OpenTelemetry API.

The API has no other way to hand over a histogram: that is one SDK call, about 8 us, for each
acquire, release and connect. Each is recorded in the context of the pool's own span of it, so that
an exemplar leads there.
"""

from __future__ import annotations

import os
import threading

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, Meter
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, set_span_in_context

from poolscope.bus import ROOT, Subscription, Tap
from poolscope.events import (
    AcquireFailed,
    AcquireTimedOut,
    ConnectFailed,
    ConnectionAcquired,
    ConnectionDetached,
    ConnectionOpened,
    ConnectionReleased,
    Event,
    LeakReclaimed,
)
from poolscope.reasons import ConnectFault, FailureReason
from poolscope.telemetry import catalog
from poolscope.telemetry.otel_spans import span_context

Attributes = dict[str, str | bool]

# Reentrant, because a finalizer may come in while it is held.
_lock = threading.RLock()

# An empty context will not do: the SDK takes it for none, and looks for the caller's span.
_NO_SPAN = set_span_in_context(INVALID_SPAN, Context())


class Durations:
    """The three histograms of a meter. Safe from any thread."""

    def __init__(self, meter: Meter) -> None:
        """Create the instruments; nothing is recorded before `open()`."""
        self._wait = _histogram(meter, catalog.WAIT_TIME)
        self._use = _histogram(meter, catalog.USE_TIME)
        self._create = _histogram(meter, catalog.CREATE_TIME)
        self._pools: set[str] = set()
        """Pools that have series of their own. An SDK keeps those for ever, so these stay too."""
        self._subscription: Subscription | None = None

    def open(self) -> None:
        """Record what happens to every pool from now on."""
        taps: dict[type[Event], Tap] = {
            ConnectionAcquired: self._acquired,
            AcquireTimedOut: self._timed_out,
            AcquireFailed: self._failed,
            ConnectionReleased: self._used,
            ConnectionDetached: self._used,
            LeakReclaimed: self._used,
            ConnectionOpened: self._connected,
            ConnectFailed: self._connect_failed,
        }
        if self._subscription is None:
            self._subscription = ROOT.tap(taps)

    def close(self) -> None:
        """Record nothing more."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.unsubscribe()

    def _acquired(
        self, pool: str, _time: float, _sequence: int, request: int, wait: float, *_: object
    ) -> None:
        self._wait.record(wait, self._attributes(pool), _context(pool, request))

    def _timed_out(
        self, pool: str, _time: float, _sequence: int, request: int, wait: float, *_: object
    ) -> None:
        attributes = self._attributes(pool, FailureReason.TIMEOUT)
        self._wait.record(wait, attributes, _context(pool, request))

    def _failed(
        self, pool: str, _time: float, _sequence: int, request: int, wait: float,
        reason: FailureReason, _error: object,
    ) -> None:  # fmt: skip
        self._wait.record(wait, self._attributes(pool, reason), _context(pool, request))

    def _used(
        self, pool: str, _time: float, _sequence: int, request: int, _connection: str,
        use: float, *_: object,
    ) -> None:  # fmt: skip
        self._use.record(use, self._attributes(pool), _context(pool, request))

    def _connected(
        self, pool: str, _time: float, _sequence: int, connection: str, create: float, *_: object
    ) -> None:
        self._create.record(create, self._attributes(pool), _context(pool, connection))

    def _connect_failed(
        self, pool: str, _time: float, _sequence: int, connection: str, create: float,
        _attempt: int, _error: object, fault: ConnectFault,
    ) -> None:  # fmt: skip
        self._create.record(create, self._attributes(pool, fault), _context(pool, connection))

    def _attributes(
        self, pool: str, error: FailureReason | ConnectFault | None = None
    ) -> Attributes:
        known = pool in self._pools or self._admit(pool)
        attributes: Attributes = {catalog.POOL_NAME: pool} if known else {catalog.OVERFLOW: True}
        if error is not None:
            attributes[catalog.ERROR_TYPE] = error.value
        return attributes

    def _admit(self, pool: str) -> bool:
        """Give a pool series of its own, unless there are too many."""
        with _lock:
            if len(self._pools) < catalog.MOST_POOLS:
                self._pools.add(pool)
            return pool in self._pools


def _context(pool: str, about: int | str) -> Context:
    """Return the context of a request, lease or connect: its own span, or none at all.

    Not that of the caller: of a wait that was not traced, an unrelated parent says nothing.
    """
    span = span_context(pool, about)
    return _NO_SPAN if span is None else set_span_in_context(NonRecordingSpan(span), Context())


def _histogram(meter: Meter, metric: catalog.Metric) -> Histogram:
    return meter.create_histogram(
        metric.name,
        metric.unit,
        metric.help,
        explicit_bucket_boundaries_advisory=metric.buckets,
    )


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
