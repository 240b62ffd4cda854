"""Our pool while its metrics leave the process once in a while."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter

from benchmarks import roads, watched
from benchmarks.backend import Backend
from benchmarks.case import Opener, expect
from benchmarks.roads import Road
from benchmarks.watched import Active, Pool
from poolscope.events import ConnectionAcquired

EXPORT = "metrics, exported by OTLP"
FOREIGN = "metrics, exported by OTLP through a foreign provider"
PROMETHEUS = "metrics, scraped by Prometheus"


def openers(backend: Backend, period: float) -> Mapping[str, Opener]:
    """Return the cases, with those to compare them with."""
    cases = {
        watched.METRICS: watched.counting,
        EXPORT: leaving(roads.export, backend, period, backend.exports),
        FOREIGN: leaving(roads.foreign, backend, period, backend.exports, hearers=2),
        PROMETHEUS: leaving(roads.prometheus, backend, period, backend.scrapes),
    }
    opened = {name: partial(watched.watch, active, name) for name, active in cases.items()}
    return {watched.BARE: watched.bare, **opened}


def leaving(
    road: Road, backend: Backend, period: float, arrived: Callable[[], int], hearers: int = 1
) -> Active:
    """Return what opens a road, so that something leaves on it in the middle of what is timed."""

    @asynccontextmanager
    async def active(pool: Pool) -> AsyncIterator[None]:
        began = perf_counter()
        with road(backend, period):
            heard = watched.hearers(pool, ConnectionAcquired)
            expect(heard == hearers, f"{hearers} hear of an acquire, but {heard}")
            await asyncio.sleep(began + period / 2 - perf_counter())
            before = arrived()
            yield
            expect(arrived() > before, "the histogram of waits arrived while the cycle was timed")

    return active
