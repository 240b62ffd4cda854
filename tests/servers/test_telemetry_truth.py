"""What telemetry says of pools under load and faults is what a real PostgreSQL shows.

A moment is compared while everybody stands still: callers hold what they hold and wait for what
they wait for, and nothing is being opened, checked, reset or closed. So the numbers must be equal,
with no tolerance.
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager

import asyncpg
import pytest

from poolscope.reasons import FailureReason
from poolscope.testing.postgres import PostgresServer
from tests.servers.callers import Caller, Connection, Halt, Load
from tests.servers.roads import Road, collected, encoded, scraped
from tests.support import run
from tests.telemetry.series import Series, key

pytestmark = [pytest.mark.servers, pytest.mark.slow]

MOMENTS = 200 if "CI" in os.environ else 100
PATIENCE = 20.0
"""Seconds in which everything must come to rest."""

POOL = "db_client_connection_pool_name"
COUNT = "db_client_connection_count"
STATE = "db_client_connection_state"
PENDING = "db_client_connection_pending_requests"
WAIT = "db_client_connection_wait_time_seconds"
USE = "db_client_connection_use_time_seconds"
CREATE = "db_client_connection_create_time_seconds"
CLOSED = "poolscope_connection_closed_total"
CLOCKED = (
    "poolscope_use_oldest_seconds",
    "poolscope_wait_oldest_seconds",
    "poolscope_saturation_time_seconds_total",
)
"""What goes on by itself between two looks."""

SHOWN = "select application_name, pid from pg_stat_activity where application_name = any($1)"
KILL = "select pg_terminate_backend($1, 1000)"


class Witness:
    """Disturbs the pools, and compares what telemetry says of them with what is true."""

    def __init__(self, server: PostgresServer, seed: int, roads: dict[str, Road]) -> None:
        self.server = server
        self.random = random.Random(seed)
        self.roads = roads
        self.halt = Halt()
        self.loads = {
            name: Load(server.dsn, name, self.halt, self.random)
            for name in ("careful", "quick", "trusting")
        }
        self.moments = 0
        """Looks at which the server showed every connection the pools have."""
        self.seen: Counter[str] = Counter()

    async def watch(self, moments: int, restarts: int) -> None:
        """Look at that many random moments, with restarts of the server in between."""
        for part in range(restarts + 1):
            if part:
                mode = self.random.choice(["fast", "immediate"])
                await asyncio.to_thread(self.server.restart, mode)
            async with monitoring(self.server) as monitor:
                while self.moments < moments * (part + 1) // (restarts + 1):
                    await self.disturb(monitor)
                    await asyncio.sleep(self.random.expovariate(100))
                    await self.look(monitor)
        for load in self.loads.values():
            load.goes_on = False

    # What happens to the pools

    async def disturb(self, monitor: Connection) -> None:
        load = self.random.choice([*self.loads.values()])
        chance = self.random.random()
        if chance < 0.3:
            busy = [caller for caller in load.callers if caller.place != "away"]
            for caller in self.random.sample(busy, len(busy) // 2):
                caller.cancel()
        elif chance < 0.4:
            await self.kill(monitor, load)
        elif chance < 0.45:
            await load.pool.drain()
        elif chance < 0.55:
            await load.pool.resize(self.random.randint(0, 2), self.random.randint(2, 5))

    async def kill(self, monitor: Connection, load: Load) -> None:
        """Kill a server process, and wait until its client knows."""
        if not (alive := load.books.alive()):
            return
        pid = self.random.choice(sorted(alive))
        connection, noticed = load.books.open[pid], asyncio.Event()
        connection.add_termination_listener(lambda _: noticed.set())
        await monitor.fetchval(KILL, pid)
        if not connection.is_closed():
            await asyncio.wait_for(noticed.wait(), PATIENCE)
        self.seen["killed"] += 1

    # What is true, and what is said

    async def look(self, monitor: Connection) -> None:
        """Compare one moment."""
        with self.halt.ordered():
            shown = await self.at_rest(monitor)
            self.judge(shown, self.said())

    def said(self) -> dict[str, Series]:
        return {road: read() for road, read in self.roads.items()}

    def judge(self, shown: dict[str, set[int]], said: dict[str, Series]) -> None:
        """Fail unless all roads say what is true."""
        lost = {name: len(load.books.open) - len(shown[name]) for name, load in self.loads.items()}
        for name, load in self.loads.items():
            truth = Counter(
                # A pool cannot know that a connection was killed before it looks at it.
                open=len(shown[name]) + lost[name],
                used=load.count("holding"),
                waiting=load.count("waiting"),
            )
            for road, series in said.items():
                assert levels(series, name) == truth, f"{road} of {name}, {lost[name]} killed"
            self.seen.update(what for what, number in truth.items() if number)
            self.seen["idle"] += truth["open"] > truth["used"]
            self.seen["lost"] += lost[name]
        one, other = map(unclocked, said.values())
        assert one == other
        self.seen["looks"] += 1
        self.moments += not any(lost.values())

    async def at_rest(self, monitor: Connection) -> dict[str, set[int]]:
        """Wait until all is still, and the server has noticed; return its processes by pool.

        It needs a moment to see that a client has hung up. That is waited for, by process id.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            await asyncio.sleep(0.001)
            before = self.sequences()
            if not self.rests():
                continue
            rows = await monitor.fetch(SHOWN, [*self.loads])
            shown = {name: {r["pid"] for r in rows if r[0] == name} for name in self.loads}
            alive = {name: load.books.alive() for name, load in self.loads.items()}
            if shown == alive and before == self.sequences() and self.rests():
                return shown
        raise AssertionError(f"it never came to rest: {self.describe()}")

    @property
    def callers(self) -> list[Caller]:
        return [caller for load in self.loads.values() for caller in load.callers]

    def rests(self) -> bool:
        return all(load.rests() for load in self.loads.values())

    def sequences(self) -> list[int]:
        """Return the number of the last event of each pool: while it stays, nothing happens."""
        return [load.pool.stats().sequence for load in self.loads.values()]

    def describe(self) -> str:
        return "; ".join(
            f"{load.pool}, {load.books.under_way} calls under way, callers are "
            f"{Counter(caller.place for caller in load.callers)}"
            for load in self.loads.values()
        )


