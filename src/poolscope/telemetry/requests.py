"""What a request spends on pools, on its span: the time it waited for connections and held them.

The span of a request is the one that is current when its application begins: that of the
instrumentation around it, which lasts as long as the request. The span that is current at an
acquire would be any span of the handler, and a request that acquires in three of them would have
its times in three pieces. Instrumentations end that span when the last of the response is sent; so
it has to be told just before. Only when no span is current at the beginning, because the
instrumentation is further inside, it is the first recording span in which the request asks for a
connection; then it is kept up to date, since it ends before the request does.

Tasks and threads that a request starts have its context, and count for it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any

from opentelemetry.context import get_current
from opentelemetry.trace import Span, get_current_span

from poolscope import registry
from poolscope.bus import ROOT, Subscription
from poolscope.events import (
    AcquireFailed,
    AcquireTimedOut,
    ConnectionAcquired,
    ConnectionDetached,
    ConnectionReleased,
    LeakReclaimed,
    RequestQueued,
)
from poolscope.reasons import FailureReason
from poolscope.telemetry import catalog
from poolscope.telemetry.spans.rules import SPAN_KEY

Key = tuple[str, int]
"""The pool, and the number of the request to it."""


class Spent:
    """What one request spent on one pool. Times are in seconds."""

    __slots__ = ("acquired", "use", "wait")

    def __init__(self) -> None:
        """Begin at zero."""
        self.wait = self.use = 0.0
        self.acquired = 0


class RequestTimes:
    """Sums up what one request spends on each pool. Safe from any thread."""

    __slots__ = ("_late", "_lock", "_open", "_spent", "span")

    def __init__(self, span: Span | None) -> None:
        """Sum up for this span; without one, for the first that asks for a connection."""
        self.span = span
        self._late = span is None
        self._lock = threading.Lock()
        self._open: dict[Key, tuple[bool, float]] | None = {}
        """Waits and leases that have not ended: whether it is a lease, and since when. None: the
        request has ended."""
        self._spent: dict[str, Spent] = {}

    @property
    def ended(self) -> bool:
        """Tell whether the request has ended."""
        return self._open is None

    def listens(self) -> bool:
        """Tell whether what is asked for now is to be noted; look for the span if there is none."""
        if self._open is None:
            return False
        if self._late and (self.span is None or not self.span.is_recording()):
            span = get_current().get(SPAN_KEY)
            if not isinstance(span, Span) or not span.is_recording():
                return False
            self.span = span
        return True

    def begin(self, key: Key, moment: float, wait: float | None = None) -> None:
        """Note that a wait begins, or a lease after such a wait."""
        with self._lock:
            if self._open is None:
                return
            self._open[key] = wait is not None, moment
            _owners[key] = self
            if wait is not None:
                spent = self._of(key)
                spent.wait += wait
                spent.acquired += 1

    def end(self, key: Key, wait: float = 0.0, use: float = 0.0) -> None:
        """Note that a wait ended without a connection, or that a lease ended."""
        with self._lock:
            if self._open is None:
                return
            self._open.pop(key, None)
            spent = self._of(key)
            spent.wait += wait
            spent.use += use
        self._keep_told(key)

    def tell(self) -> None:
        """Tell the span all there is to tell now, with what has not ended yet."""
        with self._lock:
            under_way = list((self._open or {}).items())
            sums = {pool: (each.wait, each.use) for pool, each in self._spent.items()}
        for (pool, _), (is_lease, since) in under_way:
            if (source := registry.find(pool)) is not None:
                elapsed = max(0.0, source.stats().time - since)  # on the pool's own clock
                wait, use = sums.get(pool, (0.0, 0.0))
                sums[pool] = (wait, use + elapsed) if is_lease else (wait + elapsed, use)
        self._write(sums)

    def finish(self) -> None:
        """Tell the span if it still records, and hear no more."""
        self.tell()
        with self._lock:
            left, self._open = self._open or {}, None
        for key in left:
            _owners.pop(key, None)
        self.span = None  # tasks that outlive the request keep its context, not its span

    def _of(self, key: Key) -> Spent:
        return self._spent.setdefault(key[0], Spent())

    def _keep_told(self, key: Key) -> None:
        """Tell a span that may end at any time."""
        if self._late:
            spent = self._of(key)
            self._write({key[0]: (spent.wait, spent.use)})

    def _write(self, sums: Mapping[str, tuple[float, float]]) -> None:
        span = self.span
        if span is None or not span.is_recording():
            return
        for pool, (wait, use) in sums.items():
            acquired = self._of((pool, 0)).acquired
            span.set_attribute(f"{catalog.REQUEST_WAIT_TIME}.{pool}", wait)
            span.set_attribute(f"{catalog.REQUEST_USE_TIME}.{pool}", use)
            span.set_attribute(f"{catalog.REQUEST_ACQUIRED}.{pool}", acquired)


_times: ContextVar[RequestTimes | None] = ContextVar("poolscope_request_times", default=None)
_owners: dict[Key, RequestTimes] = {}
"""Whose each wait and lease is: what ends one may run in another context than what began it."""


class timed:
    """Sum up what happens in a `with` block for the span of the request it serves.

    It does nothing if that request is not recorded, or if a block around it does so already.
    """

    __slots__ = ("_times", "_token")

    _token: Token[RequestTimes | None]

    def __enter__(self) -> RequestTimes | None:
        """Find the span; return what sums up, if anything does."""
        self._times = _make_times()
        if self._times is not None:
            self._token = _times.set(self._times)
        return self._times

    def __exit__(self, *exc_info: object) -> None:
        """Tell the span."""
        if self._times is not None:
            _times.reset(self._token)
            self._times.finish()


def _make_times() -> RequestTimes | None:
    span, outer = get_current_span(), _times.get()
    recording = span.is_recording()
    if outer is not None and not outer.ended and (not recording or outer.span is span):
        return None
    if recording:
        return RequestTimes(span)
    context = span.get_span_context()
    not_sampled = context.is_valid and not context.is_remote
    return None if not_sampled else RequestTimes(None)


# Hearing of all pools, as long as somebody wants to


_lock = threading.Lock()
_listeners = 0
_subscription: Subscription | None = None


def listen() -> None:
    """Hear of every pool of the process, until `stop_listening` was called as often."""
    global _listeners, _subscription
    with _lock:
        _listeners += 1
        if _subscription is None:
            _subscription = ROOT.tap(
                {
                    RequestQueued: _queued,
                    ConnectionAcquired: _acquired,
                    AcquireTimedOut: _timed_out,
                    AcquireFailed: _failed,
                    ConnectionReleased: _lease_ended,
                    ConnectionDetached: _lease_ended,
                    LeakReclaimed: _lease_ended,
                }
            )


def stop_listening() -> None:
    """Take one `listen` back."""
    global _listeners, _subscription
    with _lock:
        _listeners -= 1
        if not _listeners and _subscription is not None:
            _subscription.unsubscribe()
            _subscription = None


def _queued(pool: str, moment: float, _sequence: int, request: int, _place: int) -> None:
    times = _times.get()
    if times is not None and times.listens():
        times.begin((pool, request), moment)


def _acquired(
    pool: str, moment: float, _sequence: int, request: int, wait: float, *_: object
) -> None:
    times = _owners.get((pool, request)) if _owners and wait else None
    if times is None:
        times = _times.get()
        if times is None or not times.listens():
            return
    times.begin((pool, request), moment, wait)


def _timed_out(
    pool: str, _moment: float, _sequence: int, request: int, wait: float, *_: object
) -> None:
    _failed(pool, _moment, _sequence, request, wait, FailureReason.TIMEOUT, None)


def _failed(
    pool: str, _moment: float, _sequence: int, request: int, wait: float,
    reason: FailureReason, error: BaseException | None,
) -> None:  # fmt: skip
    times = _owners.pop((pool, request), None)
    if times is None:
        # So end requests whose loop, process or task is gone: in somebody else's context.
        lost = reason is FailureReason.CANCELLED and isinstance(error, Exception | GeneratorExit)
        times = _times.get()
        if lost or times is None or not times.listens():
            return
    times.end((pool, request), wait=wait)


def _lease_ended(
    pool: str, _moment: float, _sequence: int, request: int, _connection: str, use: float,
    *_: Any,
) -> None:  # fmt: skip
    if _owners and (times := _owners.pop((pool, request), None)) is not None:
        times.end((pool, request), use=use)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    _owners.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
