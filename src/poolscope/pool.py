"""The connection pool for asyncio."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from poolscope.aio.connector import Connector
from poolscope.aio.driver import Driver
from poolscope.aio.lease import Lease
from poolscope.base_pool import BasePool, C, checked, checked_settings
from poolscope.bus import ROOT, EventBus
from poolscope.functions import Factory, Function
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.settings import ConnectionPoolSettings


class ConnectionPool(BasePool[C]):
    """Lend connections to asyncio tasks, and tell all that happens on `bus`.

    A pool serves one event loop, the one it is first used on; from other threads only `stats()`,
    `get_metrics()` and `repr()` may be called. Waiting is first come, first served. A pool needs
    `close()`, or `async with`.

    Args:
        factory: opens a connection; plain or async, as the other functions.
        settings: sizes, limits and times; each pool keeps its own copy.
        validate_func: says whether a connection is still good, before it is handed out.
        close_func: closes a connection; by default its own `close()` is called.
        metrics: counts what happens; by default a new `ConnectionPoolMetrics`.
        reset_func: makes a connection clean when it comes back (asyncpg: `lambda c: c.reset()`).
        terminate_func: drops a connection at once, when `close_func` fails or there is no time for
            it; by default its own `terminate()`, if it has one. A plain function, which any thread
            may call, and which waits for nothing.
        bus: parent of the pool's own event bus; by default the one all pools share.
        clock: monotonic clock in seconds, for tests.

    Raises:
        ValueError: an argument cannot be what it should be.
    """

    def __init__(
        self,
        factory: Factory[C],
        settings: ConnectionPoolSettings | None = None,
        validate_func: Function[C] | None = None,
        close_func: Function[C] | None = None,
        metrics: ConnectionPoolMetrics | None = None,
        *,
        reset_func: Function[C] | None = None,
        terminate_func: Function[C] | None = None,
        bus: EventBus | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make a pool. It opens with `initialize()`, or with the first acquire."""
        connector = Connector(factory, validate_func, close_func, reset_func, terminate_func)
        self._driver: Driver[C] = Driver(
            checked_settings(settings),
            connector,
            EventBus(bus or ROOT),
            clock,
            metrics if metrics is not None else ConnectionPoolMetrics(),
        )

    # Opening and closing

    async def initialize(self) -> None:
        """Open the pool and wait until `min_size` connections are open.

        Raises:
            ConnectFailedError: connecting failed, `retry_limit` retries included; see its cause.
            PoolTimeoutError: it took longer than `acquire_timeout`; the last error is chained.
            PoolClosedError: the pool was closed before.

        After a failure nothing is left open, and it may be called again.
        """
        await self._driver.initialize()

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until `min_size` connections are open, `acquire_timeout` by default.

        Raises:
            PoolTimeoutError: time is up; the last connect error, if any, is chained.
        """
        self._driver.bind()
        await self._driver.until_ready(self._limit(timeout), give_up=False)

    async def close(self, timeout: float | None = None) -> None:
        """Close the pool within `timeout` seconds, `close_timeout` by default.

        Those who wait for a connection fail at once. Connections in use may be given back until
        the time is up; then they are closed under their holders. May be called again.
        """
        limit = self._driver.settings.close_timeout if timeout is None else timeout
        await self._driver.close(checked(limit))

    async def __aenter__(self) -> Self:
        """Open the pool, as `initialize`."""
        await self.initialize()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the pool."""
        await self.close()

    # Borrowing

    def connection(self, timeout: float | None = None) -> Lease[C]:
        """Lend a connection for an `async with` block, within `timeout` or `acquire_timeout`.

        If the block ends by an exception that may have left the connection in the middle of
        something (cancellation, a timeout), it is closed, unless `reset_func` proves it clean.

        Raises (on entry):
            PoolTimeoutError, QueueFullError, ConnectFailedError, ValidationFailedError,
            PoolClosedError, WrongLoopError.
        """
        lease: Lease[C] = Lease()
        lease.slot = None
        lease.driver = driver = self._driver
        lease.timeout = driver.timeout if timeout is None else checked(timeout)
        return lease

    async def acquire(self, timeout: float | None = None) -> C:
        """Return a connection that has to be given back with `release`.

        Prefer `async with pool.connection()`, which cannot forget to. Raises as that.
        """
        lease = self.connection(timeout)
        connection = await lease.__aenter__()
        slot, lease.slot = lease.slot, None  # it has to be given back by hand, not by the lease
        if slot is not None:
            frame = sys._getframe(1)
            slot.site, slot.instruction = frame.f_code, frame.f_lasti
        return connection

    async def release(self, connection: C) -> None:
        """Give a connection back.

        Raises:
            ReleaseError: it is not on loan from this pool, or was released before.
        """
        slot = self._driver.find(connection)
        await self._driver.give_back(slot, slot.lease)

    async def detach(self, connection: C) -> C:
        """Take a leased connection out of the pool for good; its place is free.

        Raises:
            ReleaseError: it is not on loan from this pool.
        """
        driver = self._driver
        driver.core.detach(driver.find(connection), driver.clock())
        driver.pump()
        return connection

    # Steering

    async def resize(self, min_size: int, max_size: int) -> None:
        """Change the limits. Too many connections are closed: idle ones now, others when free.

        Raises:
            ValueError: as ConnectionPoolSettings.
            PoolClosedError: the pool is closed.
        """
        self._driver.require_open()
        self._driver.core.resize(min_size, max_size, self._driver.clock())
        self._driver.pump()

    async def drain(self) -> None:
        """Replace all connections: idle ones are closed now, others when they are given back.

        Raises:
            PoolClosedError: the pool is closed.
        """
        self._driver.require_open()
        self._driver.core.drain(self._driver.clock())
        self._driver.pump()
