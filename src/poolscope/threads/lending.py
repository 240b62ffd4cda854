"""What callers hold: leases, and how they end."""

from __future__ import annotations

import inspect
import logging
import math
import weakref
from functools import partial
from types import FrameType

from poolscope.core.slot import IN_USE, C, Slot
from poolscope.engine import doubt
from poolscope.errors import ReleaseError
from poolscope.events import (
    CloseReason,
    ConnectionReleased,
    Misuse,
)
from poolscope.functions import is_prompt
from poolscope.threads.call import Call
from poolscope.threads.engine import awaitable, name_of
from poolscope.threads.lease import SyncLease
from poolscope.threads.requests import Requests
from poolscope.threads.system import was_not_acquired

logger = logging.getLogger("poolscope")


class Lending(Requests[C]):
    """Takes back what callers return, lose, or keep."""

    def find(self, connection: object) -> tuple[Slot[C], int]:
        """Return the slot of a leased connection, and the lease.

        Raises:
            ReleaseError: it is not on loan from this pool; the misuse is counted.
        """
        with self.lock:
            slot = self.core.places.find(connection)
            lease = slot.lease if slot is not None and slot.state is IN_USE else 0
        if slot is not None and lease and lease not in self.resetting:
            return slot, lease
        misuse = Misuse.DOUBLE_RELEASE if slot else Misuse.FOREIGN_RELEASE
        what = slot.connection_id if slot else f"this {type(connection).__name__}"
        raise self.refusal(misuse, what)

    def refusal(self, misuse: Misuse, what: str) -> ReleaseError:
        """Count a release of what is not on loan, and return its error."""
        self.misused(misuse, what)
        return self.core.not_leased(what)

    def give_back(self, slot: Slot[C], lease: int, kind: type[BaseException] | None = None) -> bool:
        """End a lease that was left by an exception of that kind, or by none.

        With a `reset_func` this waits for the reset; an interrupt does not stop that. False: the
        lease has ended before.
        """
        reset = 0.0
        if kind is not None or self.resets:
            if (cleaned := self._clean(slot, lease, kind)) is None:
                return True
            reset = cleaned
        now, hooks, quiet, done = self.clock(), self.bus.release_hooks, False, 0
        try:
            try:  # as `with self.lock`, in half the time
                self.lock.acquire()
                use, connection_id = now - slot.since, slot.connection_id
                quiet = not self.deciding and self.core.lay_down(slot, lease, now)
                sequence = self.core.journal.sequence
            finally:
                try:
                    self.lock.release()
                except RuntimeError as unowned:
                    was_not_acquired(unowned)
            if not quiet:
                return self.end(slot, lease, None, reset)
            pool = self.name
            for hook in hooks:
                hook(pool, now, sequence, lease, connection_id, use, reset)
                done += 1
        except BaseException as error:
            if not quiet:
                raise
            fields = (self.name, now, sequence, lease, connection_id, use, reset)
            self.untold.append((ConnectionReleased, fields, hooks, done))
            self.see_to_what_is_left()
            if self.is_interrupt(error):
                raise
        if self.bus.raised:
            self.judge(sequence)
        return True

    def give_back_anyway(self, slot: Slot[C], lease: int) -> None:
        """End a lease whose holder was interrupted while giving back; nobody does it again."""
        if lease not in self.resetting:
            self.end(slot, lease, CloseReason.DIRTY if self.resets else None, 0.0)

    def _clean(self, slot: Slot[C], lease: int, kind: type[BaseException] | None) -> float | None:
        """Make a connection fit for its next user; return how long that took.

        None: the lease has ended already, now or before.
        """
        if slot.lease != lease:
            return None  # released or detached by hand meanwhile, or taken back
        reason, reset, connection = doubt(kind), self.functions.reset_func, slot.connection
        if reset is None or connection is None:
            if reason is not None:
                self.end(slot, lease, reason, 0.0)
            return 0.0 if reason is None else None
        started = self.clock()
        limit = self.settings.validate_timeout
        if not is_prompt(reset) and limit != math.inf:
            ended = partial(self._reset_ended, slot, lease, reason, started)
            work = partial(self.alone, self._reset, connection)
            call = self.call(work, ended, limit, name_of(reset))
            self.calls[call] = None
            self.resetting[lease] = None  # from now on the call ends the lease, or its timer
            self.workers.start(call)
            call.done.wait(math.inf)
            return None
        clean = False
        try:
            self.resetting[lease] = None
            _refuse_awaitable(self.guarded(lease, limit, reset, connection))
            clean = True
        except Exception as error:
            if self.is_interrupt(error):
                raise
            reason = reason or CloseReason.RESET
        finally:
            self.resetting.pop(lease, None)
            if not clean:
                self.end(slot, lease, reason or CloseReason.DIRTY, self.clock() - started)
        return self.clock() - started if clean else None

    def _reset(self, connection: C) -> None:
        assert self.functions.reset_func is not None
        _refuse_awaitable(self.functions.reset_func(connection))

    def _reset_ended(
        self, slot: Slot[C], lease: int, reason: CloseReason | None, started: float, call: Call,
        now: float,
    ) -> None:  # fmt: skip
        self.resetting.pop(lease, None)
        self.calls.pop(call, None)
        failed = call.error is not None
        self.end_lease(slot, lease, reason or CloseReason.RESET if failed else None,
                        now - started, now)  # fmt: skip

    def let_go(self, slot: Slot[C], lease: int) -> None:
        """Take a leased connection out of the pool for good.

        Raises:
            ReleaseError: the lease has ended.
        """

        def detach(now: float) -> None:
            if slot.lease != lease:
                raise self.core.not_leased(slot.connection_id)
            self.core.detach(slot, now)

        self.decide(detach)

    def keep(self, lease: SyncLease[C], frame: FrameType) -> None:
        """Have a connection given back by hand, not by the lease, which may be dropped."""
        with self.lock:
            slot = lease.slot
            if slot is not None and slot.lease == lease.id:
                slot.holder = lease.thread
                slot.site, slot.instruction = frame.f_code, frame.f_lasti
        lease.slot = None

    def take_back_lost(self) -> None:
        """Take back the connections of leases that nobody has any more."""
        for name, at in self.decide(self._reclaim_lost):
            logger.warning(
                "connection %s was lost without being given back; it was acquired at %s and is "
                "closed now. Use `with pool.connection()`.", name, at or "an unknown place",
            )  # fmt: skip

    def _reclaim_lost(self, now: float) -> list[tuple[str, str | None]]:
        found = []
        for slot in self.core.places.slots:
            loan = slot.holder
            lost = isinstance(loan, weakref.ref) and loan() is None
            if lost and slot.lease not in self.resetting:
                found.append((slot.connection_id, slot.acquired_at()))
                self.core.reclaim(slot, slot.lease, now)
        return found


def _refuse_awaitable(result: object) -> None:
    if inspect.isawaitable(result):
        raise awaitable("reset_func", result)
