"""The pool for threads: alone, and with more threads than connections."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack

from benchmarks import thread_contestants as contestants
from benchmarks.case import SIZE, Borrow, Opener, enter
from benchmarks.comparison import Comparison
from benchmarks.contest import Contest
from benchmarks.crowd import Outcome, ThreadBox
from benchmarks.plan import Plan
from benchmarks.section import Section
from benchmarks.server import Server
from benchmarks.timing import only_own_garbage

COMPARISON = Comparison(
    title="Uncontended, threads",
    explanation=(
        "`with pool.connection(): pass` in one thread, ten warm connections; pools without a "
        "`with` statement are spared one: what they have for borrowing and giving back is called. "
        "A ratio is the median of the ratios of all rounds, with its quartiles."
    ),
    openers={
        contestants.FLOOR: contestants.floor,
        contestants.OURS: contestants.ours,
        contestants.SILENT: contestants.silent,
        **contestants.PEERS,
    },
    floor=contestants.FLOOR,
    ours=contestants.OURS,
    limits=dict.fromkeys(contestants.PEERS, 1.0) | {contestants.PSYCOPG: 0.5},
)

CROWD = 32
HOLDS = {"at once": 0.0, "after 1 ms": 0.001}
EXPLANATION = (
    f"Each of {CROWD} threads borrows one of {SIZE} connections, gives it back %s and borrows "
    "again immediately, for {seconds:g} s; medians of {boxes} such boxes. Starved: threads that "
    "got nothing. A wait that has not ended by then counts with its age. The semaphore lets "
    "whoever runs pass those who wait. Turns: how many borrowers were served until a wait ended."
)

CROWDED: Mapping[str, Opener] = {
    contestants.SEMAPHORE: contestants.semaphore,
    contestants.OURS: contestants.ours,
    **contestants.WAITING_PEERS,
}


def contest(when: str, hold: float) -> Contest:
    async def run(borrow: Borrow, seconds: float) -> Outcome:
        return await asyncio.to_thread(ThreadBox(borrow, CROWD, hold).run, seconds)

    return Contest(
        title=f"Contended, {CROWD} threads that give back {when}",
        explanation=EXPLANATION.replace("%s", when),
        crowd=f"{CROWD} threads that give back {when}",
        run=run,
        floor=contestants.SEMAPHORE,
        ours=contestants.OURS,
        longest_wait=3.0,
        noise=contestants.PSYCOPG,
        turns_are_exact=False,
    )


async def measure(server: Server, plan: Plan) -> list[Section]:
    alone = await COMPARISON.measure(server, plan)
    async with AsyncExitStack() as stack:
        field = await enter(stack, CROWDED, server)
        with only_own_garbage():
            crowded = [await contest(*hold).measure(field, plan) for hold in HOLDS.items()]
    return [alone, *crowded]
