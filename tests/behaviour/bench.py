"""A pool on scripted connections, for tests in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.events import ConnectionAcquired, Event
from poolscope.testing import FakeConnection, Ledger, Replay
from tests.behaviour.green import GreenPool

DRIVERS = ("asyncio", "threads")


class Driver:
    """Which driver the tests of this folder drive now; a fixture sets it."""

    name = "asyncio"

    @classmethod
    @contextmanager
    def named(cls, name: str) -> Iterator[str]:
        """Drive pools by this one for a while."""
        cls.name = name
        yield name
        cls.name = "asyncio"


def for_drivers(metafunc: pytest.Metafunc) -> None:
    """Have a test run for both drivers, or those it is marked to be about."""
    marker = metafunc.definition.get_closest_marker("driver")
    names = marker.args if marker else DRIVERS
    metafunc.parametrize("driver_name", names, indirect=True, scope="function")


def make_pool(*args: Any, **kwargs: Any) -> Any:
    """Make a pool of the driver under test. One for threads looks like one for asyncio."""
    return {"asyncio": ConnectionPool, "threads": GreenPool}[Driver.name](*args, **kwargs)


async def kill_threads(pool: Any) -> None:
    """End what an asyncio pool would have cancelled, and a pool for threads has left behind."""
    if isinstance(pool, GreenPool):
        await pool.system.crew.kill()


class Bench:
    """A pool, its server's ledger, and a replay of its events."""

    def __init__(self, ledger: Ledger, settings: dict[str, Any], functions: dict[str, Any]) -> None:
        self.ledger = ledger
        self.replay = Replay()
        self.now = asyncio.get_running_loop().time
        defaults = {"min_size": 0, "max_size": 2, "name": "bench", "lifetime_jitter": 0}
        self.pool: ConnectionPool[FakeConnection] = make_pool(
            ledger.open,
            ConnectionPoolSettings(**(defaults | settings)),
            **{"close_func": ledger.close, "clock": self.now, **functions},
        )
        self.pool.bus.subscribe(self.replay)

    def check(self) -> None:
        self.replay.check(self.pool.stats())

    def count(self, *kinds: type[Event]) -> int:
        return len(self.replay.of(*kinds))

    def last(self, kind: type[Event]) -> Any:
        return self.replay.of(kind)[-1]

    async def hold(self, seconds: float) -> None:
        async with self.pool.connection():
            await asyncio.sleep(seconds)

    async def holder(self, seconds: float) -> asyncio.Task[None]:
        """Return a task that has just acquired a connection, for so long."""
        acquired = asyncio.Event()
        with self.pool.bus.subscribe(lambda _: acquired.set(), ConnectionAcquired):
            task = asyncio.create_task(self.hold(seconds))
            await acquired.wait()
        return task


@asynccontextmanager
async def bench(
    *, ledger: Ledger | None = None, functions: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Bench]:
    """Make a pool; in the end close it, and audit ledger and laws."""
    made = Bench(ledger or Ledger(), settings, functions or {})
    yield made
    await made.pool.close()
    await ticks(3)
    await kill_threads(made.pool)
    made.check()
    made.ledger.audit()


async def ticks(count: int = 1) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)
