"""Other libraries' pools, as they come and observed by us."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import poolscope
from benchmarks import engines, thread_contestants
from benchmarks.case import SIZE, Case, Field, Opener, enter, expect
from benchmarks.contestants import REAL
from benchmarks.figures import compare, summarize
from benchmarks.plan import Plan
from benchmarks.section import Goal, Section, ratio
from benchmarks.server import Server, UnavailableError
from benchmarks.timing import time_cycles, warm_up
from poolscope import registry
from poolscope.testing.redis import RedisServer
from poolscope.testing.server import ServerMissingError

EXPLANATION = (
    "One cycle of the library's own way to acquire and release, with ten warm connections, and the "
    "same in the same process after `poolscope.instrument()`: requests, waits and uses are counted "
    "and go into histograms. OpenTelemetry's own instrumentation of SQLAlchemy, and redis-py's own "
    "metrics, are in the table of what people put together."
)
HEADER = ["pool", "connections", "as it comes, ns", "observed, ns", "observed to bare", "goal"]

Times = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A pool of some library, and what observing it may cost."""

    name: str
    library: str
    opener: Opener
    limit: float | None

    @property
    def observed(self) -> str:
        return f"{self.name}, observed"

    @asynccontextmanager
    async def open(self, observed: bool, server: Server) -> AsyncIterator[Case]:
        async with self.opener(server) as case:
            name = self.observed if observed else self.name
            active = partial(_observing, self.library if observed else None, case)
            yield replace(case, name=name, active=active)


@asynccontextmanager
async def _observing(library: str | None, case: Case) -> AsyncIterator[None]:
    """Observe meanwhile, if a library is named: it is done to all its pools of the process."""
    if library is None:
        await warm_up(case)
        yield
        return
    poolscope.instrument(library)
    try:
        await warm_up(case)
        yield
        counted = sum(pool.metrics.wait.count for pool in registry.live())
        expect(counted > 0, "cycles were counted")
    finally:
        poolscope.uninstrument(library)


@asynccontextmanager
async def asyncpg(server: Server) -> AsyncIterator[Case]:
    from asyncpg import create_pool

    async with create_pool(server.dsn(), min_size=SIZE, max_size=SIZE) as pool:
        yield Case("asyncpg", REAL, pool.acquire, lambda lent: lent.get_server_pid())


@asynccontextmanager
async def psycopg_asyncio(server: Server) -> AsyncIterator[Case]:
    from psycopg_pool import AsyncConnectionPool

    async with AsyncConnectionPool(server.dsn(), min_size=SIZE, max_size=SIZE, open=False) as pool:
        await pool.wait()
        identify = lambda lent: lent.info.backend_pid  # noqa: E731
        yield Case("psycopg_pool", REAL, pool.connection, identify)


@asynccontextmanager
async def redis(server: Server) -> AsyncIterator[Case]:
    from redis import BlockingConnectionPool

    server.dsn()  # where no server is wanted, none is started
    with _redis_server() as own:
        pool = BlockingConnectionPool.from_url(own.url, max_connections=SIZE, timeout=1)

        def cycles(_: Callable[[], object], count: int) -> None:
            for _number in range(count):
                connection = pool.get_connection()
                pool.release(connection)

        @contextmanager
        def borrow() -> Iterator[object]:
            connection = pool.get_connection()
            try:
                yield connection
            finally:
                pool.release(connection)

        yield Case("redis", "Redis", borrow, is_sync=True, cycles=cycles)
        pool.disconnect()


@contextmanager
def _redis_server() -> Iterator[RedisServer]:
    try:
        server = RedisServer()
    except ServerMissingError as missing:
        raise UnavailableError(str(missing)) from missing
    with server:
        yield server


KINDS = (
    Kind("SQLAlchemy engine, QueuePool", "sqlalchemy", engines.bare, 1.35),
    Kind("psycopg_pool.ConnectionPool", "psycopg", thread_contestants.psycopg, 1.3),
    Kind("psycopg_pool.AsyncConnectionPool", "psycopg", psycopg_asyncio, None),
    Kind("asyncpg.Pool", "asyncpg", asyncpg, 1.05),
    Kind("redis.BlockingConnectionPool", "redis", redis, 1.3),
)

OPENERS: Mapping[str, Opener] = {
    name: partial(kind.open, name == kind.observed)
    for kind in KINDS
    for name in (kind.name, kind.observed)
}


async def measure(server: Server, plan: Plan) -> list[Section]:
    async with AsyncExitStack() as stack:
        field = await enter(stack, OPENERS, server)
        times = await time_cycles(field.cases, plan)
    return [_tell(field, times)]


def _tell(field: Field, times: Times) -> Section:
    section = Section("Pools of others, observed", EXPLANATION, HEADER, missing=field.missing)
    section.data = {"ns_per_cycle": times}
    connections = {case.name: case.connections for case in field.cases}
    for kind in KINDS:
        what = f"{kind.name}'s cycle, observed to bare"
        if kind.name not in times or kind.observed not in times:
            section.unchecked.append(what)
            continue
        bare, observed = times[kind.name], times[kind.observed]
        to_bare = compare(observed, bare)
        nanoseconds = [f"{summarize(each).median:,.0f}" for each in (bare, observed)]
        goal = "" if kind.limit is None else f"≤ {kind.limit:g}"
        section.rows.append([kind.name, connections[kind.name], *nanoseconds, ratio(to_bare), goal])
        if kind.limit is not None:
            section.goals.append(Goal(what, to_bare.median, kind.limit))
    return section
