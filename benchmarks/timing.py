"""Time uncontended cycles, case by case in every round."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter_ns
from types import FunctionType
from typing import Any

from benchmarks.case import Borrow, Case
from benchmarks.plan import Plan

Loop = Callable[[Borrow, int], Any]
"""Borrows and gives back so many times; a coroutine function, if the case is no sync one."""

STRIDE = 500
"""Cycles between two looks at the clock, where a time is given and not a number of cycles."""


async def _cycles(borrow: Borrow, count: int) -> None:
    for _ in range(count):
        async with borrow():
            pass


def _sync_cycles(borrow: Borrow, count: int) -> None:
    for _ in range(count):
        with borrow():
            pass


def _own_loop(case: Case) -> Loop:
    """Return a copy of the loop: the interpreter adapts code to what it calls.

    A caller has one pool. In one loop for all, each case would undo what the last one taught it.
    """
    loop: Any = case.cycles or (_sync_cycles if case.is_sync else _cycles)
    return FunctionType(loop.__code__.replace(), loop.__globals__, closure=loop.__closure__)


async def time_cycles(cases: Sequence[Case], plan: Plan) -> dict[str, list[float]]:
    """Return how many ns a cycle took, for each case in each round."""
    loops = {case.name: _own_loop(case) for case in cases}
    counts = {case.name: await _calibrate(case, loops[case.name], plan) for case in cases}
    times: dict[str, list[float]] = {case.name: [] for case in cases}
    with only_own_garbage():
        for _ in range(plan.rounds):
            for case in plan.random.sample(cases, len(cases)):
                gc.collect()
                count = counts[case.name]
                times[case.name].append(await _time(case, loops[case.name], count) / count)
    return times


async def time_periods(cases: Sequence[Case], plan: Plan) -> dict[str, list[float]]:
    """Return how many ns a cycle took, on the average of each period."""
    loops = {case.name: _own_loop(case) for case in cases}
    times: dict[str, list[float]] = {case.name: [] for case in cases}
    with only_own_garbage():
        for _ in range(plan.periods):
            for case in plan.random.sample(cases, len(cases)):
                gc.collect()
                times[case.name].append(await _time_period(case, loops[case.name], plan))
    return times


@contextmanager
def only_own_garbage() -> Iterator[None]:
    """Keep the collector on, but let it look only at what comes from now on."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _calibrate(case: Case, loop: Loop, plan: Plan) -> int:
    """Return how many cycles fill a slice."""
    wanted = plan.slice_seconds * 1e9
    count = 16
    while (elapsed := await _time(case, loop, count)) < wanted / 4:
        count *= 2
    return max(1, round(count * wanted / elapsed))


async def _time(case: Case, loop: Loop, count: int) -> int:
    async with case.active():
        # Lets pools that work in the background finish what the case before has left.
        await asyncio.sleep(0)
        return await _clock(case, loop, count)


async def warm_up(case: Case, count: int = 500) -> None:
    """Run so many cycles, so that what was changed just before is as it is in the long run."""
    await _clock(case, case.cycles or (_sync_cycles if case.is_sync else _cycles), count)


async def _clock(case: Case, loop: Loop, count: int) -> int:
    """Return how many ns so many cycles take."""
    if case.is_sync:
        return await asyncio.to_thread(_clock_sync, case.borrow, loop, count)
    started = perf_counter_ns()
    await loop(case.borrow, count)
    return perf_counter_ns() - started


def _clock_sync(borrow: Borrow, loop: Loop, count: int) -> int:
    started = perf_counter_ns()
    loop(borrow, count)
    return perf_counter_ns() - started


async def _time_period(case: Case, loop: Loop, plan: Plan) -> float:
    count = 0
    async with case.active():
        await asyncio.sleep(0)
        started = perf_counter_ns()
        while (elapsed := perf_counter_ns() - started) < plan.period_seconds * 1e9:
            await loop(case.borrow, STRIDE)
            count += STRIDE
    return elapsed / count
