"""A real PostgreSQL is killed and restarted at random: the pool tells the truth throughout."""

import asyncio
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress

import asyncpg
import pytest

from poolscope import ConnectionPool, ConnectionPoolSettings, events
from poolscope.errors import PoolError
from poolscope.testing import Replay
from poolscope.testing.postgres import PostgresServer
from tests.support import run

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SECONDS = float(os.environ.get("POOLSCOPE_CHAOS_SECONDS") or ("60" if "CI" in os.environ else "20"))
SIZE = 8
WORKERS = 24
MOMENTS = 100
LINGER = 1.0
"""Seconds a server process may need to see that its client has hung up."""

APPLICATION = "poolscope-chaos"
OURS = "select pid from pg_stat_activity where application_name = $1"
KILL = "select pg_terminate_backend($1, 1000)"
ASK = "select $1::text, pg_sleep($2)"

# What a client may hear of a server that is killed or restarted under it. The last comes when it
# has read the server's farewell, and not yet the end of the stream.
TROUBLE = (
    OSError,
    EOFError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

Connection = asyncpg.Connection


class Books:
    """Opens and closes the connections of a pool, and knows by process id which should be alive."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.open: dict[int, Connection] = {}
        self.hung_up: dict[int, float] = {}
        """When each closed connection was closed."""

    async def connect(self) -> Connection:
        connection = await asyncpg.connect(
            self.dsn, ssl=False, server_settings={"application_name": APPLICATION}
        )
        self.open[connection.get_server_pid()] = connection
        return connection

    async def close(self, connection: Connection) -> None:
        (pid,) = [pid for pid, known in self.open.items() if known is connection]
        try:
            await connection.close()
        finally:
            del self.open[pid]
            self.hung_up[pid] = time.monotonic()

    def dead(self) -> bool:
        """Tell whether a connection was lost that the pool has not looked at since."""
        return any(connection.is_closed() for connection in self.open.values())

    def alive(self, pids: set[int]) -> int:
        """Count server processes, but for those which cannot yet know that they are alone."""
        now = time.monotonic()
        return sum(now - self.hung_up.get(pid, now - 2 * LINGER) > LINGER for pid in pids)


class Chaos:
    """A pool, a server, and what is done to both."""

    def __init__(self, server: PostgresServer, seed: int) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.books = Books(server.dsn)
        self.replay = Replay()
        self.end = time.monotonic() + SECONDS
        self.moments: list[tuple[int, int]] = []
        """What the pool said, and what the server showed."""
        self.happened: Counter[str] = Counter()
        self.upheaval = asyncio.Lock()
        """Held while a kill or a restart takes its course."""
        self.pool: ConnectionPool[Connection] = ConnectionPool(
            self.books.connect,
            ConnectionPoolSettings(
                min_size=2,
                max_size=SIZE,
                max_idle=SIZE,
                acquire_timeout=5,
                retry_delay=0.05,
                retry_limit=8,
                connect_timeout=5,
                validate_timeout=1,
                close_timeout=1,
            ),
            lambda connection: not connection.is_closed(),
            self.books.close,
            reset_func=Connection.reset,
        )
        self.pool.bus.subscribe(self.replay)

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self.end

    # Those who use the pool

    async def work(self) -> None:
        while self.goes_on:
            await asyncio.sleep(self.random.expovariate(50))
            async with asyncio.TaskGroup() as group:
                query = group.create_task(self.query())
                await asyncio.sleep(self.random.expovariate(50))
                struck = self.random.random() < 0.3 and query.cancel()
            assert query.cancelled() == struck, "the cancellation was swallowed"
            self.happened["cancelled" if struck else query.result()] += 1

    async def query(self) -> str:
        limit = self.random.expovariate(20) if self.random.random() < 0.3 else None
        tag = secrets.token_hex()
        try:
            patience = self.random.choice([0.01, 5.0])
            async with asyncio.timeout(limit), self.pool.connection(patience) as connection:
                answer = await connection.fetchrow(ASK, tag, self.random.expovariate(50))
        except PoolError as error:
            return type(error).__name__
        except TROUBLE as error:
            return "timeout" if type(error) is TimeoutError else "trouble"
        assert answer[0] == tag, "the answer to somebody else's question"
        return "answered"

    # Those who disturb

    async def kill(self, monitor: Connection) -> None:
        """Kill one of our server processes, and wait until both sides know."""
        async with self.upheaval:
            if not self.books.open:
                return
            pid, connection = self.random.choice(list(self.books.open.items()))
            noticed = asyncio.Event()
            connection.add_termination_listener(lambda _: noticed.set())
            await monitor.fetchval(KILL, pid)
            if not connection.is_closed():
                await noticed.wait()
        self.happened["killed"] += 1

    async def restart(self) -> None:
        async with self.upheaval:
            await asyncio.to_thread(self.server.restart, "immediate")
        self.happened["restarted"] += 1

    # Those who watch

    def levels(self) -> tuple[object, ...] | None:
        """Return what must not change while the server is asked; None if it is no time to ask."""
        stats, counts = self.pool.stats(), self.replay.counts
        if stats.connecting or stats.closing or self.books.dead():
            return None
        return (
            stats.idle + stats.in_use,
            counts[events.ConnectionOpened],
            self.replay.reasons.total(),
        )

    async def look(self, monitor: Connection) -> None:
        """Compare what the pool says with what the server shows, unless it changes meanwhile."""
        async with self.upheaval:
            before = self.levels()
            shown = {row["pid"] for row in await monitor.fetch(OURS, APPLICATION)}
            if before is not None and before == self.levels():
                said = before[0]
                self.moments.append((said, self.books.alive(shown)))

    async def watch(self) -> None:
        """Look often; kill now and then. After a restart, begin anew."""
        while self.goes_on:
            with suppress(*TROUBLE):
                monitor = await asyncpg.connect(self.server.dsn, ssl=False)
                try:
                    while self.goes_on:
                        await self.look(monitor)
                        if self.random.random() < 0.05:
                            await self.kill(monitor)
                        await asyncio.sleep(0.02)
                finally:
                    monitor.terminate()
            await asyncio.sleep(0.05)

    async def restart_now_and_then(self) -> None:
        while self.goes_on:
            await asyncio.sleep(min(SECONDS / 4, 8.0))
            await self.restart()

    async def rage(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(self.work())
            group.create_task(self.watch())
            group.create_task(self.restart_now_and_then())

    # And then

    async def all_can_be_had(self) -> None:
        """Acquire all connections at once; the server must show as many."""
        async with asyncio.timeout(30), AsyncExitStack() as leases:
            connections = await asyncio.gather(
                *(leases.enter_async_context(self.pool.connection(30)) for _ in range(SIZE))
            )
            assert self.pool.stats().in_use == SIZE
            pids = {
                await connection.fetchval("select pg_backend_pid()") for connection in connections
            }
            assert len(pids) == SIZE

    async def shown(self) -> set[int]:
        monitor = await asyncpg.connect(self.server.dsn, ssl=False)
        try:
            return {row["pid"] for row in await monitor.fetch(OURS, APPLICATION)}
        finally:
            await monitor.close()

    async def gone(self) -> bool:
        """Wait until the server shows none of ours."""
        for _ in range(20):
            if not await self.shown():
                return True
            await asyncio.sleep(LINGER / 20)
        return False

    def compare_with_metrics(self) -> None:
        counts, metrics = self.replay.counts, self.pool.get_metrics()
        failures = Counter(e.reason for e in self.replay.of(events.AcquireFailed))
        failures[events.FailureReason.TIMEOUT] = counts[events.AcquireTimedOut]
        assert metrics.connection_requests == counts[events.ConnectionRequested]
        assert metrics.acquired == counts[events.ConnectionAcquired] == metrics.use.count
        assert +Counter(metrics.failures) == +failures
        assert metrics.connection_requests == metrics.acquired + failures.total()
        assert metrics.opened == counts[events.ConnectionOpened]
        assert metrics.connect_failures == counts[events.ConnectFailed]
        assert +Counter(metrics.closed) == self.replay.reasons


@pytest.mark.timeout(SECONDS + 90)
def test_the_pool_tells_the_truth_about_a_server_that_is_killed_and_restarted() -> None:
    async def scenario(server: PostgresServer) -> None:
        chaos = Chaos(server, seed)
        await chaos.rage()
        print(f"seed {seed}: {chaos.happened}, {len(chaos.moments)} moments, {chaos.replay.counts}")
        lies = [moment for moment in chaos.moments if moment[0] != moment[1]]
        assert not lies, f"{len(lies)} of {len(chaos.moments)} times (pool, server) was {lies[:5]}"
        assert len(chaos.moments) >= MOMENTS
        assert chaos.happened["killed"]
        assert chaos.happened["restarted"]
        await chaos.all_can_be_had()
        chaos.replay.check(chaos.pool.stats())
        await chaos.pool.close()
        chaos.replay.check(chaos.pool.stats())
        chaos.compare_with_metrics()
        assert await chaos.gone()

    seed = random.SystemRandom().getrandbits(32)
    with PostgresServer() as server:
        run(scenario(server))


async def ask(pool: ConnectionPool[Connection], pause: float) -> None:
    """Ask twice in a transaction, and fail over an answer that was meant for somebody else."""
    async with pool.connection() as connection:
        assert not connection.is_in_transaction()
        async with connection.transaction():
            for _ in range(2):
                tag = secrets.token_hex()
                assert (await connection.fetchrow(ASK, tag, pause))[0] == tag


async def strike_at_random(
    pool: ConnectionPool[Connection], rng: random.Random, strike: Callable[..., Awaitable[bool]]
) -> Counter[bool]:
    """Let ten callers ask again and again, some of them struck; count how many were."""

    async def caller() -> None:
        for _ in range(50):
            chance = rng.random() < 0.5
            delay = rng.uniform(0, 0.01) if chance else None
            struck[await strike(ask(pool, rng.expovariate(500)), delay)] += 1

    struck: Counter[bool] = Counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(10):
            group.create_task(caller())
    return struck


async def by_cancelling(question: Coroutine[None, None, None], delay: float | None) -> bool:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(question)
        if delay is not None:
            await asyncio.sleep(delay)
            task.cancel()
    return task.cancelled()


async def by_timeout(question: Awaitable[None], delay: float | None) -> bool:
    try:
        async with asyncio.timeout(delay):
            await question
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize("strike", [by_cancelling, by_timeout])
@pytest.mark.parametrize("reset", [None, Connection.reset], ids=["without reset", "with reset"])
def test_a_connection_interrupted_in_a_query_is_never_lent_dirty(
    postgres: PostgresServer,
    reset: Callable[[Connection], Awaitable[None]] | None,
    strike: Callable[..., Awaitable[bool]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        settings = ConnectionPoolSettings(min_size=0, max_size=3)
        async with ConnectionPool(
            lambda: asyncpg.connect(postgres.dsn, ssl=False), settings, reset_func=reset
        ) as pool:
            struck = await strike_at_random(pool, random.Random(seed), strike)
        assert struck[True] > 20
        assert struck[False] > 20

    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    run(scenario())
    # asyncpg reports, and then ends, a transaction in the middle of which it was interrupted.
    complaints = {record.message.partition(" <")[0] for record in caplog.records}
    assert complaints <= {"Resetting connection with an active transaction"}
    caplog.clear()
