"""A crowd that competes for one pool: who waits how long, and who gets nothing."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from threading import Barrier
from time import perf_counter, sleep

from benchmarks.case import Borrow


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened in one box; times in seconds."""

    rate: float
    median_wait: float
    longest_to_median: float
    longest_to_median_turns: float
    starved: int


class Box:
    """A stretch of time in which a crowd competes for one pool."""

    def __init__(self, borrow: Borrow, crowd: int) -> None:
        self._borrow = borrow
        self._waits: list[float] = []
        self._turns: list[int] = []
        self._waiting: list[tuple[float, int] | None] = [None] * crowd
        """Since when each competitor waits, and how many had been served by then."""
        self._got = [0] * crowd
        self._is_over = False

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


class TaskBox(Box):
    """A crowd of tasks; who holds a connection lets the event loop turn once."""

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


class ThreadBox(Box):
    """A crowd of threads; who holds a connection sleeps for `hold` seconds."""

    def __init__(self, borrow: Borrow, crowd: int, hold: float = 0.0) -> None:
        super().__init__(borrow, crowd)
        self._hold = hold
        self._gate = Barrier(crowd + 1)

    def run(self, seconds: float) -> Outcome:
        crowd = len(self._got)
        with ThreadPoolExecutor(crowd) as executor:
            competitors = [executor.submit(self._compete, seat) for seat in range(crowd)]
            self._gate.wait()
            started = perf_counter()
            sleep(seconds)
            self._is_over = True
            outcome = self._look(started, perf_counter())
        for competitor in competitors:
            competitor.result()
        return outcome

    def _compete(self, seat: int) -> None:
        waits, turns, hold = self._waits, self._turns, self._hold
        self._gate.wait()
        while not self._is_over:
            began, served = self._waiting[seat] = perf_counter(), len(waits)
            with self._borrow():
                waited = perf_counter() - began
                if self._is_over:
                    return
                self._waiting[seat] = None
                waits.append(waited)
                turns.append(len(waits) - served)
                self._got[seat] += 1
                sleep(hold)
