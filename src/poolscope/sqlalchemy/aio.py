"""The pool for `create_async_engine`: of SQLAlchemy's greenlets outside, of asyncio inside."""

from __future__ import annotations

import asyncio
import time
from asyncio import current_task
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from sys import is_finalizing
from threading import get_ident
from typing import Any

from sqlalchemy.pool.base import _AsyncConnDialect
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from poolscope import registry
from poolscope.aio.connector import Connector
from poolscope.aio.driver import Driver
from poolscope.aio.lease import Lease
from poolscope.bus import EventBus
from poolscope.core.slot import IN_USE, Slot
from poolscope.events import (
    AcquireSource,
    CloseReason,
    ConnectionAcquired,
    ConnectionReleased,
    ConnectionRequested,
)
from poolscope.functions import terminate
from poolscope.settings import ConnectionPoolSettings
from poolscope.sqlalchemy.base import BasePool
from poolscope.sqlalchemy.places import asker, place
from poolscope.sqlalchemy.records import Record


class AsyncObservedPool(BasePool):
    """A pool for `create_async_engine(url, poolclass=AsyncObservedPool)`.

    It takes what SQLAlchemy's own pools take, and more: docs/sqlalchemy.md. As any engine's it
    serves one event loop at a time; on another one call `dispose()` first.
    """

    _is_asyncio = True
    _sqla_logger_namespace = "sqlalchemy.pool.AsyncObservedPool"
    _dialect = _AsyncConnDialect()

    def _start(self, settings: ConnectionPoolSettings) -> QuietDriver:
        import greenlet  # type: ignore[import-untyped]  # which only engines for asyncio need

        async def connect() -> Record:
            return await greenlet_spawn(self._create_connection)

        async def close(record: Record) -> None:
            await greenlet_spawn(record.close)

        connector: Connector[Record] = Connector(connect, None, close)
        bus = EventBus(self._bus)
        driver = QuietDriver(settings, connector, bus, time.monotonic, self.get_metrics())
        driver.greenlet = greenlet.getcurrent
        return driver

    def _borrow(self, driver: QuietDriver) -> Record:
        if self._max_overflow < 0:
            self._grow(driver)
        loan = Loan()
        loan.slot = None
        loan.driver = driver
        record = loan.take()
        slot: Any = loan.slot
        if not record.lease:
            record.driver, record.slot = driver, slot
        record.lease = loan.id
        slot.site, slot.instruction = place(asker())
        outer = driver.greenlet().parent
        if slot.site is None and outer is not None:
            # A greenlet's stack ends with what it runs; who asked is in that which waits for it.
            slot.site, slot.instruction = place(outer.gr_frame)
        loan.slot = None  # the record is given back, not the loan
        return record

    def _ping(self, record: Record) -> bool:
        """Ping; a server that does not answer in time is gone."""
        jobs, ping = record.driver.jobs, partial(greenlet_spawn, super()._ping, record)
        limit = self._settings.validate_timeout
        try:
            return bool(await_only(jobs.call(ping, limit=limit)))
        except TimeoutError:
            # Left to itself it would wait on: asyncpg's ping rolls back when it is cancelled.
            terminate(record.driver_connection)
            return False

    def _give_back(self, record: Record, reason: CloseReason | None) -> None:
        driver, slot, lease = record.driver, record.slot, record.lease
        if record.lost:
            driver.later(driver.end, slot, lease, reason)
        else:
            driver.end(slot, lease, reason)

    def _let_go(self, record: Record) -> None:
        driver = record.driver
        if record.lost:
            driver.later(driver.reclaim, record.slot, record.lease)
        else:
            driver.core.detach(record.slot, driver.clock())
            driver.pump()

    def _grow(self, driver: QuietDriver) -> None:
        """Raise the limit of a pool that has none before anybody meets it."""
        core = driver.core
        if not core.vacant and core.next_idle() is None and core.state == "open":
            settings = core.settings
            core.resize(settings.min_size, 2 * settings.max_size, driver.clock())

    def _drain(self, driver: QuietDriver) -> None:
        if driver.core.state == "open":
            driver.core.drain(driver.clock())
            driver.pump()

    def _end(self, driver: QuietDriver) -> None:
        driver.set_free()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if driver.loop is None or (loop is None and not driver.loop.is_running()):
            driver.drop()
        elif loop is driver.loop and in_greenlet():
            await_only(driver.close(driver.settings.close_timeout))
        else:
            driver.later(driver.close_by_itself)


