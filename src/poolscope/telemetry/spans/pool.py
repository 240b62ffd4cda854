"""What is under way in one pool for traced callers: who waits, who holds, what is being opened.

Several threads tell it, each of its own requests. So one may tell that it got a connection before
another that it gave it back; what was first, the sequence numbers of the events say.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from itertools import islice

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    get_current_span,
)

from poolscope import registry
from poolscope.reasons import AcquireSource
from poolscope.registry import Source
from poolscope.telemetry import catalog

MOST_LINKS = 16
"""Holders a request is linked to, the longest ones first."""

Attributes = dict[str, str | int]


@dataclass(slots=True)
class Work:
    """Something under way: a lease, or a connect."""

    request: int
    connection: str
    context: Context
    """That of the caller for whom it is done."""
    start: int
    """Nanoseconds since 1970."""
    span: Span | None
    """None if it will be made afterwards, should it turn out to be slow."""
    attempt: int = 0
    """Of a connect: which try it is."""
    ended: int | None = None
    """Of a lease: the sequence number of its end, once that was told."""

    @property
    def span_context(self) -> SpanContext:
        """Return what leads here: the span, or the caller's while there is none."""
        span = self.span if self.span is not None else get_current_span(self.context)
        return span.get_span_context()

    def link(self, why: str) -> Link:
        """Return a link that leads here."""
        return Link(self.span_context, {catalog.LINK: why, catalog.CONNECTION_ID: self.connection})


@dataclass(slots=True)
class Wait:
    """A request in line."""

    context: Context
    sequence: int
    """That of its coming."""
    holders: list[Work]
    """Those who held the connections when it came."""
    attempts: int = 0
    """Connects that were started for it."""
    giver: Work | None = None
    """The lease at whose end it got its connection."""
    connect: Link | None = None
    """What leads to the connect, made for somebody else, that opened its connection."""

    def links(self) -> list[Link]:
        """Return what explains the wait: first what ended it, then who made it necessary."""
        holders = [each for each in self.holders if each is not self.giver]
        if self.giver is not None:
            holders.insert(0, self.giver)
        # Of some that had ended before, that may have been told only later.
        holders = [each for each in holders if each.ended is None or each.ended > self.sequence]
        links = [self.connect] if self.connect is not None else []
        links += [each.link(catalog.LINK_HOLDER) for each in holders[:MOST_LINKS]]
        return [link for link in links if link.context.trace_flags.sampled]


@dataclass(slots=True)
class PoolSpans:
    """What is under way in one pool under a traced caller. Safe from any thread."""

    attributes: Attributes
    """What every span of the pool says from its start."""
    source: weakref.ref[Source] | None
    """The pool itself, if it is registered."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    """Reentrant, because a finalizer may come in while it is held."""
    waiting: dict[int, Wait] = field(default_factory=dict)
    leases: dict[int, Work] = field(default_factory=dict)
    connects: dict[str, Work] = field(default_factory=dict)
    holding: dict[str, Work] = field(default_factory=dict)
    """The lease under way, by connection."""
    given: dict[str, Work] = field(default_factory=dict)
    """The lease that ended last, by connection; kept for those who wait, while anybody does."""
    opened: dict[str, tuple[int, Link]] = field(default_factory=dict)
    """For whom a connection was opened, and what leads there, until it is lent or closed."""

    @property
    def pending(self) -> int:
        """Return how many waits, leases and connects have not ended."""
        return len(self.waiting) + len(self.leases) + len(self.connects)

    def belongs_to(self, source: Source | None) -> bool:
        """Tell whether this is about that pool, and not about one that had its name before."""
        return source is not None and self.source is not None and self.source() is source

    def queue(self, request: int, context: Context, sequence: int) -> None:
        """Note that a request waits."""
        with self.lock:
            holders = list(islice(self.leases.values(), MOST_LINKS))
            self.waiting[request] = Wait(context, sequence, holders)

    def end_wait(
        self, request: int, connection: str = "", source: AcquireSource | None = None
    ) -> Wait | None:
        """Take a request out of line, if it was there; say how it got its connection, if any."""
        with self.lock:
            wait = self.waiting.pop(request, None)
            # It may have the connection before the one who gave it has told that.
            holder, giver = self.holding.pop(connection, None), self.given.pop(connection, None)
            opened = self.opened.pop(connection, None)
            if not self.waiting:
                self.given.clear()
        if wait is not None and source is AcquireSource.HANDOFF:
            wait.giver = holder or giver
        elif wait is not None and source is AcquireSource.NEW and opened is not None:
            wait.connect = opened[1] if opened[0] != request else None
        return wait

    def begin_lease(self, lease: Work) -> None:
        """Note who holds a connection."""
        with self.lock:
            self.leases[lease.request] = self.holding[lease.connection] = lease

    def end_lease(self, request: int, sequence: int) -> Work | None:
        """Take a lease out; who waits for its connection may yet ask who held it."""
        with self.lock:
            if (lease := self.leases.pop(request, None)) is None:
                return None
            lease.ended = sequence
            if self.holding.get(lease.connection) is lease:
                del self.holding[lease.connection]
                if self.waiting:
                    self.given[lease.connection] = lease
            return lease

    def try_to_connect(self, request: int) -> Wait | None:
        """Count what is opened for a request that waits; None if it does not."""
        with self.lock:
            if (wait := self.waiting.get(request)) is not None:
                wait.attempts += 1
            return wait

    def about(self, connect: Work) -> Attributes:
        """Return what the span of a connect says."""
        own: Attributes = {
            catalog.CONNECTION_ID: connect.connection,
            catalog.CONNECT_ATTEMPT: connect.attempt,
        }
        return self.attributes | own


def spans_of(pool: str) -> PoolSpans:
    """Begin with nothing under way in a pool."""
    source = registry.find(pool)
    return PoolSpans(pool_attributes(pool), weakref.ref(source) if source is not None else None)


def pool_attributes(pool: str) -> Attributes:
    """Return what is known of a pool, in the words of the semantic conventions."""
    about: Attributes = {catalog.POOL_NAME: pool}
    source = registry.find(pool)
    if source is not None and (target := source.target) is not None:
        given = {
            catalog.SYSTEM: target.system,
            catalog.SERVER_ADDRESS: target.address,
            catalog.SERVER_PORT: target.port,
            catalog.NAMESPACE: target.namespace,
        }
        about |= {key: value for key, value in given.items() if value is not None}
    return about
