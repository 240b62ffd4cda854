"""The cost of `async with pool.connection(): pass` when a connection is free."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack

from benchmarks import contestants
from benchmarks.case import Case, Field, Opener, enter
from benchmarks.figures import compare, summarize
from benchmarks.plan import Plan
from benchmarks.section import Goal, Section, ratio
from benchmarks.server import Server
from benchmarks.timing import time_cycles

EXPLANATION = (
    "One task, ten warm connections. A ratio is the median of the ratios of all rounds, with "
    "its quartiles."
)
LIMITS = {contestants.QUEUE_POOL: 0.7, contestants.PSYCOPG: 0.3}

OPENERS: Mapping[str, Opener] = {
    contestants.BARE_LEASE: contestants.bare_lease,
    contestants.OURS: contestants.ours,
    contestants.CHECKING: contestants.checking,
    contestants.SILENT: contestants.silent,
    **contestants.PEERS,
}


async def measure(server: Server, plan: Plan) -> list[Section]:
    async with AsyncExitStack() as stack:
        field = await enter(stack, OPENERS, server)
        times = await time_cycles(field.cases, plan)
    return [_tell(field, times)]


def _tell(field: Field, times: dict[str, list[float]]) -> Section:
    header = ["pool", "connections", "ns per cycle", "to the bare lease"]
    header += ["poolscope to it", "goal"]
    section = Section("Uncontended", EXPLANATION, header, missing=field.missing)
    section.data = {"ns_per_cycle": times}
    for case in field.cases:
        section.rows.append(_row(case, times))
    ours = times[contestants.OURS]
    for name, limit in LIMITS.items():
        what = f"poolscope's cycle to {name}'s"
        if name in times:
            section.goals.append(Goal(what, compare(ours, times[name]).median, limit))
        else:
            section.unchecked.append(what)
    return section


def _row(case: Case, times: dict[str, list[float]]) -> list[str]:
    own = times[case.name]
    to_floor = compare(own, times[contestants.BARE_LEASE])
    to_it = "" if case.name == contestants.OURS else ratio(compare(times[contestants.OURS], own))
    limit = LIMITS.get(case.name)
    nanoseconds = f"{summarize(own).median:,.0f}"
    goal = "" if limit is None else f"≤ {limit:g}"
    return [case.name, case.connections, nanoseconds, ratio(to_floor), to_it, goal]
