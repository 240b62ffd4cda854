"""One caller's claim to a connection, as an asyncio task makes it."""

from __future__ import annotations

import asyncio
from asyncio import current_task
from sys import _getframe
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Generic

from poolscope.core.slot import C, Slot
from poolscope.core.ticket import Ticket
from poolscope.errors import PoolError
from poolscope.events import (
    AcquireSource,
    ConnectionAcquired,
    ConnectionReleased,
    ConnectionRequested,
)

if TYPE_CHECKING:
    from poolscope.aio.lending import Lending

_IDLE = AcquireSource.IDLE


class Lease(Ticket[C], Generic[C]):
    """What `pool.connection()` returns: acquires on entry, gives back on exit. Use it once.

    It has no `__init__`: `ConnectionPool.connection` fills it in, which saves a call.
    """

    __slots__ = ("checking", "driver", "timeout")

    driver: Lending[C]
    timeout: float | None
    waker: asyncio.Future[None] | None
    checking: bool

    def wake(self) -> None:
        """Let the caller go on, if it still waits."""
        if self.waker is not None and not self.waker.done():
            self.waker.set_result(None)

    async def __aenter__(self) -> C:
        """Acquire a connection; `ConnectionPool.connection` names the errors.

        Every request takes this path, so it calls little; and all wait in this one coroutine.
        """
        driver = self.driver
        if get_ident() != driver.thread or (task := current_task(driver.loop)) is None:
            task = driver.bind()
        if driver.plain_check is not None:
            driver.weed_out()
        now = driver.clock()
        timeout, self.timeout = self.timeout, None
        if timeout is None:
            raise PoolError("a lease can be entered once; call pool.connection() for another")
        if driver.core.lend(self, now) or driver.core.request(self, now, timeout):
            slot: Slot[C] = self.slot  # type: ignore[assignment]
            requested, acquired = driver.bus.request_hooks
            if requested:
                driver.bus.publish(ConnectionRequested, driver.name, now, self.id)
            id_, connection_id, pool = self.id, slot.connection_id, driver.name
            for hook in acquired:
                try:
                    hook(pool, now, id_ + 1, id_, 0.0, _IDLE, connection_id)
                except BaseException as error:
                    driver.bus.report(hook, ConnectionAcquired, error)
        else:
            self.checking = False
            try:
                driver.pump(now)
                if self.slot is None and self.error is None:
                    self.waker = driver.loop.create_future()  # type: ignore[union-attr]
                    await self.waker
                if driver.core.checks:
                    await driver.validate(self)
            except BaseException as error:
                driver.withdraw(self, error)
                raise
            driver.conclude(self)
            slot = self.slot  # type: ignore[assignment]
        frame = _getframe(1)
        slot.holder, slot.site, slot.instruction = task, frame.f_code, frame.f_lasti
        return slot.connection  # type: ignore[return-value]

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the connection back; close it if the exception may have left it half-way.

        A connection that was released or detached by hand is left alone.
        """
        slot = self.slot
        if slot is None:
            return
        self.slot = None
        driver = self.driver
        if kind is not None or driver.resets:
            await driver.give_back(slot, self.id, kind)
            return
        now = driver.clock()
        use = now - slot.since
        if not driver.core.lay_down(slot, self.id, now):
            if slot.lease == self.id:
                driver.core.release(slot, self.id, now)
                driver.pump(now)
            return
        sequence, id_, pool = driver.core.journal.sequence, self.id, driver.name
        connection_id = slot.connection_id
        for hook in driver.hooks[ConnectionReleased]:
            try:
                hook(pool, now, sequence, id_, connection_id, use, 0.0)
            except BaseException as error:
                driver.bus.report(hook, ConnectionReleased, error)

    def __del__(self) -> None:
        """Have the connection taken back if whoever held it lost it."""
        if self.slot is not None:
            self.driver.lose(self.slot, self.id)
