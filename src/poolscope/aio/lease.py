"""One caller's claim to a connection, as an asyncio task makes it."""

from __future__ import annotations

import asyncio
from asyncio import current_task
from sys import _getframe
from threading import get_ident
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Generic

from poolscope.core.slot import C, Slot
from poolscope.core.ticket import Ticket
from poolscope.errors import ReleaseError
from poolscope.events import (
    AcquireSource,
    CloseReason,
    ConnectionAcquired,
    ConnectionReleased,
    ConnectionRequested,
)

if TYPE_CHECKING:
    from poolscope.aio.driver import Driver

_IDLE = AcquireSource.IDLE


class Claim(Ticket[C]):
    """A ticket whose caller sleeps on a future."""

    __slots__ = ("future",)

    future: asyncio.Future[None] | None

    def wake(self) -> None:
        """Let the caller go on, if it still waits."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


def make_claim() -> Claim[Any]:
    """Return a claim to nothing yet."""
    claim: Claim[Any] = Claim()
    claim.slot = None
    claim.future = None
    return claim


class Lease(Claim[C], Generic[C]):
    """What `pool.connection()` returns: acquires on entry, gives back on exit. Use it once."""

    __slots__ = ("driver", "timeout")

    driver: Driver[C]
    timeout: float

    async def __aenter__(self) -> C:
        """Acquire a connection.

        This is the path every request takes, so it calls as little as it can: where an idle
        connection is there, the three steps of `Driver.acquire` are written out here.

        Raises:
            PoolTimeoutError, QueueFullError, ConnectFailedError, ValidationFailedError,
            PoolClosedError, WrongLoopError.
        """
        driver = self.driver
        if get_ident() != driver.thread or (task := current_task(driver.loop)) is None:
            task = driver.bind()
        if driver.plain_check is not None:
            driver.weed_out()
        now = driver.clock()
        if driver.core.request(self, now, self.timeout):
            slot: Slot[Any] = self.slot  # type: ignore[assignment]
            hooks, sequence = driver.hooks, self.id
            for hook in hooks[ConnectionRequested]:
                try:
                    hook(driver.name, now, sequence)
                except BaseException as error:
                    driver.bus.report(hook, ConnectionRequested, error)
            for hook in hooks[ConnectionAcquired]:
                try:
                    hook(driver.name, now, sequence + 1, sequence, 0.0, _IDLE, slot.connection_id)
                except BaseException as error:
                    driver.bus.report(hook, ConnectionAcquired, error)
        else:
            await driver.wait(self, now)
            slot = self.slot  # type: ignore[assignment]
        frame = _getframe(1)
        slot.holder = task
        slot.site = frame.f_code
        slot.instruction = frame.f_lasti
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
        try:
            if not driver.core.release(slot, self.id, now):
                driver.pump(now)
                return
        except ReleaseError:
            return
        for hook in driver.hooks[ConnectionReleased]:
            try:
                sequence = driver.core.journal.sequence
                hook(driver.name, now, sequence, self.id, slot.connection_id, use, 0.0)
            except BaseException as error:
                driver.bus.report(hook, ConnectionReleased, error)

    def __del__(self) -> None:
        """Have the connection taken back if whoever held it lost it."""
        if self.slot is not None:
            self.driver.lose(self.slot, self.id)


def note_holder(slot: Slot[C], frame: FrameType) -> None:
    """Remember who holds a connection and where it was acquired, without formatting anything."""
    slot.holder = current_task()
    slot.site = frame.f_code
    slot.instruction = frame.f_lasti


def doubt(kind: type[BaseException] | None) -> CloseReason | None:
    """Tell why a connection left by such an exception cannot be trusted, None if it can."""
    if kind is None:
        return None
    if issubclass(kind, TimeoutError) or not issubclass(kind, Exception):
        return CloseReason.DIRTY
    return CloseReason.BROKEN if issubclass(kind, ConnectionError | EOFError) else None
