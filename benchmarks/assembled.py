"""What people put together today, with telemetry and without, beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from benchmarks import engines, handmade, watched
from benchmarks.case import Field, Opener, enter
from benchmarks.figures import compare, summarize
from benchmarks.plan import Plan
from benchmarks.section import Section, ratio
from benchmarks.server import Server
from benchmarks.timing import time_cycles

EXPLANATION = (
    "Each against itself without telemetry. Lock and deque: counters of requests and releases, an "
    "up-down counter of connections used and two histograms are called six times a cycle, within "
    "one sampled span. SQLAlchemy: `with engine.connect(): pass`, and OpenTelemetry's own "
    "instrumentation, which measures the connections in use and makes a span; it is declared for "
    "SQLAlchemy before 2.1 and told here not to look at the version. Metrics are kept in memory; "
    "spans go through a BatchSpanProcessor to an exporter that drops them."
)
HEADER = ["pool and telemetry", "without telemetry, ns", "with, ns", "with to without"]

OPENERS: Mapping[str, Opener] = {
    watched.BARE: watched.bare,
    watched.METRICS: watched.OPENERS[watched.METRICS],
    watched.SAMPLED: watched.OPENERS[watched.SAMPLED],
    handmade.BARE: handmade.bare,
    handmade.METERED: handmade.metered,
    engines.BARE: engines.bare,
    engines.INSTRUMENTED: engines.instrumented,
}
BARE = {
    watched.METRICS: watched.BARE,
    watched.SAMPLED: watched.BARE,
    handmade.METERED: handmade.BARE,
    engines.INSTRUMENTED: engines.BARE,
}
"""What each is compared with."""


async def measure(server: Server, plan: Plan) -> list[Section]:
    async with AsyncExitStack() as stack:
        field = await enter(stack, OPENERS, server)
        times = await time_cycles(field.cases, plan)
    return [_tell(field, times)]


def _tell(field: Field, times: dict[str, list[float]]) -> Section:
    section = Section("Telemetry put together", EXPLANATION, HEADER, missing=field.missing)
    section.data = {"ns_per_cycle": times}
    for name, bare in BARE.items():
        if name not in field.missing:
            section.rows.append(_row(name, times[name], times[bare]))
    return section


def _row(name: str, own: Sequence[float], bare: Sequence[float]) -> list[str]:
    pool = f"poolscope: {name}" if name in watched.OPENERS else name
    nanoseconds = [f"{summarize(times).median:,.0f}" for times in (bare, own)]
    return [pool, *nanoseconds, ratio(compare(own, bare))]
