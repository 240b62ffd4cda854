"""What callers ask for: requests made, waited for, and given up."""

from __future__ import annotations

import inspect
import logging
import math
import sys
import warnings
import weakref
from asyncio import CancelledError
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

from poolscope.core.slot import C, Slot
from poolscope.engine import doubt, refuse
from poolscope.events import (
    AcquireSource,
    CloseReason,
    ConnectionAcquired,
    ConnectionReleased,
    ConnectionRequested,
    Misuse,
)
from poolscope.faults import without_frames
from poolscope.functions import interrupter, is_prompt
from poolscope.threads.binding import Binding
from poolscope.threads.call import Call
from poolscope.threads.engine import awaitable, name_of, overdue
from poolscope.threads.lease import ENDED, HALF_TOLD, TRIED, UNTOLD, WAITING, SyncLease
from poolscope.threads.turns import nothing

logger = logging.getLogger("poolscope")


class Requests(Binding[C]):
    """Carries requests from callers to the core, and connections back."""

    warns = True
    """Whether to look if a caller stops an event loop; it is told once."""

    def wait(self, lease: SyncLease[C], timeout: float, frame: FrameType) -> C:
        """Make a request that is not granted at once, and wait for its outcome.

        Raises:
            PoolError: it was refused.
        """
        self.begin()
        lease.checking = False
        lent = self.decide(partial(self._request, lease, timeout, frame), asks=True)
        return self._wait_on(lease, frame) if lent is None else lent

    def _wait_on(self, lease: SyncLease[C], frame: FrameType) -> C:
        self._until_settled(lease)
        if self.core.checks:
            self._validate(lease)
        lent = self.decide(partial(self._conclude, lease, frame))
        return refuse(lease) if lent is None else lent

    def try_out(self, lease: SyncLease[C], now: float, timeout: float, frame: FrameType) -> C:
        """Make a request, and validate in this thread what is lent, before it counts as acquired.

        Raises:
            PoolError: it was refused.
        """
        lease.stage, lease.checking = TRIED, False
        with self.lock:
            lent = not self.deciding and self.core.try_out(lease, now, timeout)
        if not lent:
            lease.stage = UNTOLD
            return self.wait(lease, timeout, frame)
        lease.tell_request()
        lease.stage = WAITING
        failure = self._examine(lease)
        if failure is not None:
            self.decide(partial(self._reject, lease, failure), asks=True)
            return self._wait_on(lease, frame)
        connection, now, slot = None, self.clock(), lease.slot
        with self.lock:
            if slot is not None and not self.deciding and self.core.vouch(lease, now):
                connection, name = self._hand_over(lease, frame), slot.connection_id
        if connection is None:
            return self._wait_on(lease, frame)
        lease.tell(now, name)
        return connection

    def _request(
        self, lease: SyncLease[C], timeout: float, frame: FrameType, now: float
    ) -> C | None:
        if lease.stage == ENDED:
            return None  # forsaken before it was made
        if self.core.request(lease, now, timeout):
            lease.error = None
            self._note_lent(lease)
            return self._hand_over(lease, frame)
        lease.stage = WAITING
        self._rearm(lease)
        return None

    def _hand_over(self, lease: SyncLease[C], frame: FrameType) -> C | None:
        """Have the slot know who holds it, and return its connection. Call it under the lock."""
        slot = lease.slot
        if slot is None:
            return None
        slot.holder = weakref.ref(lease, self.when_lost)
        slot.site, slot.instruction = frame.f_code, frame.f_lasti
        return slot.connection

    def _rearm(self, lease: SyncLease[C]) -> None:
        """Have the lease woken by the decision that settles it, if this one did not."""
        settled = lease.slot is not None or lease.error is not None
        lease.waker = None if settled else self.system.waker()

    def _until_settled(self, lease: SyncLease[C]) -> None:
        while lease.slot is None and lease.error is None:
            left = lease.deadline - self.clock()
            if lease.waker is None or left <= 0 or not lease.waker.wait(left):
                self.decide(nothing)  # each decision first sees to what has fallen due

    def _conclude(self, lease: SyncLease[C], frame: FrameType, now: float) -> C | None:
        if lease.stage != WAITING:
            return None  # forsaken
        self.core.conclude(lease, now)
        lease.stage = ENDED
        return self._hand_over(lease, frame)

    def forsake(self, lease: SyncLease[C], error: BaseException) -> None:
        """End whatever a caller has begun who goes away by an exception. Nothing is lost."""
        self.forsaken.append((lease, error, False))
        self.see_to_what_is_left()

    def end_early(
        self, lease: SyncLease[C], error: BaseException | None, used: bool, now: float
    ) -> None:
        """End what a caller has begun; `used`: the connection was lent to the application."""
        slot = lease.slot
        if lease.stage == TRIED and slot is not None:
            self.record(ConnectionRequested, lease.told, lease.requested_at, lease.id)
            lease.stage = WAITING
        if lease.stage == WAITING and self.core.is_pending(lease):
            self.core.withdraw(lease, now, error or CancelledError(), dirty=lease.checking)
        elif slot is not None and slot.lease == lease.id and lease.id not in self.resetting:
            self._note_lent(lease)
            doubtful = CloseReason.DIRTY if self.resets else None
            reason = (doubt(type(error) if error else None) or doubtful) if used else None
            self.end_lease(slot, lease.id, reason, 0.0, now)
        lease.slot, lease.stage = None, ENDED

    def _note_lent(self, lease: SyncLease[C]) -> None:
        """Record what the core leaves to its driver to publish, and nobody has published yet."""
        slot, id_, at = lease.slot, lease.id, lease.requested_at
        assert slot is not None
        if lease.stage == UNTOLD:
            self.record(ConnectionRequested, lease.told, at, id_)
        if lease.stage != ENDED:
            since, source = slot.since, AcquireSource.IDLE
            told = lease.told if lease.stage == HALF_TOLD else 0
            fields = (lease.outcome, id_, since - at, source, slot.connection_id)
            self.record(ConnectionAcquired, told, since, *fields)
        lease.stage = ENDED

    # Validation

    def _validate(self, lease: SyncLease[C]) -> None:
        """Validate what was granted, and wait for another connection until one passes."""
        while lease.slot is not None:
            failure = self._examine(lease)
            if failure is None:
                return
            self.decide(partial(self._reject, lease, failure), asks=True)
            self._until_settled(lease)

    def _examine(self, lease: SyncLease[C]) -> Exception | None:
        lease.checking = True  # and if that is interrupted, nobody knows the connection's state
        slot = lease.slot
        failure = self._check(lease, slot) if slot is not None else None
        lease.checking = False
        return failure

    def _reject(self, lease: SyncLease[C], failure: Exception, now: float) -> None:
        self.core.reject(lease, now, failure)
        self._rearm(lease)

    def _check(self, lease: SyncLease[C], slot: Slot[C]) -> Exception | None:
        """Validate within what is left of the deadline; return why it failed, None if it passed."""
        check, connection = self.functions.validate_func, slot.connection
        assert check is not None
        if connection is None:
            return None  # taken back meanwhile, because the pool closed
        limit = min(self.settings.validate_timeout, lease.deadline - self.clock())
        try:
            if is_prompt(check) or self.settings.validate_timeout == math.inf:
                valid = self.guarded(lease.id, limit, check, connection)
            else:
                work = partial(self.alone, check, connection)
                valid = self._within(limit, name_of(check), work)
        except Exception as error:
            if self.is_interrupt(error):
                raise
            return without_frames(error)
        if inspect.isawaitable(valid):
            return awaitable("validate_func", valid)
        return None if valid else ValueError("validate_func returned a false value")

    def guarded(self, lease: int, limit: float, function: Callable[[C], Any], connection: C) -> Any:
        """Return what a prompt function returns, called here.

        Raises:
            TimeoutError: it was interrupted after `limit` seconds.
        """
        interrupt = interrupter(function)
        if interrupt is None:
            return function(connection)
        self.guard.begin(lease, limit, interrupt, connection)
        try:
            result = function(connection)
        except Exception as error:
            if self.guard.end(lease):
                raise
            raise overdue(name_of(function), limit) from error
        except BaseException:
            self.guard.end(lease)
            raise
        if not self.guard.end(lease):
            raise overdue(name_of(function), limit)
        return result

    def _within(self, limit: float, name: str, function: Any) -> Any:
        """Return what a function returns on a thread of the pool, within `limit` seconds."""
        call = Call(self, function, lambda *_: None)
        self.calls[call] = None
        try:
            self.workers.start(call)
            if not call.done.wait(max(0.0, limit)):
                call.give_up(overdue(name, limit))
        finally:
            self.calls.pop(call, None)
        if call.error is not None:
            raise call.error
        return call.result

    # The end of a lease

    def end(self, slot: Slot[C], lease: int, reason: CloseReason | None, reset: float) -> bool:
        """End a lease by a decision; later, if this thread is in the middle of one.

        False: it has ended before.
        """
        end = partial(self.end_lease, slot, lease, reason, reset)
        if not self.system.owns(self.lock):
            return self.decide(end)
        self.later(end)
        return True

    def end_lease(
        self, slot: Slot[C], lease: int, reason: CloseReason | None, reset: float, now: float
    ) -> bool:
        """End a lease, unless it has ended: as part of a decision. With a reason, close."""
        if slot.lease != lease:
            return False  # taken back meanwhile, because the pool closed; or released twice at once
        use = now - slot.since
        if reason is not None:
            self.core.discard(slot, lease, reason, now, reset)
        elif self.core.release(slot, lease, now, reset):
            sequence = self.core.journal.sequence
            self.record(ConnectionReleased, 0, now, sequence, lease, slot.connection_id, use, reset)
        return True

    # Event loops

    def warn_of_loop(self) -> None:
        """Say, once, that waiting here stops an event loop."""
        self.warns = False
        self.misused(Misuse.BLOCKED_LOOP, "called on the thread of a running event loop")
        warnings.warn(
            f"pool {self.name!r} is for threads, and was called on a running event loop: while it "
            "waits, nothing else runs there. Use ConnectionPool, or asyncio.to_thread().",
            RuntimeWarning,
            stacklevel=_depth(),
        )


def _depth() -> int:
    """Return how deep the frame that calls this is in the package, for warnings: at least 1."""
    depth, frame = 0, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("poolscope."):
        depth, frame = depth + 1, frame.f_back
    return depth + 1
