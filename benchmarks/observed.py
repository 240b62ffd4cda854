"""Engines of SQLAlchemy on our pools, beside the same engines on SQLAlchemy's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.case import SIZE, Case, Field, Opener, enter
from benchmarks.figures import compare, summarize
from benchmarks.plan import Plan
from benchmarks.section import Goal, Section, ratio
from benchmarks.server import Server
from benchmarks.timing import time_cycles

EXPLANATION = (
    "`with engine.connect(): pass`, or `async with`, with ten warm connections. Ours counts and "
    "fills histograms meanwhile, SQLAlchemy's own does not. Whatever engine and driver do in such "
    "a cycle weighs on both sides."
)
HEADER = ["engine", "connections", "own pool, ns", "ours, ns", "ours to own", "goal"]

Times = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of engine: which driver, which pools, and what ours may cost to SQLAlchemy's."""

    name: str
    connections: str
    address: Callable[[Server], str]
    limit: float
    is_async: bool = False
    connect_args: Mapping[str, Any] | None = None

    @property
    def own(self) -> str:
        return f"{self.name}, {'AsyncAdaptedQueuePool' if self.is_async else 'QueuePool'}"

    @property
    def ours(self) -> str:
        return f"{self.name}, {'AsyncObservedPool' if self.is_async else 'ObservedPool'}"

    @asynccontextmanager
    async def open(self, ours: bool, server: Server) -> AsyncIterator[Case]:
        opened = self._open_async(ours, server) if self.is_async else self._open(ours, server)
        async with opened as case:
            yield case

    @asynccontextmanager
    async def _open(self, ours: bool, server: Server) -> AsyncIterator[Case]:
        from sqlalchemy import QueuePool, create_engine

        from poolscope.sqlalchemy import ObservedPool

        engine = create_engine(
            self.address(server), poolclass=ObservedPool if ours else QueuePool, pool_size=SIZE,
            max_overflow=0, connect_args=dict(self.connect_args or {}),
        )  # fmt: skip
        name = self.ours if ours else self.own
        identify = lambda lent: id(lent.connection.dbapi_connection)  # noqa: E731
        yield Case(name, self.connections, engine.connect, identify, is_sync=True)
        engine.dispose()

    @asynccontextmanager
    async def _open_async(self, ours: bool, server: Server) -> AsyncIterator[Case]:
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy.pool import AsyncAdaptedQueuePool

        from poolscope.sqlalchemy import AsyncObservedPool

        engine = create_async_engine(
            self.address(server), pool_size=SIZE, max_overflow=0,
            poolclass=AsyncObservedPool if ours else AsyncAdaptedQueuePool,
        )  # fmt: skip
        name = self.ours if ours else self.own
        identify = lambda lent: id(lent.sync_connection.connection.dbapi_connection)  # noqa: E731
        yield Case(name, self.connections, engine.connect, identify)
        await engine.dispose()


def _postgres(driver: str) -> Callable[[Server], str]:
    return lambda server: server.dsn().replace("postgresql:", f"postgresql+{driver}:", 1)


KINDS = (
    Kind(
        "engine, sqlite3", "SQLite", lambda _: "sqlite://", 1.1,
        connect_args={"check_same_thread": False},
    ),
    Kind("engine, psycopg", "PostgreSQL", _postgres("psycopg"), 1.1),
    Kind("async engine, asyncpg", "PostgreSQL", _postgres("asyncpg"), 0.9, is_async=True),
)  # fmt: skip

OPENERS: Mapping[str, Opener] = {
    name: partial(kind.open, name == kind.ours) for kind in KINDS for name in (kind.own, kind.ours)
}


async def measure(server: Server, plan: Plan) -> list[Section]:
    async with AsyncExitStack() as stack:
        field = await enter(stack, OPENERS, server)
        times = await time_cycles(field.cases, plan)
    return [_tell(field, times)]


def _tell(field: Field, times: Times) -> Section:
    section = Section("Engines of SQLAlchemy", EXPLANATION, HEADER, missing=field.missing)
    section.data = {"ns_per_cycle": times}
    for kind in KINDS:
        what = f"{kind.ours}'s cycle to {kind.own}'s"
        if kind.own not in times or kind.ours not in times:
            section.unchecked.append(what)
            continue
        own, ours = times[kind.own], times[kind.ours]
        to_own = compare(ours, own)
        nanoseconds = [f"{summarize(each).median:,.0f}" for each in (own, ours)]
        goal = f"≤ {kind.limit:g}"
        section.rows.append([kind.name, kind.connections, *nanoseconds, ratio(to_own), goal])
        section.goals.append(Goal(what, to_own.median, kind.limit))
    return section
