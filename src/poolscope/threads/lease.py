"""One caller's claim to a connection, as a thread makes it."""

from __future__ import annotations

from sys import _getframe
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Generic

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

    In the main thread a signal handler may raise between any two steps. What is owned then follows
    from `slot`, set in the same step as the core's own books, and from `stage`.
    """

    __slots__ = ("checking", "driver", "stage", "timeout")

    driver: Lending[C]
    timeout: float | None
    waker: Waker | None
    checking: bool
    stage: int

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
            now = driver.clock()
            if driver.tries:
                driver.try_out(self, now, timeout)
            else:
                with driver.lock:
                    lent = not driver.deciding and driver.core.lend(self, now)
                if lent:
                    self.tell()
                else:
                    driver.wait(self, timeout)
            slot: Slot[C] = self.slot  # type: ignore[assignment]
            frame = _getframe(1)
            slot.holder, slot.site, slot.instruction = get_ident(), frame.f_code, frame.f_lasti
            return slot.connection  # type: ignore[return-value]
        except BaseException as error:
            driver.forsake(self, error)
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
            self.driver.forsake(self, error, used=True)
            raise
        self.slot = None

    def __del__(self) -> None:
        """Have the connection taken back if whoever held it lost it."""
        if self.slot is not None:
            self.driver.lose(self.slot, self.id)
