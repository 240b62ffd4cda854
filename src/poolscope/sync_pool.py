"""The connection pool for threads."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from poolscope.base_pool import BasePool, C, checked, checked_settings
from poolscope.bus import ROOT, EventBus
from poolscope.events import Misuse
from poolscope.functions import Function, Functions
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.settings import ConnectionPoolSettings
from poolscope.threads.driver import Driver
from poolscope.threads.lease import UNTOLD, SyncLease
from poolscope.threads.system import SYSTEM, System


class SyncConnectionPool(BasePool[C]):
    """Lend connections to threads, and tell all that happens on `bus`.

    The twin of `ConnectionPool`: the same settings, events and errors, and methods that block. Any
    thread may call any of them. Waiting is first come, first served. Subscribers are called in the
    thread that caused the event, so several at a time; `sequence` tells the order of all events.
    A pool needs `close()`, or `with`.

    Args:
        factory: opens a connection, on a thread of the pool; a plain function, as the others.
        settings: sizes, limits and times; each pool keeps its own copy.
        validate_func: says whether a connection is still good, before it is handed out. It runs on
            a thread of the pool, within `validate_timeout`; in the caller's own if it is marked
            with `poolscope.functions.prompt`, or if `validate_timeout` is infinite.
        close_func: closes a connection; by default its own `close()` is called.
        metrics: counts what happens; by default a new `ConnectionPoolMetrics`.
        reset_func: makes a connection clean when it comes back; called as `validate_func` is.
        terminate_func: drops a connection at once, when `close_func` fails or takes too long; by
            default its own `terminate()`, if it has one. It waits for nothing.
        connect_inline: connect and close in the thread of the caller who caused it. It then waits
            for its own connect, however long that takes.
        bus: parent of the pool's own event bus; by default the one all pools share.
        clock: monotonic clock in seconds, for tests.
        system: where threads, locks and timers come from, for tests.

    Raises:
        ValueError: an argument cannot be what it should be.
    """

    def __init__(
        self,
        factory: Callable[[], C],
        settings: ConnectionPoolSettings | None = None,
        validate_func: Function[C] | None = None,
        close_func: Function[C] | None = None,
        metrics: ConnectionPoolMetrics | None = None,
        *,
        reset_func: Function[C] | None = None,
        terminate_func: Function[C] | None = None,
        connect_inline: bool = False,
        bus: EventBus | None = None,
        clock: Callable[[], float] = time.monotonic,
        system: System = SYSTEM,
    ) -> None:
        """Make a pool. It opens with `initialize()`, or with the first acquire."""
        self._driver: Driver[C] = Driver(
            checked_settings(settings),
            Functions(factory, validate_func, close_func, reset_func, terminate_func),
            EventBus(bus or ROOT),
            clock,
            metrics if metrics is not None else ConnectionPoolMetrics(),
            system=system,
            inline=connect_inline,
        )

    # Opening and closing

    def initialize(self) -> None:
        """Open the pool and wait until `min_size` connections are open.

        Raises:
            ConnectFailedError: connecting failed, `retry_limit` retries included; see its cause.
            PoolTimeoutError: it took longer than `acquire_timeout`; the last error is chained.
            PoolClosedError: the pool was closed before.

        After a failure nothing is left open, and it may be called again.
        """
        self._driver.initialize()

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until `min_size` connections are open, `acquire_timeout` by default.

        Raises:
            PoolTimeoutError: time is up; the last connect error, if any, is chained.
        """
        self._driver.wait_ready(self._limit(timeout))

    def close(self, timeout: float | None = None) -> None:
        """Close the pool within `timeout` seconds, `close_timeout` by default.

        Those who wait for a connection fail at once. Connections in use may be given back until
        the time is up; then they are closed under their holders. May be called again.
        """
        limit = self._driver.settings.close_timeout if timeout is None else timeout
        self._driver.close(checked(limit))

    def __enter__(self) -> Self:
        """Open the pool, as `initialize`."""
        self.initialize()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the pool."""
        self.close()

    # Borrowing

    def connection(self, timeout: float | None = None) -> SyncLease[C]:
        """Lend a connection for a `with` block, within `timeout` or `acquire_timeout` seconds.

        If the block ends by an exception that may have left the connection in the middle of
        something (an interrupt, a timeout), it is closed, unless `reset_func` proves it clean.

        Raises (on entry):
            PoolTimeoutError, QueueFullError, ConnectFailedError, ValidationFailedError,
            PoolClosedError.
        """
        lease: SyncLease[C] = SyncLease()
        lease.slot = None
        lease.stage = UNTOLD
        lease.told = 0
        lease.driver = driver = self._driver
        lease.timeout = driver.timeout if timeout is None else checked(timeout)
        return lease

    def acquire(self, timeout: float | None = None) -> C:
        """Return a connection that has to be given back with `release`.

        Prefer `with pool.connection()`, which cannot forget to. Raises as that.
        """
        lease = self.connection(timeout)
        try:
            connection = lease.__enter__()
            self._driver.keep(lease, sys._getframe(1))
        except BaseException as error:
            self._driver.forsaken.append((lease, error, False))
            self._driver.see_to_what_is_left()
            raise
        return connection

    def release(self, connection: C) -> None:
        """Give a connection back.

        Raises:
            ReleaseError: it is not on loan from this pool, or was released before.
        """
        slot, lease = self._driver.find(connection)
        try:
            ended = self._driver.give_back(slot, lease)
        except BaseException:
            self._driver.give_back_anyway(slot, lease)
            raise
        if not ended:  # another thread released it in this very moment
            raise self._driver.refusal(Misuse.DOUBLE_RELEASE, slot.connection_id)

    def detach(self, connection: C) -> C:
        """Take a leased connection out of the pool for good; its place is free.

        Raises:
            ReleaseError: it is not on loan from this pool.
        """
        self._driver.let_go(*self._driver.find(connection))
        return connection

    # Steering

    def resize(self, min_size: int, max_size: int) -> None:
        """Change the limits. Too many connections are closed: idle ones now, others when free.

        Raises:
            ValueError: as ConnectionPoolSettings.
            PoolClosedError: the pool is closed.
        """
        driver = self._driver
        driver.require_open()
        driver.decide(lambda now: driver.core.resize(min_size, max_size, now))

    def drain(self) -> None:
        """Replace all connections: idle ones are closed now, others when they are given back.

        Raises:
            PoolClosedError: the pool is closed.
        """
        self._driver.require_open()
        self._driver.decide(self._driver.core.drain)
