"""The span `pool.acquire`: how long a request of the application waited for a connection.

Only under a recording parent: a wait that belongs to no trace explains nothing. Otherwise an
acquire costs one look at the current span, and nothing is kept.
"""

from __future__ import annotations

import os
import time
import weakref
from collections import OrderedDict

from opentelemetry import trace
from opentelemetry.trace import Span, StatusCode, Tracer, TracerProvider

from poolscope._version import __version__
from poolscope.bus import ROOT, Subscription, Tap
from poolscope.events import (
    AcquireFailed,
    AcquireSource,
    AcquireTimedOut,
    ConnectionAcquired,
    ConnectionRequested,
    Event,
    FailureReason,
)
from poolscope.telemetry import catalog
from poolscope.telemetry.providers import PerProvider

ACQUIRE = "pool.acquire"
SOURCE = "poolscope.acquire.source"
CONNECTION_ID = "poolscope.connection.id"

MOST_OPEN = 10_000
"""Requests traced at the same time, at most; of more the oldest are forgotten."""


def trace_pools(tracer_provider: TracerProvider | None = None) -> PoolTracer:
    """Trace the acquires of every pool, now and to come, with a tracer provider.

    By default that is the global one, even if the application sets it later. Asking again for the
    same provider returns the same tracer, opened. Pools are heard on `bus.ROOT`.
    """
    return _tracers.open(tracer_provider)


class PoolTracer:
    """What traces with one tracer provider. Safe from any thread."""

    def __init__(self, provider: TracerProvider) -> None:
        """Get a tracer; nothing is traced before `open()`."""
        self._tracer: Tracer = provider.get_tracer("poolscope", __version__)
        self._spans: OrderedDict[tuple[str, int], tuple[Span, int]] = OrderedDict()
        self._subscription: Subscription | None = None
        self.forgotten = 0
        """Spans that were never ended, because more than `MOST_OPEN` were open."""
        _after_fork(weakref.ref(self))

    def open(self) -> None:
        """Trace the requests made from now on."""
        taps: dict[type[Event], Tap] = {
            ConnectionRequested: self._requested,
            ConnectionAcquired: self._acquired,
            AcquireTimedOut: self._timed_out,
            AcquireFailed: self._failed,
        }
        if self._subscription is None:
            self._subscription = ROOT.tap(taps)

    def close(self) -> None:
        """Trace nothing more; spans not yet ended are lost. `trace_pools` may open it again."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.unsubscribe()
        self.forget()

    @property
    def pending(self) -> int:
        """Return how many of the requests traced have not ended."""
        return len(self._spans)

    def forget(self) -> None:
        """Let go of all spans that have not ended."""
        self._spans.clear()

    def _requested(self, pool: str, moment: float, sequence: int) -> None:
        if not trace.get_current_span().is_recording():
            return
        start = _epoch(moment)
        span = self._tracer.start_span(
            ACQUIRE, attributes={catalog.POOL_NAME: pool}, start_time=start
        )
        if not span.is_recording():
            return
        self._spans[pool, sequence] = span, start
        if len(self._spans) > MOST_OPEN:
            self._spans.popitem(last=False)
            self.forgotten += 1

    def _acquired(
        self, pool: str, _time: float, _sequence: int, request: int, wait: float,
        source: AcquireSource, connection: str,
    ) -> None:  # fmt: skip
        if self._spans and (entry := self._spans.pop((pool, request), None)):
            span, start = entry
            span.set_attribute(SOURCE, source.value)
            span.set_attribute(CONNECTION_ID, connection)
            span.end(start + _nanoseconds(wait))

    def _timed_out(
        self, pool: str, _time: float, _sequence: int, request: int, wait: float, *_: object
    ) -> None:
        self._end_failed(pool, request, wait, FailureReason.TIMEOUT)

    def _failed(
        self, pool: str, _time: float, _sequence: int, request: int, wait: float,
        reason: FailureReason, _error: object,
    ) -> None:  # fmt: skip
        self._end_failed(pool, request, wait, reason)

    def _end_failed(self, pool: str, request: int, wait: float, reason: FailureReason) -> None:
        """End a span with its reason alone: the text of an exception may hold a secret."""
        if entry := self._spans.pop((pool, request), None):
            span, start = entry
            span.set_attribute(catalog.ERROR_TYPE, reason.value)
            span.set_status(StatusCode.ERROR)
            span.end(start + _nanoseconds(wait))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _epoch(moment: float) -> int:
    """Return the time, in ns since 1970, of an event that has only just happened.

    Others may have heard of it before, and taken their time. A moment that cannot be of this
    process's monotonic clock is of a clock made for a test; then it is now.
    """
    late = time.monotonic() - moment
    return time.time_ns() - (_nanoseconds(late) if 0 <= late < 1 else 0)


def _after_fork(tracer: weakref.ref[PoolTracer]) -> None:
    """Leave the open spans of a parent process to that process."""

    def forget() -> None:
        if (alive := tracer()) is not None:
            alive.forget()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)


_tracers: PerProvider[TracerProvider, PoolTracer] = PerProvider(
    trace.get_tracer_provider, PoolTracer
)
