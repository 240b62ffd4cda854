"""Many tasks, few connections."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack

from benchmarks import contestants
from benchmarks.case import SIZE, Borrow, Opener, enter
from benchmarks.contest import Contest
from benchmarks.crowd import Outcome, TaskBox
from benchmarks.plan import Plan
from benchmarks.section import Section
from benchmarks.server import Server
from benchmarks.timing import only_own_garbage

CROWDS = (100, 1000)
EXPLANATION = (
    f"Each task borrows one of {SIZE} connections, lets the event loop turn once, gives it back "
    "and at once borrows again, for {seconds:g} s; medians of {boxes} such boxes. Starved: tasks "
    "that got nothing. A wait that has not ended by then counts with its age. Whatever else runs "
    "on the machine makes some waits longer, those for a semaphore too, although it lets nobody "
    "pass; so waits are also counted in turns: how many borrowers were served until it ended."
)

OPENERS: Mapping[str, Opener] = {
    contestants.SEMAPHORE: contestants.semaphore,
    contestants.OURS: contestants.ours,
    **contestants.PEERS,
}


def contest(crowd: int) -> Contest:
    async def run(borrow: Borrow, seconds: float) -> Outcome:
        return await TaskBox(borrow, crowd).run(seconds)

    return Contest(
        title=f"Contended, {crowd:,} tasks",
        explanation=EXPLANATION,
        crowd=f"{crowd} tasks",
        run=run,
        floor=contestants.SEMAPHORE,
        ours=contestants.OURS,
        longest_wait=2.0,
        throughput=0.5,
        noise=contestants.SEMAPHORE,
    )


async def measure(server: Server, plan: Plan) -> list[Section]:
    async with AsyncExitStack() as stack:
        field = await enter(stack, OPENERS, server)
        with only_own_garbage():
            return [await contest(crowd).measure(field, plan) for crowd in CROWDS]
