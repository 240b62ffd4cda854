"""What is made of the events of all pools: spans of acquires, leases and connects."""

from __future__ import annotations

import threading

from opentelemetry.context import Context, get_current
from opentelemetry.trace import Link, SpanContext, SpanKind, get_current_span

from poolscope import registry
from poolscope.bus import Tap
from poolscope.events import (
    AcquireFailed,
    AcquireTimedOut,
    ConnectFailed,
    ConnectionAcquired,
    ConnectionClosed,
    ConnectionDetached,
    ConnectionOpened,
    ConnectionReleased,
    ConnectStarted,
    Event,
    LeakReclaimed,
    LeakSuspected,
    PoolClosed,
    PoolOpened,
    RequestQueued,
)
from poolscope.reasons import AcquireSource, CloseReason, ConnectFault, FailureReason
from poolscope.telemetry import catalog
from poolscope.telemetry.spans.exemplars import exemplify
from poolscope.telemetry.spans.maker import SpanMaker
from poolscope.telemetry.spans.pool import (
    Attributes,
    PoolSpans,
    Wait,
    Work,
    pool_attributes,
    spans_of,
)
from poolscope.telemetry.spans.rules import SPAN_KEY, epoch, is_traced, nanoseconds

_IDLE = AcquireSource.IDLE