class Loan(Lease[Record]):
    """A request of an engine's."""

    __slots__ = ()

    driver: QuietDriver

    def take(self) -> Record:
        """Acquire as by `__aenter__`; without leaving the greenlet if a connection is idle."""
        driver = self.driver
        task = current_task(driver.loop) if get_ident() == driver.thread else driver.bind()
        now = driver.clock()
        if not driver.core.lend(self, now):
            return self._wait()
        slot: Any = self.slot
        requested, acquired = driver.bus.request_hooks
        pool, id_, connection_id = driver.name, self.id, slot.connection_id
        if requested:
            driver.bus.publish(ConnectionRequested, pool, now, id_)
        for hook in acquired:
            try:
                hook(pool, now, id_ + 1, id_, 0.0, AcquireSource.IDLE, connection_id)
            except BaseException as error:
                driver.bus.report(hook, ConnectionAcquired, error)
        slot.holder = task
        record: Record = slot.connection
        return record

    def _wait(self) -> Record:
        driver = self.driver
        self.timeout = driver.patience if driver.core.vacant else driver.timeout
        entering = self.__aenter__()
        try:
            rest = _Rest(entering, entering.send(None))
        except StopIteration as granted:
            return granted.value  # type: ignore[no-any-return]
        try:
            return await_only(rest)  # type: ignore[no-any-return]
        except BaseException:
            entering.close()  # if nothing could wait for it
            raise


class QuietDriver(Driver[Record]):
    """A driver whose pool may end in all the ways in which those of SQLAlchemy's may."""

    patience: float
    """How long a request may take that finds room for a connection, in seconds."""
    greenlet: Callable[[], Any]
    """Returns the greenlet that runs."""

    def end(self, slot: Slot[Record], lease: int, reason: CloseReason | None) -> None:
        """End a lease; with a reason its connection is closed."""
        core, now = self.core, self.clock()
        use = now - slot.since
        if reason is None and core.lay_down(slot, lease, now):
            fields = self.name, now, core.journal.sequence, lease, slot.connection_id, use, 0.0
            for hook in self.hooks[ConnectionReleased]:
                try:
                    hook(*fields)
                except BaseException as error:
                    self.bus.report(hook, ConnectionReleased, error)
        elif slot.lease == lease:
            if reason is not None:
                core.discard(slot, lease, reason, now)
            elif core.release(slot, lease, now):
                self._publish_released(slot, lease, now, use, 0.0)
            self.pump(now)

    def _connect_ended(self, core: Any, slot: Slot[Record], task: Any) -> None:
        # Nothing is tried again here, so each failure is news, and somebody's answer.
        slot.round = core.backoff.round
        super()._connect_ended(core, slot, task)

    def later(self, call: Callable[..., object], *args: Any) -> None:
        """Call on the loop. A finalizer calls this, in any thread, at any time."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(call, *args)

    def reclaim(self, slot: Slot[Record], lease: int) -> None:
        """Take back a lease that was lost. SQLAlchemy has told of it, and closed the connection."""
        if self.core.reclaim(slot, lease, self.clock()):
            self.pump()

    def set_free(self) -> None:
        """Detach what is lent; have those who only just get a connection go elsewhere."""
        core, now = self.core, self.clock()
        for slot in core.places.slots.copy():
            record = slot.connection
            if slot.state is IN_USE and record is not None and record.lease == slot.lease:
                core.detach(slot, now)
        core.terminate(CloseReason.POOL_CLOSED, now)

    def close_by_itself(self) -> None:
        """Close in a task of its own."""
        assert self.loop is not None
        self._ending = self.loop.create_task(self.close(self.settings.close_timeout))

    def drop(self) -> None:
        """Close without a loop: nothing can be waited for."""
        self._terminate_all()
        error = RuntimeError("the pool was disposed of while its event loop did not run")
        self.core.abandon(CloseReason.POOL_CLOSED, error, self.clock())
        self._finish()
        registry.release(self.name, self)

    def __del__(self) -> None:
        """Drop what was left open. An engine that is lost is no fault, as with any pool of its."""
        if not is_finalizing() and hasattr(self, "core") and not self._forked:
            self._terminate_all()

    def _terminate_all(self) -> None:
        for slot in self.core.places.slots:
            if slot.connection is not None:
                with suppress(Exception):  # its loop may be gone: nothing more can be done
                    slot.connection.terminate()


class _Rest:
    """What is left of a coroutine that had to wait after all."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._waits_for
        try:
            while True:
                try:
                    sent = yield waits_for
                except BaseException as error:
                    waits_for = self._coroutine.throw(error)
                else:
                    waits_for = self._coroutine.send(sent)
        except StopIteration as end:
            return end.value
