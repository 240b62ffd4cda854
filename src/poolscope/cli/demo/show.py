"""The stages played one after the other, and what there is to see meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poolscope.cli.demo.database import Database
from poolscope.cli.demo.load import Load
from poolscope.cli.demo.readings import Counts, Window
from poolscope.cli.demo.scenario import Phase, Stage
from poolscope.cli.demo.words import NOTEWORTHY, Note, Notebook
from poolscope.events import ConnectionAcquired
from poolscope.stats import PoolStats

if TYPE_CHECKING:
    import asyncpg

    from poolscope.pool import ConnectionPool

LONGEST_OUTAGE = 2.0
PATIENCE = 2.0
"""Seconds the last callers have to finish."""


@dataclass(frozen=True, slots=True)
class Frame:
    """All there is to see at one moment. Times are in seconds since the start."""

    now: float
    stages: Sequence[Stage]
    playing: int
    left: float
    """Until the end of the stage."""
    stats: PoolStats
    recent: Counts
    timeouts: int
    notes: Sequence[Note]

    @property
    def phase(self) -> Phase:
        """Return what is played."""
        return self.stages[self.playing].phase


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one stage."""

    name: str
    counts: Counts
    lost: int
    peak: int


class Show:
    """One pool, taken through some stages."""

    def __init__(
        self,
        pool: ConnectionPool[asyncpg.Connection],
        database: Database,
        stages: Sequence[Stage],
        seed: int,
    ) -> None:
        """Look at the pool from now on."""
        self.began = time.monotonic()
        self.rows: list[Row] = []
        self._pool = pool
        self._database = database
        self._stages = stages
        self._load = Load(pool, seed)
        # Half a stage, so that every stage is seen to change the numbers.
        self._window = Window(min(5.0, min(stage.seconds for stage in stages) / 2))
        self._notebook = Notebook()
        self._playing = 0
        self._ends = 0.0
        self._peak = 0
        self._row_began = self._count(), 0
        pool.bus.subscribe(self._notebook.add, *NOTEWORTHY)
        pool.bus.subscribe(self._note_peak, ConnectionAcquired)

    async def play(self) -> None:
        """Play all stages. What was counted of one that is cut short is kept as well."""
        patience = 0.0
        try:
            for number, stage in enumerate(self._stages):
                if number:
                    self._end_row()
                self._playing = number
                await self._play(stage)
            patience = PATIENCE
        finally:
            await self._load.stop(patience)
            self._end_row()

    async def _play(self, stage: Stage) -> None:
        self._ends = self._now() + stage.seconds
        self._load.start(stage)
        if stage.phase.outage:
            await asyncio.sleep(stage.seconds / 5)
            await self._break_database(min(LONGEST_OUTAGE, stage.seconds / 4))
        await asyncio.sleep(self._ends - self._now())

    async def _break_database(self, seconds: float) -> None:
        self._notebook.tell(time.monotonic(), self._database.trouble)
        await self._database.fail(seconds)
        self._notebook.tell(time.monotonic(), "the database takes connections again")

    def _end_row(self) -> None:
        name = self._stages[self._playing].phase.name
        counts, lost = self._count(), self._load.lost
        began, lost_before = self._row_began
        self.rows.append(Row(name, counts - began, lost - lost_before, self._peak))
        self._row_began = counts, lost
        self._peak = self._pool.stats().in_use

    def look(self) -> Frame:
        """Return what there is to see now."""
        now = self._count()
        return Frame(
            now.seconds,
            self._stages,
            self._playing,
            max(0.0, self._ends - now.seconds),
            self._pool.stats(),
            self._window.recent(now),
            now.timeouts,
            self._notebook.notes,
        )

    def _now(self) -> float:
        return time.monotonic() - self.began

    def _count(self) -> Counts:
        return Counts.read(self._pool.get_metrics(), self._now())

    def _note_peak(self, _event: ConnectionAcquired) -> None:
        self._peak = max(self._peak, self._pool.stats().in_use)