class SpanTaps:
    """Hears of every pool. Safe from any thread."""

    def __init__(self, maker: SpanMaker) -> None:
        """Begin with nothing under way."""
        self.maker = maker
        self.pools: dict[str, PoolSpans] = {}
        self._latest = threading.local()

    def taps(self) -> dict[type[Event], Tap]:
        """Return what to call for which event."""
        return {
            RequestQueued: self._queued,
            ConnectionAcquired: self._acquired,
            AcquireTimedOut: self._timed_out,
            AcquireFailed: self._failed,
            ConnectionReleased: self._released,
            ConnectionDetached: self._released,
            LeakReclaimed: self._reclaimed,
            LeakSuspected: self._suspected,
            ConnectStarted: self._connect_started,
            ConnectionOpened: self._opened,
            ConnectFailed: self._connect_failed,
            ConnectionClosed: self._closed,
            PoolOpened: self._begin_pool,
            PoolClosed: self._forget_pool,
        }

    def find(self, pool: str, about: int | str) -> SpanContext | None:
        """Return what leads to the span of a request or connect, None if it has none."""
        latest: tuple[str, int | str, SpanContext] | None = getattr(self._latest, "span", None)
        if latest is not None and latest[:2] == (pool, about):
            return latest[2]
        spans = self.pools.get(pool)
        if spans is None:
            return None
        work = spans.leases.get(about) if isinstance(about, int) else spans.connects.get(about)
        return work.span_context if work is not None else None

    def forget(self) -> None:
        """Let go of all that has not ended."""
        self.pools.clear()
        self._latest = threading.local()

    # Requests

    def _queued(self, pool: str, _time: float, sequence: int, request: int, _place: int) -> None:
        if is_traced(get_current_span()):
            self._spans(pool).queue(request, get_current(), sequence)

    def _acquired(
        self, pool: str, moment: float, _sequence: int, request: int, wait: float,
        source: AcquireSource, connection: str,
    ) -> None:  # fmt: skip
        if wait or source is not _IDLE:
            waited = self._end_wait(pool, request, connection, source)
            context = self._context(waited)
            if context is None:
                return
        else:
            # Most requests take this path, so it calls little.
            context = get_current()
            parent = context.get(SPAN_KEY)
            if parent is None or not is_traced(parent):
                return
            waited = self._end_wait(pool, request, connection, source)
        spans, end = self._spans(pool), epoch(moment)
        attributes = spans.attributes | {catalog.CONNECTION_ID: connection}
        about = _with_attempts(attributes | {catalog.ACQUIRE_SOURCE: source.value}, waited)
        made = self.maker.make(catalog.ACQUIRE_SPAN, context, end, wait, about, _links(waited))
        lease = Work(request, connection, context, end, None)
        self.maker.begin(catalog.USE_SPAN, lease, attributes)
        spans.begin_lease(lease)
        self._note(pool, request, made)
        exemplify(pool, catalog.WAIT_TIME, None, wait, end, made)

    def _timed_out(
        self, pool: str, moment: float, _sequence: int, request: int, wait: float, *_: object
    ) -> None:
        waited = self._end_wait(pool, request)
        self._fail(pool, moment, request, wait, FailureReason.TIMEOUT, waited)

    def _failed(
        self, pool: str, moment: float, _sequence: int, request: int, wait: float,
        reason: FailureReason, error: BaseException | None,
    ) -> None:  # fmt: skip
        waited = self._end_wait(pool, request)
        # So end requests whose loop, process or task is gone: in somebody else's context.
        lost = reason is FailureReason.CANCELLED and isinstance(error, Exception | GeneratorExit)
        if waited is not None or not lost:
            self._fail(pool, moment, request, wait, reason, waited)

    def _fail(
        self, pool: str, moment: float, request: int, wait: float, reason: FailureReason,
        waited: Wait | None,
    ) -> None:  # fmt: skip
        context = self._context(waited)
        if context is None:
            return
        spans, end = self.pools.get(pool), epoch(moment)
        # Nothing is kept: this pool may be closed, and its name soon another's.
        attributes = spans.attributes if spans is not None else pool_attributes(pool)
        about, links = _with_attempts(attributes, waited), _links(waited)
        made = self.maker.make(catalog.ACQUIRE_SPAN, context, end, wait, about, links, reason.value)
        self._note(pool, request, made)
        exemplify(pool, catalog.WAIT_TIME, reason, wait, end, made)

    def _end_wait(
        self, pool: str, request: int, connection: str = "", source: AcquireSource | None = None
    ) -> Wait | None:
        spans = self.pools.get(pool)
        return spans.end_wait(request, connection, source) if spans is not None else None

    @staticmethod
    def _context(waited: Wait | None) -> Context | None:
        """Return the caller's context, None if it is not traced."""
        if waited is not None:
            return waited.context
        context = get_current()
        return context if is_traced(get_current_span(context)) else None

    # Leases

    def _released(
        self, pool: str, _time: float, sequence: int, request: int, _connection: str,
        use: float, _reset_or_age: float,
    ) -> None:  # fmt: skip
        if (spans := self.pools.get(pool)) is not None and request in spans.leases:
            self._end_lease(pool, spans, sequence, request, use)

    def _reclaimed(
        self, pool: str, _time: float, sequence: int, request: int, _connection: str,
        use: float, reason: CloseReason, _at: object,
    ) -> None:  # fmt: skip
        if (spans := self.pools.get(pool)) is not None and request in spans.leases:
            self._end_lease(pool, spans, sequence, request, use, reason.value)

    def _end_lease(
        self, pool: str, spans: PoolSpans, sequence: int, request: int, use: float,
        error: str | None = None,
    ) -> None:  # fmt: skip
        if (lease := spans.end_lease(request, sequence)) is None:
            return
        about = spans.attributes | {catalog.CONNECTION_ID: lease.connection}
        made = self.maker.finish(catalog.USE_SPAN, lease, use, about, error=error)
        self._note(pool, request, made)
        exemplify(pool, catalog.USE_TIME, None, use, lease.start + nanoseconds(use), made)

    def _suspected(self, *_: object) -> None:
        self._latest.span = None  # what was made at its beginning; it leads to the lease again

    # Connects

    def _connect_started(
        self, pool: str, moment: float, _sequence: int, connection: str, attempt: int, request: int
    ) -> None:
        spans = self.pools.get(pool)
        waited = spans.try_to_connect(request) if spans is not None else None
        if spans is None or waited is None:
            return
        work = Work(request, connection, waited.context, epoch(moment), None, attempt)
        self.maker.begin(catalog.CONNECT_SPAN, work, spans.about(work), SpanKind.CLIENT)
        spans.connects[connection] = work

    def _opened(
        self, pool: str, _time: float, _sequence: int, connection: str, create: float
    ) -> None:
        self._end_connect(pool, connection, create, None)

    def _connect_failed(
        self, pool: str, _time: float, _sequence: int, connection: str, create: float,
        _attempt: int, _error: object, fault: ConnectFault,
    ) -> None:  # fmt: skip
        self._end_connect(pool, connection, create, fault)

    def _end_connect(
        self, pool: str, connection: str, create: float, fault: ConnectFault | None
    ) -> None:
        spans = self.pools.get(pool)
        work = spans.connects.pop(connection, None) if spans is not None else None
        if spans is None or work is None:
            return
        error = fault.value if fault is not None else None
        made = self.maker.finish(
            catalog.CONNECT_SPAN, work, create, spans.about(work), SpanKind.CLIENT, error
        )
        if fault is None:
            spans.opened[connection] = work.request, work.link(catalog.LINK_CONNECT)
        self._note(pool, connection, made)
        end = work.start + nanoseconds(create)
        exemplify(pool, catalog.CREATE_TIME, fault, create, end, made)

    def _closed(self, pool: str, _time: float, _sequence: int, connection: str, *_: object) -> None:
        if (spans := self.pools.get(pool)) is not None:
            spans.opened.pop(connection, None)
            spans.given.pop(connection, None)

    # Pools

    def _spans(self, pool: str) -> PoolSpans:
        spans = self.pools.get(pool)
        # Another thread may make one meanwhile; then that counts.
        return self.pools.setdefault(pool, spans_of(pool)) if spans is None else spans

    def _begin_pool(self, pool: str, _time: float, _sequence: int) -> None:
        """Let go of a pool that was lost, if another has its name now."""
        spans = self.pools.get(pool)
        # Whoever waits for this one may have told that before.
        if spans is None or not spans.belongs_to(registry.find(pool)):
            self._forget_pool(pool)

    def _forget_pool(self, pool: str, *_: object) -> None:
        self.pools.pop(pool, None)
        self._latest.span = None

    def _note(self, pool: str, about: int | str, made: SpanContext | None) -> None:
        self._latest.span = (pool, about, made) if made is not None else None


def _with_attempts(attributes: Attributes, waited: Wait | None) -> Attributes:
    if waited is None or not waited.attempts:
        return attributes
    return attributes | {catalog.ACQUIRE_ATTEMPTS: waited.attempts}


def _links(waited: Wait | None) -> list[Link]:
    return waited.links() if waited is not None else []
