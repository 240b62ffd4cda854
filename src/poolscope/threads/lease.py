"""One caller's claim to a connection, as a thread makes it."""

from __future__ import annotations

from asyncio import _get_running_loop
from sys import _getframe
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Generic
from weakref import ref

from poolscope.core.slot import C, Slot
from poolscope.core.ticket import Ticket
from poolscope.errors import PoolError
from poolscope.events import AcquireSource, ConnectionAcquired, ConnectionRequested
from poolscope.threads.system import Waker, was_not_acquired

if TYPE_CHECKING:
    from poolscope.threads.lending import Lending

_IDLE = AcquireSource.IDLE

UNTOLD, TRIED, HALF_TOLD, WAITING, ENDED = range(5)
"""How far a request is. Lent, or lent to be validated first, but nothing is published of it; only
that it was made is published; the core knows of it, and the caller waits or validates; its outcome
is published, or it was never made."""


class SyncLease(Ticket[C], Generic[C]):
    """What `pool.connection()` returns: acquires on entry, gives back on exit. Use it once.

    It has no `__init__`: `SyncConnectionPool.connection` fills it in, which saves a call.

    In the main thread a signal handler may raise at any call. What is owned then follows from
    `slot`, set in the same step as the core's own books, and from `stage`. Whoever is interrupted
    puts the lease down as forsaken, which is one step, before anything that could be interrupted
    again. It has no `__del__` either, in which interrupts would be lost: the slot it holds watches
    it by a weak reference.
    """

    __slots__ = ("__weakref__", "checking", "driver", "stage", "thread", "timeout", "told")

    driver: Lending[C]
    timeout: float | None
    waker: Waker | None
    checking: bool
    stage: int
    thread: int
    """Who entered it."""
    told: int
    """How many subscribers have heard of the event that is being published."""

    def wake(self) -> None:
        """Let the caller go on, if it still waits."""
        if self.waker is not None:
            self.waker.set()

    def __enter__(self) -> C:
        """Acquire a connection; `SyncConnectionPool.connection` names the errors."""
        driver, timeout = self.driver, self.timeout
        self.timeout = None
        if timeout is None:
            raise PoolError("a lease can be entered once; call pool.connection() for another")
        try:
            if _get_running_loop() is not None and driver.warns and driver.system.runs_loop():
                driver.warn_of_loop()
            self.thread = get_ident()
            frame, now = _getframe(1), driver.clock()
            if driver.tries:
                return driver.try_out(self, now, timeout, frame)
            try:  # as `with driver.lock`, in half the time
                driver.lock.acquire()
                if lent := not driver.deciding and driver.core.lend(self, now):
                    slot: Slot[C] = self.slot  # type: ignore[assignment]
                    slot.holder = ref(self, driver.when_lost)
                    slot.site, slot.instruction = frame.f_code, frame.f_lasti
                    connection: C = slot.connection  # type: ignore[assignment]
                    connection_id = slot.connection_id
            finally:
                try:
                    driver.lock.release()
                except RuntimeError as unowned:
                    was_not_acquired(unowned)
            if not lent:
                return driver.wait(self, timeout, frame)
            self.tell(now, connection_id)
            return connection
        except BaseException as error:
            if self.stage != ENDED or self.slot is not None:
                driver.forsaken.append((self, error, False))
                driver.see_to_what_is_left()
            raise

    def tell_request(self) -> None:
        """Publish that a request was made; raise what interrupted that."""
        driver, at, id_ = self.driver, self.requested_at, self.id
        pool, requested = driver.name, driver.bus.request_hooks[0]
        try:
            for hook in requested:
                hook(pool, at, id_)
                self.told += 1
        except BaseException as error:
            if driver.is_interrupt(error):
                raise
            driver.untold.append((ConnectionRequested, (pool, at, id_), requested, self.told))

    def tell(self, since: float, connection_id: str) -> None:
        """Publish that a connection was lent; raise what interrupted that.

        Who of the subscribers has not heard then, or raised, is told by a decision.
        """
        driver, id_, at, outcome = self.driver, self.id, self.requested_at, self.outcome
        pool, wait = driver.name, since - at
        requested, acquired = driver.bus.request_hooks
        if requested and self.stage == UNTOLD:
            self.tell_request()
        self.stage, self.told = HALF_TOLD, 0
        try:
            for hook in acquired:
                hook(pool, since, outcome, id_, wait, _IDLE, connection_id)
                self.told += 1
        except BaseException as error:
            if driver.is_interrupt(error):
                raise
            fields = (pool, since, outcome, id_, wait, _IDLE, connection_id)
            driver.untold.append((ConnectionAcquired, fields, acquired, self.told))
        self.stage = ENDED
        if driver.untold:
            driver.see_to_what_is_left()
        if driver.bus.raised:
            driver.judge(id_)

    def __exit__(
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
        try:
            self.driver.give_back(slot, self.id, kind)
        except BaseException:
            self.driver.forsaken.append((self, error, True))
            self.driver.see_to_what_is_left()
            raise
        self.slot = None
