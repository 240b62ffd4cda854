"""The callers: who asks the pool for connections, and what they do with them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from poolscope.cli.demo.database import BROKEN
from poolscope.cli.demo.scenario import Phase, Stage
from poolscope.errors import PoolError

if TYPE_CHECKING:
    import asyncpg

    from poolscope.pool import ConnectionPool


_tracer = trace.get_tracer("poolscope.demo")


class Load:
    """Callers of one pool. The same seed makes them ask for the same."""

    def __init__(self, pool: ConnectionPool[asyncpg.Connection], seed: int) -> None:
        """Have nobody call yet."""
        self._pool = pool
        self._seed = seed
        self._tasks: set[asyncio.Task[None]] = set()
        self.lost = 0
        """Queries that were cut off."""

    def start(self, stage: Stage) -> None:
        """Have the callers of a stage call until its time is over."""
        phase = stage.phase
        end = asyncio.get_running_loop().time() + stage.seconds
        for number in range(phase.callers):
            # One source of chance for each caller: they take turns as the clock decides.
            dice = Random(f"{self._seed}/{phase.name}/{number}")
            self._start(self._call(phase, dice, end), f"caller-{number}")
        for number in range(phase.leaks):
            delay = stage.seconds * 0.6 * number / phase.leaks
            self._start(self._keep(delay, end), f"forgetful-{number}")

    async def stop(self, patience: float) -> None:
        """Let those who are in the middle of a request finish it; then send everyone home."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=patience)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, call: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(call, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, phase: Phase, dice: Random, end: float) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(min(dice.expovariate(1 / phase.think), end - clock()))
            if clock() >= end:
                return
            # A pool's own spans need one of the application's around them.
            with _tracer.start_as_current_span("order"):
                await self._query(phase.query * dice.uniform(0.5, 1.5))

    async def _query(self, seconds: float) -> None:
        try:
            async with self._pool.connection() as connection:
                await connection.execute("SELECT pg_sleep($1)", seconds)
        except PoolError:
            pass  # the pool has counted it
        except BROKEN:
            self.lost += 1

    async def _keep(self, delay: float, end: float) -> None:
        await asyncio.sleep(delay)
        try:
            async with self._pool.connection():
                await asyncio.sleep(end - asyncio.get_running_loop().time())
        except PoolError:
            pass  # the others were faster
