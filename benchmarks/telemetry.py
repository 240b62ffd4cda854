"""What the cycle costs with telemetry on, in each of the ways there are to have it."""

from __future__ import annotations

from contextlib import AsyncExitStack

from benchmarks import assembled, exported, watched
from benchmarks.backend import backend
from benchmarks.case import enter
from benchmarks.exported import EXPORT, FOREIGN, PROMETHEUS
from benchmarks.figures import compare, summarize
from benchmarks.plan import Plan
from benchmarks.section import Goal, Section, ratio
from benchmarks.server import Server
from benchmarks.timing import time_cycles, time_periods
from benchmarks.watched import BARE, METRICS, NO_PARENT, UNSAMPLED

EXPLANATION = (
    "The uncontended cycle of poolscope again; telemetry is on only while it is timed. Exports by "
    "OTLP over HTTP, and scrapes, go to another process, one in each {period:g} s; these rows are "
    "compared with cycles timed for {period:g} s too, {periods} times each. Sampled spans, two a "
    "cycle, go through a BatchSpanProcessor to an exporter that drops them."
)
HEADER = ["telemetry", "ns per cycle", "to metrics alone", "to none at all", "goal"]
LIMITS = {EXPORT: 1.15, NO_PARENT: 1.3, UNSAMPLED: 1.3}

Times = dict[str, list[float]]


async def measure(server: Server, plan: Plan) -> list[Section]:
    async with AsyncExitStack() as stack:
        always = await enter(stack, watched.OPENERS, server)
        per_cycle = await time_cycles(always.cases, plan)
    async with AsyncExitStack() as stack:
        receiver = stack.enter_context(backend())
        openers = exported.openers(receiver, plan.period_seconds)
        periodic = await enter(stack, openers, server)
        per_period = await time_periods(periodic.cases, plan)
    return [_tell(per_cycle, per_period, plan), *await assembled.measure(server, plan)]


def _tell(per_cycle: Times, per_period: Times, plan: Plan) -> Section:
    explanation = EXPLANATION.format(period=plan.period_seconds, periods=plan.periods)
    section = Section("Telemetry", explanation, HEADER)
    section.data = {"ns_per_cycle": per_cycle, "ns_per_cycle_of_periods": per_period}
    for name in per_cycle:
        _add(section, name, per_cycle)
    for name in (EXPORT, FOREIGN, PROMETHEUS):
        _add(section, name, per_period)
    return section


def _add(section: Section, name: str, times: Times) -> None:
    own, limit = times[name], LIMITS.get(name)
    to_metrics, to_bare = compare(own, times[METRICS]), compare(own, times[BARE])
    goal = "" if limit is None else f"≤ {limit:g}"
    nanoseconds = f"{summarize(own).median:,.0f}"
    section.rows.append([name, nanoseconds, ratio(to_metrics), ratio(to_bare), goal])
    if limit is not None:
        what = f"a cycle with {name}, to metrics alone,"
        section.goals.append(Goal(what, to_metrics.median, limit))
