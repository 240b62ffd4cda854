"""Pools in every state there is, in virtual time: at one moment all that can be shown is shown."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from poolscope import (
    ConnectFailedError,
    ConnectionPool,
    ConnectionPoolSettings,
    PoolClosedError,
    PoolTimeoutError,
    QueueFullError,
    ValidationFailedError,
    registry,
)
from poolscope.reasons import CloseReason
from poolscope.stats import PoolStats
from poolscope.testing import FakeConnection, Ledger
from poolscope.testing.ledger import answer, fail, never, slow
from tests.telemetry.traffic import FakeSource, until

Pool = ConnectionPool[FakeConnection]

STRANGE = 'a "name"\n\\with é in it'
"""What has to be escaped in an exposition."""


class InvalidPasswordError(Exception):
    """What drivers call it."""


class Cast:
    """Makes pools and tasks, and sees to their end."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.stack = stack

    async def pool(self, name: str, ledger: Ledger, **settings: Any) -> Pool:
        """Open a pool; opening a connection of it takes 20 ms."""
        fields: dict[str, Any] = {"min_size": 0, "max_size": 1, "retry_limit": 0, "name": name}
        chosen = ConnectionPoolSettings(**(fields | {"lifetime_jitter": 0} | settings))
        return await self.stack.enter_async_context(
            ConnectionPool(
                ledger.open,
                chosen,
                ledger.validate,
                ledger.close,
                reset_func=ledger.reset,
                clock=asyncio.get_running_loop().time,
            )
        )

    async def waiter(self, pool: Pool) -> "asyncio.Task[None]":
        """Let a task wait for a connection."""
        before = pool.stats().waiting
        task = asyncio.create_task(hold(pool))
        self.stack.push_async_callback(cancelled, task)
        await until(lambda: pool.stats().waiting > before)
        return task

    async def holder(self, pool: Pool) -> "asyncio.Task[None]":
        """Let a task hold a connection, until it is cancelled."""
        acquired = asyncio.Event()
        task = asyncio.create_task(hold(pool, 1e6, acquired=acquired))
        self.stack.push_async_callback(cancelled, task)
        await acquired.wait()
        return task


async def hold(
    pool: Pool,
    seconds: float = 0.0,
    error: BaseException | None = None,
    acquired: asyncio.Event | None = None,
) -> None:
    async with pool.connection():
        if acquired is not None:
            acquired.set()
        await asyncio.sleep(seconds)
        if error is not None:
            raise error


async def cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()


async def refused(error: type[Exception], pool: Pool, timeout: float | None = None) -> None:
    """Ask in vain."""
    try:
        async with pool.connection(timeout):
            pass
    except error:
        return
    raise AssertionError(f"{error.__name__} was not raised")


def lag(seconds: float = 0.02) -> Ledger:
    """A server to which it takes so long to connect."""
    ledger = Ledger()
    ledger.script("open", [slow(seconds)] * 100)
    return ledger


@asynccontextmanager
async def every_state() -> AsyncIterator[None]:
    """Have pools of which each counter has counted, and each level is above 0."""
    async with AsyncExitStack() as stack:
        cast = Cast(stack)
        await answered(cast)
        await unable_to_connect(cast)
        await worn(cast)
        await interrupted(cast)
        await saturated(cast)
        await heard_badly(cast)
        await cast.pool(STRANGE, Ledger())
        of_others(cast)
        await closing(cast)
        yield


async def answered(cast: Cast) -> None:
    """Requests end in all ways a healthy pool has."""
    pool = await cast.pool("orders", lag(), max_waiting=1)
    await hold(pool, 0.004)
    holder = await cast.holder(pool)
    await refused(PoolTimeoutError, pool, 0.3)
    await cancelled(await cast.waiter(pool))
    waiter = await cast.waiter(pool)
    await refused(QueueFullError, pool)
    await asyncio.sleep(0.7)
    await cancelled(holder)
    await waiter
    await hold(pool, 1.0)  # which is the edge of a bucket
    await hold(pool, 700.0)  # which is above the last one


