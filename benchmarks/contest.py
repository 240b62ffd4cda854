"""Contests of a crowd for each pool in turn, and the table of their outcomes."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from benchmarks.case import Borrow, Case, Field
from benchmarks.crowd import Outcome
from benchmarks.figures import Figure, compare
from benchmarks.plan import Plan
from benchmarks.section import Goal, Section, ratio, short

HEADER = ["pool", "connections", "throughput to the semaphore", "median wait, µs"]
HEADER += ["longest wait to median", "the same in turns", "starved"]

Outcomes = dict[str, list[Outcome]]
Measure = Callable[[Sequence[Outcome]], float]


@dataclass(frozen=True, slots=True)
class Contest:
    """One table. The floor is a semaphore; it goes by the name of its case, as our pool does."""

    title: str
    explanation: str
    crowd: str
    """Who competes, in words."""
    run: Callable[[Borrow, float], Awaitable[Outcome]]
    """Lets them compete for so many seconds."""
    floor: str
    ours: str
    longest_wait: float
    throughput: float | None = None
    noise: str | None = None
    """Whose longest wait tells how busy the machine is, as it lets nobody pass."""
    turns_are_exact: bool = True
    """Nothing but the pool says whose turn it is. Which thread runs, the machine says as well."""

    async def measure(self, field: Field, plan: Plan) -> Section:
        outcomes: Outcomes = {case.name: [] for case in field.cases}
        for _ in range(plan.boxes):
            for case in plan.random.sample(field.cases, len(field.cases)):
                gc.collect()
                outcomes[case.name].append(await self.run(case.borrow, plan.box_seconds))
        return self._tell(field, outcomes, plan)

    def _tell(self, field: Field, outcomes: Outcomes, plan: Plan) -> Section:
        explanation = self.explanation.format(seconds=plan.box_seconds, boxes=plan.boxes)
        section = Section(self.title, explanation, HEADER, missing=field.missing)
        throughput = "" if self.throughput is None else f"≥ {self.throughput:g}"
        longest = f"≤ {self.longest_wait:g}"
        section.rows = [["*goal for poolscope*", "", throughput, "", longest, longest, "0"]]
        section.rows += [self._row(case, outcomes) for case in field.cases]
        self._set_goals(section, outcomes)
        section.data = {
            name: [asdict(outcome) for outcome in own] for name, own in outcomes.items()
        }
        return section

    def _row(self, case: Case, outcomes: Outcomes) -> list[str]:
        own = outcomes[case.name]
        return [
            case.name,
            case.connections,
            ratio(self._throughput(outcomes, case.name)),
            short(median(outcome.median_wait for outcome in own) * 1e6),
            short(_longest(own)),
            short(_longest_turns(own)),
            f"{median(outcome.starved for outcome in own):.0f}",
        ]

    def _throughput(self, outcomes: Outcomes, name: str) -> Figure:
        own, floor = outcomes[name], outcomes[self.floor]
        return compare([outcome.rate for outcome in own], [outcome.rate for outcome in floor])

    def _set_goals(self, section: Section, outcomes: Outcomes) -> None:
        own, crowd, limit = outcomes[self.ours], self.crowd, self.longest_wait
        # Noise cannot touch these two, so the worst box counts.
        starved = Goal(f"number of starved of {crowd}", max(each.starved for each in own), 0)
        worst = max(each.longest_to_median_turns for each in own)
        section.goals = [starved]
        if self.throughput is not None:
            value = self._throughput(outcomes, self.ours).median
            what = f"throughput to the semaphore's with {crowd}"
            section.goals.insert(0, Goal(what, value, self.throughput, True))
        turns = f"longest wait to median in turns with {crowd}"
        if self.turns_are_exact:
            section.goals.append(Goal(turns, worst, limit))
        else:
            self._set_if_calm(section, turns, _longest_turns, outcomes)
        self._set_if_calm(section, f"longest wait to median with {crowd}", _longest, outcomes)

    def _set_if_calm(self, section: Section, what: str, of: Measure, outcomes: Outcomes) -> None:
        """Set a goal, unless it is missed and the machine is to blame for that."""
        goal = Goal(what, of(outcomes[self.ours]), self.longest_wait)
        noise = of(outcomes[self.noise]) if self.noise in outcomes else 0.0
        if goal.is_met or noise <= self.longest_wait:
            section.goals.append(goal)
        else:
            section.unchecked.append(
                f"{goal}, but the machine was too busy: {self.noise}'s own is {noise:.3g}"
            )


def _longest(outcomes: Sequence[Outcome]) -> float:
    return median(outcome.longest_to_median for outcome in outcomes)


def _longest_turns(outcomes: Sequence[Outcome]) -> float:
    return median(outcome.longest_to_median_turns for outcome in outcomes)
