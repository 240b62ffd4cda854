"""Many tasks, few connections: who waits how long, and who gets nothing."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter

from benchmarks import contestants
from benchmarks.case import SIZE, Borrow, Case, Field, Opener, enter
from benchmarks.figures import Figure, compare
from benchmarks.plan import Plan
from benchmarks.section import Goal, Section, ratio, short
from benchmarks.server import Server
from benchmarks.timing import only_own_garbage

CROWDS = (100, 1000)
EXPLANATION = (
    "Each task borrows one of {size} connections, lets the event loop turn once, gives it back and "
    "at once borrows again, for {seconds:g} s; medians of {boxes} such boxes. Starved: tasks that "
    "got nothing. A wait that has not ended by then counts with its age. Whatever else runs on the "
    "machine makes some waits longer, those for a semaphore too, although it lets nobody pass; so "
    "waits are also counted in turns: how many borrowers were served until it ended."
)
LONGEST_WAIT = 2.0
THROUGHPUT = 0.5
HEADER = ["pool", "connections", "throughput to the semaphore", "median wait, µs"]
HEADER += ["longest wait to median", "the same in turns", "starved"]

OPENERS: Mapping[str, Opener] = {
    contestants.SEMAPHORE: contestants.semaphore,
    contestants.OURS: contestants.ours,
    **contestants.PEERS,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened in one box; times in seconds."""

    rate: float
    median_wait: float
    longest_to_median: float
    longest_to_median_turns: float
    starved: int


Outcomes = dict[str, list[Outcome]]


class Box:
    """A stretch of time in which a crowd of tasks competes for one pool."""

    def __init__(self, borrow: Borrow, crowd: int) -> None:
        self._borrow = borrow
        self._waits: list[float] = []
        self._turns: list[int] = []
        self._waiting: list[tuple[float, int] | None] = [None] * crowd
        """Since when each task waits, and how many had been served by then."""
        self._got = [0] * crowd
        self._is_over = False

    async def run(self, seconds: float) -> Outcome:
        async with asyncio.TaskGroup() as group:
            for seat in range(len(self._got)):
                group.create_task(self._compete(seat))
            started = perf_counter()
            await asyncio.sleep(seconds)
            self._is_over = True
            return self._look(started, perf_counter())

    async def _compete(self, seat: int) -> None:
        waits, turns = self._waits, self._turns
        while not self._is_over:
            began, served = self._waiting[seat] = perf_counter(), len(waits)
            async with self._borrow():
                waited = perf_counter() - began
                if self._is_over:
                    return
                self._waiting[seat] = None
                waits.append(waited)
                turns.append(len(waits) - served)
                self._got[seat] += 1
                await asyncio.sleep(0)

    def _look(self, started: float, now: float) -> Outcome:
        served = len(self._waits)
        unended = [waiting for waiting in self._waiting if waiting is not None]
        waits = self._waits + [now - began for began, _ in unended]
        turns = self._turns + [served + 1 - before for _, before in unended]
        return Outcome(
            rate=served / (now - started),
            median_wait=median(waits),
            longest_to_median=max(waits) / median(waits),
            longest_to_median_turns=max(turns) / median(turns),
            starved=self._got.count(0),
        )


async def measure(server: Server, plan: Plan) -> list[Section]:
    async with AsyncExitStack() as stack:
        field = await enter(stack, OPENERS, server)
        with only_own_garbage():
            return [
                _tell(field, crowd, await _run(field.cases, crowd, plan), plan) for crowd in CROWDS
            ]


async def _run(cases: Sequence[Case], crowd: int, plan: Plan) -> Outcomes:
    outcomes: Outcomes = {case.name: [] for case in cases}
    for _ in range(plan.boxes):
        for case in plan.random.sample(cases, len(cases)):
            gc.collect()
            outcomes[case.name].append(await Box(case.borrow, crowd).run(plan.box_seconds))
    return outcomes


def _tell(field: Field, crowd: int, outcomes: Outcomes, plan: Plan) -> Section:
    explanation = EXPLANATION.format(size=SIZE, seconds=plan.box_seconds, boxes=plan.boxes)
    section = Section(f"Contended, {crowd:,} tasks", explanation, HEADER, missing=field.missing)
    goals = [f"≥ {THROUGHPUT:g}", "", f"≤ {LONGEST_WAIT:g}", f"≤ {LONGEST_WAIT:g}", "0"]
    section.rows = [["*goal for poolscope*", "", *goals]]
    section.rows += [_row(case, outcomes) for case in field.cases]
    _set_goals(section, crowd, outcomes)
    section.data = {name: [asdict(outcome) for outcome in own] for name, own in outcomes.items()}
    return section


def _row(case: Case, outcomes: Outcomes) -> list[str]:
    own = outcomes[case.name]
    return [
        case.name,
        case.connections,
        ratio(_throughput(outcomes, case.name)),
        short(median(outcome.median_wait for outcome in own) * 1e6),
        short(_longest(own)),
        short(median(outcome.longest_to_median_turns for outcome in own)),
        f"{median(outcome.starved for outcome in own):.0f}",
    ]


def _throughput(outcomes: Outcomes, name: str) -> Figure:
    own, floor = outcomes[name], outcomes[contestants.SEMAPHORE]
    return compare([outcome.rate for outcome in own], [outcome.rate for outcome in floor])


def _longest(outcomes: Sequence[Outcome]) -> float:
    return median(outcome.longest_to_median for outcome in outcomes)


def _set_goals(section: Section, crowd: int, outcomes: Outcomes) -> None:
    own = outcomes[contestants.OURS]
    throughput = _throughput(outcomes, contestants.OURS).median
    # Noise cannot touch these two, so the worst box counts.
    turns = max(outcome.longest_to_median_turns for outcome in own)
    starved = max(outcome.starved for outcome in own)
    section.goals = [
        Goal(f"throughput to the semaphore's with {crowd} tasks", throughput, THROUGHPUT, True),
        Goal(f"longest wait to median in turns with {crowd} tasks", turns, LONGEST_WAIT),
        Goal(f"number of starved tasks of {crowd}", starved, 0),
    ]
    longest = Goal(f"longest wait to median with {crowd} tasks", _longest(own), LONGEST_WAIT)
    noise = _longest(outcomes[contestants.SEMAPHORE])
    if longest.is_met or noise <= LONGEST_WAIT:
        section.goals.append(longest)
    else:
        section.unchecked.append(
            f"{longest}, but the machine was too busy: the semaphore's own is {noise:.3g}"
        )