async def unable_to_connect(cast: Cast) -> None:
    """Connects fail in all ways, and so do new connections."""
    ledger = Ledger()
    url = "postgresql://app:hunter2@db.internal:5433/shop"
    pool = await cast.pool("users", ledger, connect_timeout=3, target=url)
    for error in (ConnectionRefusedError(), TimeoutError(), InvalidPasswordError(), ValueError()):
        ledger.script("open", [fail(error)])
        await refused(ConnectFailedError, pool)
        await asyncio.sleep(5)
    ledger.script("open", [never])
    await refused(ConnectFailedError, pool)
    await asyncio.sleep(5)
    ledger.script("validate", [answer(False)] * 2)
    await refused(ValidationFailedError, pool)


async def worn(cast: Cast) -> None:
    """Connections are closed because of what they are, or of what the pool is told."""
    ledger = lag()
    pool = await cast.pool("worn", ledger, max_size=3, idle_timeout=30, max_lifetime=500)
    await hold(pool)
    await asyncio.sleep(31)  # idle
    await hold(pool, 501)  # lifetime, and a leak
    await hold(pool)
    ledger.script("validate", [answer(False)])
    await hold(pool)  # validation
    ledger.script("reset", [fail()])
    await hold(pool)  # reset
    await hold(pool)
    await pool.drain()  # stale
    await pool.detach(await pool.acquire())
    await asyncio.gather(hold(pool, 1), hold(pool, 1))
    await pool.resize(0, 1)  # excess


async def interrupted(cast: Cast) -> None:
    """Connections are closed because of how they were left."""
    ledger = lag()
    pool = await cast.pool("interrupted", ledger)
    ledger.script("reset", [fail()] * 2)
    with suppress(TimeoutError):
        await hold(pool, 0.2, TimeoutError())  # dirty
    with suppress(ConnectionResetError):
        await hold(pool, 0.2, ConnectionResetError())  # broken
    await pool.connection().__aenter__()
    gc.collect()
    await until(lambda: pool.stats().in_use == 0)  # leak


async def saturated(cast: Cast) -> None:
    """Requests wait: for those who hold all there is, and for a server that does not answer."""
    busy = await cast.pool("busy", lag(), max_size=3, acquire_timeout=1e5)
    for _ in range(3):
        await cast.holder(busy)
    for _ in range(2):
        await cast.waiter(busy)
    await asyncio.sleep(4.5)
    slow_to_open = Ledger()
    slow_to_open.script("open", [never])
    opening = await cast.pool("opening", slow_to_open, acquire_timeout=1e5, connect_timeout=1e5)
    await cast.waiter(opening)


async def heard_badly(cast: Cast) -> None:
    """One subscriber raises, another is too slow."""

    def fails(_: object) -> None:
        raise ValueError("of a subscriber")

    pool = await cast.pool("heard badly", Ledger())
    free = threading.Event()
    slow_one = pool.bus.buffered(lambda _: free.wait(), 1)
    cast.stack.callback(slow_one.unsubscribe)
    cast.stack.callback(free.set)
    with pool.bus.subscribe(fails):
        await hold(pool)


async def closing(cast: Cast) -> None:
    """A pool has begun to close: who waited was refused, and one lease is still out."""
    ledger = lag()
    pool = await cast.pool("closing", ledger, max_size=3, close_timeout=1e5)
    first, second = [await cast.holder(pool) for _ in range(2)]
    ledger.scripts["open"].clear()
    ledger.script("open", [never])
    waiter = await cast.waiter(pool)
    end = asyncio.create_task(pool.close())
    cast.stack.push_async_callback(asyncio.wait, {end})
    cast.stack.push_async_callback(cancelled, second)
    with suppress(PoolClosedError):
        await waiter
    await cancelled(first)


class StillSource(FakeSource):
    """Another library's pool, in which nothing happens."""

    def stats(self) -> PoolStats:
        self.looks = 2
        return super().stats()


def of_others(cast: Cast) -> None:
    """Another library's pool, whose connections were taken by a fork."""
    source = StillSource("of another library")
    cast.stack.callback(registry.release, source.name, source)
    source.metrics.closed[CloseReason.FORKED] = 2
