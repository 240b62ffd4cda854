"""One caller's claim to a connection, as a thread makes it."""

from __future__ import annotations

from sys import _getframe
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Generic
from weakref import ref

from poolscope.core.slot import C, Slot
from poolscope.core.ticket import Ticket
from poolscope.errors import PoolError
from poolscope.events import AcquireSource, ConnectionAcquired, ConnectionRequested
from poolscope.threads.system import Waker
from poolscope.threads.telling import go_on, tell

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

    __slots__ = ("__weakref__", "checking", "driver", "stage", "thread", "timeout")

    driver: Lending[C]
    timeout: float | None
    waker: Waker | None
    checking: bool
    stage: int
    thread: int
    """Who entered it."""

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
            if driver.warns and driver.system.runs_loop():
                driver.warn_of_loop()
            self.thread = get_ident()
            frame, now = _getframe(1), driver.clock()
            if driver.tries:
                return driver.try_out(self, now, timeout, frame)
            with driver.lock:
                if lent := not driver.deciding and driver.core.lend(self, now):
                    slot: Slot[C] = self.slot  # type: ignore[assignment]
                    slot.holder = ref(self, driver.lost)
                    slot.site, slot.instruction = frame.f_code, frame.f_lasti
                    connection: C = slot.connection  # type: ignore[assignment]
            if not lent:
                return driver.wait(self, timeout, frame)
            self.tell()
            return connection
        except BaseException as error:
            if self.stage != ENDED or self.slot is not None:
                driver.forsaken.append((self, error, False))
                driver.see_to_forsaken()
            raise

    def tell(self) -> None:
        """Publish that a connection was lent; raise what interrupted that."""
        slot, driver, id_ = self.slot, self.driver, self.id
        assert slot is not None
        pool, at, since, outcome = driver.name, self.requested_at, slot.since, self.outcome
        connection_id, wait = slot.connection_id, since - at
        (requested, acquired), struck, done = driver.bus.request_hooks, None, 0
        if requested and self.stage == UNTOLD:
            struck = tell(driver, ConnectionRequested, requested, (pool, at, id_))
        self.stage = HALF_TOLD
        try:
            for hook in acquired:
                hook(pool, since, outcome, id_, wait, _IDLE, connection_id)
                done += 1
        except BaseException as error:
            fields = (pool, since, outcome, id_, wait, _IDLE, connection_id)
            struck = go_on(driver, ConnectionAcquired, acquired, fields, done, error)
        self.stage = ENDED
        if struck is not None:
            raise struck

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
            self.driver.see_to_forsaken()
            raise
        self.slot = None
