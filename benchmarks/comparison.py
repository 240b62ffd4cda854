"""Our pool beside others: the cost of a cycle when a connection is free."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from benchmarks.case import Case, Field, Opener, enter
from benchmarks.figures import compare, summarize
from benchmarks.plan import Plan
from benchmarks.section import Goal, Section, ratio
from benchmarks.server import Server
from benchmarks.timing import time_cycles

Times = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One table: a row for each pool, and a goal for some."""

    title: str
    explanation: str
    openers: Mapping[str, Opener]
    floor: str
    ours: str
    limits: Mapping[str, float]
    """What our cycle may cost, to that of others."""

    async def measure(self, server: Server, plan: Plan) -> Section:
        async with AsyncExitStack() as stack:
            field = await enter(stack, self.openers, server)
            times = await time_cycles(field.cases, plan)
        return self._tell(field, times)

    def _tell(self, field: Field, times: Times) -> Section:
        header = ["pool", "connections", "ns per cycle", f"to the {self.floor}"]
        header += [f"{self.ours} to it", "goal"]
        section = Section(self.title, self.explanation, header, missing=field.missing)
        section.data = {"ns_per_cycle": times}
        section.rows = [self._row(case, times) for case in field.cases]
        for name, limit in self.limits.items():
            what = f"{self.ours}'s cycle to {name}'s"
            if name in times:
                value = compare(times[self.ours], times[name]).median
                section.goals.append(Goal(what, value, limit))
            else:
                section.unchecked.append(what)
        return section

    def _row(self, case: Case, times: Times) -> list[str]:
        own = times[case.name]
        to_floor = compare(own, times[self.floor])
        to_it = "" if case.name == self.ours else ratio(compare(times[self.ours], own))
        limit = self.limits.get(case.name)
        nanoseconds = f"{summarize(own).median:,.0f}"
        goal = "" if limit is None else f"≤ {limit:g}"
        return [case.name, case.connections, nanoseconds, ratio(to_floor), to_it, goal]
