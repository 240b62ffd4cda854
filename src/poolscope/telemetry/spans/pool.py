"""What is under way in one pool for traced callers: who waits, who holds, what is being opened."""

from __future__ import annotations

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
        holders = self.holders
        if self.giver is not None:
            holders = [self.giver, *(each for each in holders if each is not self.giver)]
        links = [self.connect] if self.connect is not None else []
        links += [each.link(catalog.LINK_HOLDER) for each in holders[:MOST_LINKS]]
        return [link for link in links if link.context.trace_flags.sampled]


@dataclass(slots=True)
class PoolSpans:
    """What is under way in one pool under a traced caller."""

    attributes: Attributes
    """What every span of the pool says from its start."""
    waiting: dict[int, Wait] = field(default_factory=dict)
    leases: dict[int, Work] = field(default_factory=dict)
    connects: dict[str, Work] = field(default_factory=dict)
    given: dict[str, Work] = field(default_factory=dict)
    """The lease that ended last, by connection; kept for those who wait, while anybody does."""
    opened: dict[str, tuple[int, Link]] = field(default_factory=dict)
    """For whom a connection was opened, and what leads there, until it is lent or closed."""

    @property
    def pending(self) -> int:
        """Return how many waits, leases and connects have not ended."""
        return len(self.waiting) + len(self.leases) + len(self.connects)

    def queue(self, request: int, context: Context) -> None:
        """Note that a request waits."""
        self.waiting[request] = Wait(context, list(islice(self.leases.values(), MOST_LINKS)))

    def end_wait(
        self, request: int, connection: str = "", source: AcquireSource | None = None
    ) -> Wait | None:
        """Take a request out of line, if it was there; say how it got its connection, if any."""
        wait = self.waiting.pop(request, None)
        giver, opened = self.given.pop(connection, None), self.opened.pop(connection, None)
        if not self.waiting:
            self.given.clear()
        if wait is not None and source is AcquireSource.HANDOFF:
            wait.giver = giver
        elif wait is not None and source is AcquireSource.NEW and opened is not None:
            wait.connect = opened[1] if opened[0] != request else None
        return wait

    def end_lease(self, request: int) -> Work:
        """Take a lease out; who waits for its connection may yet ask who held it."""
        lease = self.leases.pop(request)
        if self.waiting:
            self.given[lease.connection] = lease
        return lease

    def about(self, connect: Work) -> Attributes:
        """Return what the span of a connect says."""
        own: Attributes = {
            catalog.CONNECTION_ID: connect.connection,
            catalog.CONNECT_ATTEMPT: connect.attempt,
        }
        return self.attributes | own


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
