"""Traffic whose numbers are known, on a clock that is moved by hand."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from poolscope import (
    ConnectFailedError,
    ConnectionPool,
    ConnectionPoolMetrics,
    ConnectionPoolSettings,
    EventBus,
    PoolStats,
    PoolTimeoutError,
    QueueFullError,
    registry,
)
from poolscope.stats import PoolState

CREATE = 0.02


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Connection:
    def close(self) -> None:
        pass


def make_pool(
    name: str = "orders",
    clock: Callable[[], float] | None = None,
    error: Exception | None = None,
    **settings: object,
) -> ConnectionPool[Connection]:
    """A pool of one connection. With a clock, opening one takes `CREATE` seconds of it."""

    async def connect() -> Connection:
        if isinstance(clock, Clock):
            clock.now += CREATE
        if error is not None:
            raise error
        return Connection()

    fields: dict[str, object] = {"min_size": 0, "max_size": 1, "retry_limit": 0, "name": name}
    chosen = ConnectionPoolSettings(**(fields | settings))  # type: ignore[arg-type]
    if clock is None:
        return ConnectionPool(connect, chosen)
    return ConnectionPool(connect, chosen, clock=clock)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


async def hold(pool: ConnectionPool[Connection], clock: Clock, seconds: float) -> None:
    async with pool.connection():
        clock.now += seconds


async def waiter(pool: ConnectionPool[Connection], clock: Clock) -> "asyncio.Task[None]":
    """A task that waits for a connection now; when it gets one it holds it for a second."""
    waiting = pool.stats().waiting
    task = asyncio.create_task(hold(pool, clock, 1.0))
    await until(lambda: pool.stats().waiting > waiting)
    return task


async def expect(kind: type[BaseException], pool: ConnectionPool[Connection]) -> None:
    try:
        async with pool.connection(timeout=0 if kind is PoolTimeoutError else None):
            pass
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


async def drive(pool: ConnectionPool[Connection], clock: Clock) -> None:
    """End requests and leases in many ways; the pool has `max_waiting=1`.

    Waits: 0.02 (new), 0 (idle), 0.8 (handed over), 0 (idle); 0.2 until cancelled, 0 until timed
    out, 0 until the line was full. Uses: 1, 1, 1, and 0.5 until detached. One connect of 0.02.
    """
    await hold(pool, clock, 1.0)
    async with pool.connection():
        first = await waiter(pool, clock)
        await expect(QueueFullError, pool)
        await expect(PoolTimeoutError, pool)
        clock.now += 0.2
        first.cancel()
        await asyncio.wait({first})
        second = await waiter(pool, clock)
        clock.now += 0.8
    await second
    connection = await pool.acquire()
    clock.now += 0.5
    await pool.detach(connection)


async def fail_to_connect(pool: ConnectionPool[Connection]) -> None:
    await expect(ConnectFailedError, pool)


class FakeSource:
    """What another library's pool looks like; each look at it finds it changed."""

    omits: frozenset[str] = frozenset()

    def __init__(self, name: str = "fake", size: int = 10) -> None:
        self.bus = EventBus()
        self.metrics = ConnectionPoolMetrics()
        self.target = None
        self.looks = 0
        self.size = size
        self.state: PoolState = "open"
        with registry.naming:
            self.name = registry.free_name(name)
            registry.register(self)

    def stats(self) -> PoolStats:
        self.looks += 1
        idle = self.looks % self.size
        return PoolStats(
            pool=self.name, time=0.0, sequence=0, state=self.state, min_size=self.looks,
            max_size=self.looks, max_idle=self.looks, idle=idle, in_use=self.size - idle,
            connecting=0, closing=0, waiting=self.looks, granted=0, oldest_wait=0.0,
            oldest_use=0.0, oldest_use_at=None, generation=0, used_peak=self.looks,
            saturated_for=0.0, saturation_time=float(self.looks), acquire_timeout=10.0,
        )  # fmt: skip


@contextmanager
def fake_source(name: str = "fake") -> Iterator[FakeSource]:
    source = FakeSource(name)
    try:
        yield source
    finally:
        registry.release(source.name, source)