def levels(series: Series, pool: str) -> Counter[str]:
    idle, used = (series[key(COUNT, **{POOL: pool, STATE: state})] for state in ("idle", "used"))
    waiting = series[key(PENDING, **{POOL: pool})]
    return Counter(open=int(idle + used), used=int(used), waiting=int(waiting))


def unclocked(series: Series) -> Series:
    return {key: value for key, value in series.items() if key[0] not in CLOCKED}


def check_counts(load: Load, series: Series) -> None:
    """Check the conservation laws, against what the callers and the functions have counted."""

    def total(name: str, **labels: str) -> float:
        return sum_of(series, name, load.pool.name, **labels)

    ended, failed = load.books.ended, load.failures
    connects, closes = ended["connect"], ended["close"] + ended["close failed"]
    assert total(f"{WAIT}_count") == load.asked == load.leases + failed.total()
    assert total(f"{USE}_count") == load.leases
    for reason in FailureReason:
        assert total(f"{WAIT}_count", error_type=reason) == failed[reason]
        assert total("poolscope_acquire_failures_total", error_type=reason) == failed[reason]
    assert total("db_client_connection_timeouts_total") == failed[FailureReason.TIMEOUT]
    assert series[key(f"{CREATE}_count", **{POOL: load.pool.name})] == connects
    assert total(f"{CREATE}_count") == connects + ended["connect failed"]
    assert total("poolscope_connect_failures_total") == ended["connect failed"]
    assert total(CLOSED) == closes
    assert total(COUNT) == connects - closes - load.detached == len(load.books.open)
    assert total(PENDING) == 0 == total(COUNT, **{STATE: "used"})


def check_end(load: Load, roads: dict[str, Series]) -> None:
    """Check what is left of a closed pool: its last counts where they are sent, else nothing."""
    assert not any((POOL, load.pool.name) in labels for _, labels in roads.pop("scraped"))
    ((_, series),) = roads.items()
    assert sum_of(series, CLOSED, load.pool.name) == load.books.ended["connect"] - load.detached
    assert sum_of(series, COUNT, load.pool.name) == 0


def sum_of(series: Series, name: str, pool: str, **labels: str) -> float:
    wanted = {(POOL, pool), *labels.items()}
    return sum(v for (found, those), v in series.items() if found == name and wanted <= those)


@asynccontextmanager
async def monitoring(server: PostgresServer) -> AsyncIterator[Connection]:
    monitor = await asyncpg.connect(server.dsn, ssl=False)
    try:
        yield monitor
    finally:
        monitor.terminate()


async def rage(witness: Witness, moments: int) -> None:
    async with AsyncExitStack() as pools:
        for load in witness.loads.values():
            await pools.enter_async_context(load.pool)
        async with asyncio.TaskGroup() as group:
            for caller in witness.callers:
                group.create_task(caller.live())
            group.create_task(witness.watch(moments, restarts=2))
        async with monitoring(witness.server) as monitor:
            await witness.look(monitor)
        for read in witness.roads.values():
            series = read()
            for load in witness.loads.values():
                check_counts(load, series)
    async with monitoring(witness.server) as monitor:
        assert not any((await witness.at_rest(monitor)).values())
    said = witness.said()
    for load in witness.loads.values():
        check_end(load, said.copy())


def compare(moments: int, *roads: Callable[[], AbstractContextManager[Road]]) -> Counter[str]:
    """Let there be a storm; return how often what was seen."""
    seed = random.SystemRandom().getrandbits(32)
    with PostgresServer() as server, ExitStack() as stack:
        opened = {road.__name__: stack.enter_context(road()) for road in roads}
        witness = Witness(server, seed, opened)
        print(f"seed {seed}")
        run(rage(witness, moments))
        seen = witness.seen
        for load in witness.loads.values():
            seen.update({str(reason): count for reason, count in load.failures.items()})
            seen.update(load.books.ended)
            seen["detached"] += load.detached
    print(seen)
    return seen


@pytest.mark.timeout(120)
def test_what_is_sent_and_what_is_scraped_is_what_the_server_shows() -> None:
    seen = compare(MOMENTS, encoded, scraped)
    assert min(seen["waiting"], seen["idle"]) > MOMENTS / 4
    happened = (
        "timeout",
        "queue_full",
        "cancelled",
        "connect failed",
        "detached",
        "killed",
        "lost",
    )
    assert all(seen[what] for what in happened)


@pytest.mark.timeout(120)
def test_what_arrives_through_a_collector_is_what_the_server_shows() -> None:
    compare(MOMENTS // 5, collected, scraped)
