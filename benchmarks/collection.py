"""What it takes to collect the metrics of many pools once."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from time import perf_counter

from benchmarks.case import SIZE, FakeConnection, expect
from benchmarks.collectors import (
    COLLECTOR,
    EXPORTER,
    FOREIGN,
    MESSAGE,
    POINTS,
    SAMPLES,
    TEXT,
    Collector,
    reading,
    recording,
)
from benchmarks.figures import Figure, compare
from benchmarks.plan import Plan
from benchmarks.section import Goal, Section, ratio, short
from benchmarks.server import Server
from poolscope import ConnectionPool, ConnectionPoolSettings

MILLISECONDS = 50.0
GROWTH = 1.5
USES = 3
ROWS = (COLLECTOR, SAMPLES, TEXT, EXPORTER, POINTS, MESSAGE, FOREIGN)
EXPLANATION = (
    f"Idle pools, each used {USES} times; medians of {{rounds}} rounds, with the garbage collector "
    "on. In brackets: µs per pool. PoolCollector makes its samples, and PoolExporter its points, "
    "only while they are read. The foreign provider reads what it was told of each acquire and "
    "release, in a round of its own; newer SDKs keep no more than 2,000 series of a metric, so of "
    "many pools it shows less."
)

Times = dict[str, dict[int, list[float]]]
"""Seconds, by collector and number of pools."""


async def measure(_: Server, plan: Plan) -> list[Section]:
    times: Times = {}
    for _number in range(plan.periods):
        # What the SDK keeps of each pool must not be in the way of the others.
        for opener in (reading, recording):
            with opener() as collectors:
                await _walk(collectors, plan, times)
    return [_tell(times, plan)]


async def _walk(collectors: Sequence[Collector], plan: Plan, times: Times) -> None:
    """Open more and more pools, and collect from each number of them."""
    opened = 0
    async with AsyncExitStack() as stack:
        for crowd in plan.crowds:
            for _number in range(crowd - opened):
                await stack.enter_async_context(_used_pool())
            opened = crowd
            for collector in plan.random.sample(collectors, len(collectors)):
                own = times.setdefault(collector.name, {each: [] for each in plan.crowds})
                own[crowd].append(collect_once(collector, crowd))


def collect_once(collector: Collector, crowd: int) -> float:
    """Return how many seconds it took to collect from so many pools."""
    gc.collect()
    started = perf_counter()
    collected = collector.collect()
    seconds = perf_counter() - started
    count = collector.count(collected)
    expect(count == crowd, f"{collector.name} shows {crowd} pools, but {count}")
    return seconds


@asynccontextmanager
async def _used_pool() -> AsyncIterator[None]:
    settings = ConnectionPoolSettings(min_size=1, max_size=SIZE)
    async with ConnectionPool(FakeConnection, settings) as pool:
        for _ in range(USES):
            async with pool.connection():
                pass
        yield


def _tell(times: Times, plan: Plan) -> Section:
    _, few, enough, many = plan.crowds
    header = ["collected by", *(f"{crowd:,} pools, ms" for crowd in plan.crowds)]
    header.append(f"per pool, {many:,} to {few:,}")
    section = Section("Collection", EXPLANATION.format(rounds=plan.periods), header)
    section.data = {"seconds": times}
    growths = {name: _growth(times[name], few, many) for name in ROWS}
    for name, growth in growths.items():
        cells = [_cell(times[name], crowd) for crowd in plan.crowds]
        section.rows.append([name, *cells, ratio(growth)])
    for name in (SAMPLES, POINTS):
        what = f"{name}, of {enough:,} pools, in ms,"
        section.goals.append(Goal(what, median(times[name][enough]) * 1e3, MILLISECONDS))
    for name in (SAMPLES, TEXT, POINTS, MESSAGE):
        what = f"{name}, per pool of {many:,} to of {few:,},"
        section.goals.append(Goal(what, growths[name].median, GROWTH))
    return section


def _cell(own: dict[int, list[float]], crowd: int) -> str:
    seconds = median(own[crowd])
    return f"{short(seconds * 1e3)} ({short(seconds * 1e6 / crowd)})"


def _growth(own: dict[int, list[float]], few: int, many: int) -> Figure:
    """Compare the time per pool of many with that of few."""
    return compare([each / many for each in own[many]], [each / few for each in own[few]])
