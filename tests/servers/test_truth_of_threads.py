"""What a pool of threads says of itself, at random moments, is what a real PostgreSQL shows."""

import os
import random
import time
from collections import Counter
from functools import partial
from typing import Any

import psycopg
import pytest

from poolscope import ConnectionPoolSettings, EventBus, SyncConnectionPool
from poolscope.connectors import for_threads
from poolscope.testing.postgres import PostgresServer
from tests.servers.crowds import Threads
from tests.servers.lenders import SIZE, Lender, Listener, Pooled
from tests.servers.roads import Road, scraped
from tests.servers.traces import soon
from tests.telemetry.series import key

pytestmark = [pytest.mark.servers, pytest.mark.slow]

MOMENTS = 200 if "CI" in os.environ else 100
REST = 20.0
"""Seconds in which everything must come to rest."""

POOL = "db_client_connection_pool_name"
SETTINGS = ConnectionPoolSettings(
    name="threads",
    max_size=SIZE,
    max_idle=SIZE - 1,
    retry_delay=0.02,
    idle_timeout=0.5,
    max_lifetime=1.5,
)


class Books:
    """Opens and closes for a pool, and knows by process id what is open."""

    def __init__(self, url: str) -> None:
        self.recipe = for_threads(url)
        self.pids: dict[Any, int] = {}

    def connect(self) -> Any:
        connection = self.recipe.factory()
        self.pids[connection] = connection.info.backend_pid
        return connection

    def close(self, connection: Any) -> None:
        try:
            self.recipe.close_func(connection)
        finally:
            del self.pids[connection]

    @property
    def open(self) -> set[int]:
        return set(self.pids.values())


class Witness:
    """Disturbs a pool, and compares what it says with what the server shows."""

    def __init__(self, server: PostgresServer, road: Road, seed: int) -> None:
        self.server = server
        self.road = road
        self.random = random.Random(seed)
        self.books = Books(server.url)
        self.killed: set[int] = set()
        self.seen: Counter[str] = Counter()
        ask = partial(_ask, rng=self.random)
        self.crowd = Threads(
            Lender("postgresql", PostgresServer, False, self.open, ask), server.url
        )

    def open(self, url: str, listener: Listener, options: dict[str, Any]) -> Pooled:
        bus, books = EventBus(), self.books
        bus.subscribe(listener)
        checks = books.recipe.validate_func, books.close
        reset = books.recipe.reset_func
        pool = SyncConnectionPool(books.connect, SETTINGS, *checks, reset_func=reset, bus=bus)
        self.pool = pool
        return Pooled(pool.connection, pool.stats, pool.get_metrics(), pool.close)

    def disturb(self) -> None:
        chance = self.random.random()
        if chance < 0.2:
            self.kill()
        elif chance < 0.25:
            self.pool.drain()
        elif chance < 0.35:
            self.pool.resize(self.random.randint(0, 2), self.random.randint(2, SIZE))

    def kill(self) -> None:
        """Kill a server process, and wait until it is gone."""
        if alive := self.books.open - self.killed:
            doomed = self.random.choice(sorted(alive))
            self.killed.add(doomed)
            self.server.disconnect(doomed)
            assert soon(lambda: doomed not in self.shown())
            self.seen["killed"] += 1

    def shown(self) -> set[int]:
        return {client.id for client in self.server.clients()}

    def look(self) -> None:
        """Compare one moment, at which everybody stands still."""
        self.crowd.halt(True)
        if self.random.random() < 0.1:
            self.kill()
        deadline = time.monotonic() + REST
        while not self.agrees():
            assert time.monotonic() < deadline, f"{self.shown()}, {self.books.open}, {self.crowd}"
            time.sleep(0.002)
        self.crowd.halt(False)

    def agrees(self) -> bool:
        """Tell whether server, books and telemetry agree; False, too, while anything moves."""
        stats = self.crowd.stats()
        if not self.crowd.rests or self.shown() != self.books.open - self.killed:
            return False
        open_ = self.books.open
        said = self.road()
        if not self.crowd.books.check(stats) or self.crowd.stats().sequence != stats.sequence:
            return False
        self.crowd.books.compare(self.crowd.pool)
        replay = self.crowd.books.replay
        assert stats.idle + stats.in_use == len(open_)
        count = partial(key, "db_client_connection_count", **{POOL: "threads"})
        assert said[count(db_client_connection_state="idle")] == stats.idle
        assert said[count(db_client_connection_state="used")] == stats.in_use
        for reason, number in replay.reasons.items():
            closed = key("poolscope_connection_closed_total", **{POOL: "threads"}, reason=reason)
            assert said[closed] == number
        self.seen.update(idle=stats.idle > 0, full=stats.in_use == SIZE, waiting=stats.waiting > 0)
        self.seen.update(lost=bool(open_ & self.killed), moments=1)
        return True


def _ask(connection: Any, _: str, rng: random.Random) -> None:
    connection.execute("select pg_sleep(%s)", [rng.expovariate(200)])


@pytest.mark.timeout(120)
def test_a_pool_of_threads_tells_the_truth_at_random_moments() -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    with PostgresServer() as server, scraped() as road:
        witness = Witness(server, road, seed)
        with witness.crowd:
            while witness.seen["moments"] < MOMENTS:
                witness.disturb()
                time.sleep(witness.random.expovariate(100))
                witness.look()
        assert soon(lambda: not server.clients())
        witness.crowd.books.conclude(witness.crowd.pool)
    print(witness.seen, witness.crowd)
    assert not witness.books.open
    assert min(witness.seen[what] for what in ("killed", "lost", "idle", "waiting")) > 0
    heard = {psycopg.OperationalError.__name__, psycopg.errors.AdminShutdown.__name__}
    assert set(witness.crowd.outcomes) <= heard
