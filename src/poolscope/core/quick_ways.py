"""The ways of almost every request: an idle connection goes out at once, and comes back idle.

From the first change to the last these call nothing. Only at calls and backward jumps may a signal
handler strike or another thread come in, so a caller who is interrupted finds all of it or none.
They move slots themselves, between the states of those that lie in `idle` and those that do not.
"""

from __future__ import annotations

from poolscope.core.slot import IDLE, IN_USE, C, Slot
from poolscope.core.ticket import Ticket
from poolscope.core.upkeep import Upkeep
from poolscope.events import AcquireSource

_SOURCE = AcquireSource.IDLE


class QuickWays(Upkeep[C]):
    """In and out without a second thought; False leaves the rest to slower decisions."""

    def lend(self, ticket: Ticket[C], now: float) -> bool:
        """Make a request, and grant an idle connection at once. False: it was not even made."""
        idle = self._idle
        if not idle or self.checks_idle:
            return False  # else nobody waits: an idle connection goes to those in line
        slot = idle[-1]
        if slot.expires_at <= now:
            return False
        journal = self.journal
        ticket.requested_at = now
        ticket.id = slot.lease = journal.sequence + 1
        ticket.outcome = journal.sequence = journal.sequence + 2
        slot.state = IN_USE
        slot.since = now
        ticket.slot = slot
        del idle[-1]
        return True

    def try_out(self, ticket: Ticket[C], now: float, timeout: float) -> bool:
        """Make a request, and grant an idle connection that is still to be validated.

        False: it was not even made. `vouch`, `reject` or `withdraw` follows.
        """
        idle = self._idle
        if not idle or idle[-1].expires_at <= now:
            return False
        slot = idle[-1]
        ticket.requested_at = now
        ticket.deadline = now + timeout
        ticket.round = self.backoff.round
        ticket.source = _SOURCE
        ticket.error = ticket.waker = None
        ticket.queued = False
        ticket.id = slot.lease = self.journal.sequence = self.journal.sequence + 1
        slot.state = IN_USE
        slot.since = now
        self._granted[slot.lease] = ticket
        ticket.slot = slot
        del idle[-1]
        return True

    def vouch(self, ticket: Ticket[C], now: float) -> bool:
        """Say that what was tried out is good: this is the request's one outcome.

        False: it was taken back meanwhile, because the pool closed.
        """
        slot = ticket.slot
        if slot is None:
            return False
        slot.since = now
        ticket.outcome = self.journal.sequence = self.journal.sequence + 1
        del self._granted[slot.lease]
        return True

    def lay_down(self, slot: Slot[C], lease: int, now: float) -> bool:
        """End a lease and keep its connection idle. False: it takes more, and nothing is done."""
        idle = self._idle
        quiet = self._low <= len(idle) < self._keep and not self._waiting
        if not quiet or slot.lease != lease or slot.expires_at <= now or slot.suspected:
            return False
        slot.lease = 0
        slot.holder = None
        slot.state = IDLE
        slot.since = now
        self.journal.sequence += 1
        idle += (slot,)
        return True
