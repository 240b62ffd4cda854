"""Our pool with telemetry that is on only while its own case is timed."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from benchmarks import contestants
from benchmarks.case import Case, FakeConnection, Opener, expect
from benchmarks.sdk import Tracing, tracing
from benchmarks.server import Server
from poolscope import ConnectionPool
from poolscope.events import AcquireTimedOut, ConnectionAcquired, Event
from poolscope.telemetry import catalog
from poolscope.telemetry.logs import log_pools
from poolscope.telemetry.otel_spans import trace_pools

BARE = "none at all, not even metrics"
METRICS = "metrics alone (the default)"
LOGS = "metrics, logs"
NO_PARENT = "metrics, spans: no parent"
UNSAMPLED = "metrics, spans: unsampled parent"
SLOW = "metrics, slow spans only: recording parent"
SAMPLED = "metrics, spans: sampled parent"

Pool = ConnectionPool[FakeConnection]
Active = Callable[[Pool], AbstractAsyncContextManager[None]]
PARENT = "request"


def hearers(pool: Pool, kind: type[Event]) -> int:
    return len(pool.bus.hooks[kind])


@asynccontextmanager
async def watch(active: Active, name: str, _: Server) -> AsyncIterator[Case]:
    """Open a pool of ours; what is `active` goes on while it is timed."""
    async with contestants.our_pool() as pool:
        yield Case(name, contestants.FAKE, pool.connection, active=partial(active, pool))


@asynccontextmanager
async def bare(server: Server) -> AsyncIterator[Case]:
    async with contestants.silent(server) as case:
        yield replace(case, name=BARE)


@asynccontextmanager
async def counting(pool: Pool) -> AsyncIterator[None]:
    """Count, and do nothing else."""
    before = pool.get_metrics().wait.count
    expect(hearers(pool, ConnectionAcquired) == 1, "metrics alone hear of an acquire")
    yield
    expect(pool.get_metrics().wait.count > before, "acquires are counted")


@asynccontextmanager
async def _logging(pool: Pool) -> AsyncIterator[None]:
    """Log what goes wrong, which nothing does here."""
    logger = logging.getLogger("benchmarks.telemetry")
    before = hearers(pool, AcquireTimedOut)
    log = log_pools(logger)
    try:
        expect(hearers(pool, AcquireTimedOut) == before + 1, "a timeout would be logged")
        yield
    finally:
        log.close()


@dataclass(frozen=True, slots=True)
class Spans:
    """Under which caller a pool is traced, and what is made of it."""

    makes: frozenset[str]
    sampler: Sampler = ALWAYS_ON
    mode: str = "all"
    has_parent: bool = True

    @asynccontextmanager
    async def open(self, name: str, server: Server) -> AsyncIterator[Case]:
        with tracing(self.sampler) as traced:
            async with watch(partial(self._trace, traced), name, server) as case:
                yield case

    @asynccontextmanager
    async def _trace(self, traced: Tracing, pool: Pool) -> AsyncIterator[None]:
        tracer = trace_pools(traced.provider, mode=self.mode)
        try:
            expect(hearers(pool, ConnectionAcquired) == 2, "the tracer hears of an acquire")
            with self._parent(traced) if self.has_parent else nullcontext():
                yield
        finally:
            tracer.close()
        made = frozenset(traced.made()) - {PARENT}
        expect(
            made == self.makes, f"spans were made of {sorted(self.makes)}, but of {sorted(made)}"
        )

    @contextmanager
    def _parent(self, traced: Tracing) -> Iterator[None]:
        parent = traced.provider.get_tracer("benchmarks").start_span(PARENT)
        expect(parent.is_recording() == (self.sampler is ALWAYS_ON), "the sampler decides")
        with trace.use_span(parent, end_on_exit=True):
            yield


def _cases() -> dict[str, Opener]:
    nothing = frozenset[str]()
    everything = frozenset({catalog.ACQUIRE_SPAN, catalog.USE_SPAN})
    spans = {
        NO_PARENT: Spans(nothing, has_parent=False),
        UNSAMPLED: Spans(nothing, ALWAYS_OFF),
        SLOW: Spans(nothing, mode="slow"),
        SAMPLED: Spans(everything),
    }
    watched = {METRICS: counting, LOGS: _logging}
    return {
        BARE: bare,
        **{name: partial(watch, active, name) for name, active in watched.items()},
        **{name: partial(each.open, name) for name, each in spans.items()},
    }


OPENERS: Mapping[str, Opener] = _cases()
