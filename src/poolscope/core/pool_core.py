"""The decisions of a pool. Five laws hold in this folder:

1. No clock: `now` is given. 2. No lock, no await, no thread: the driver sees to that.
3. No user code: `wake` only sets a flag, events wait in the journal until the driver publishes.
4. All that changes a slot's state is `Places.move`, checked against TRANSITIONS, but for the
`quick_ways` in and out.
5. What `chores` returns the driver must do, and report.

The one exception to "events wait in the journal" is the path that matters most: a request granted
at once, and a release that leaves an idle connection, return True and record nothing. The driver,
who has all the fields at hand, publishes these itself (docs/adr/0002).
"""

from __future__ import annotations

from poolscope.core import verdicts
from poolscope.core.quick_ways import QuickWays
from poolscope.core.slot import C, Slot
from poolscope.core.ticket import Ticket
from poolscope.errors import ReleaseError, ValidationFailedError
from poolscope.events import (
    AcquireFailed,
    AcquireSource,
    AcquireTimedOut,
    CloseReason,
    ConnectionAcquired,
    ConnectionDetached,
    ConnectionReleased,
    ConnectionRequested,
    FailureReason,
    LeakReturned,
    RequestQueued,
)


class PoolCore(QuickWays[C]):
    """The state of one pool and all that is decided about it: here, what callers ask for."""

    # A request: `request`, then `conclude` when the ticket is settled, or `withdraw`

    def request(self, ticket: Ticket[C], now: float, timeout: float) -> bool:
        """Make a request. True: an idle connection was granted, and the request is over.

        False: the ticket is in line or settled already; its caller waits, and concludes.
        """
        if self.lend(ticket, now):
            return True
        ticket.id = self.journal.sequence + 1
        ticket.requested_at = now
        self.journal.record(ConnectionRequested, now)
        self._stand_in_line(ticket, now, timeout)
        return False

    def _stand_in_line(self, ticket: Ticket[C], now: float, timeout: float) -> None:
        """Grant, refuse, or let wait. Nobody passes those already in line."""
        ticket.slot = None
        ticket.error = None
        ticket.queued = False
        ticket.waker = None
        ticket.deadline = now + timeout
        ticket.round = self.backoff.round
        limit = self.settings.max_waiting
        if self.state != "open":
            self._refuse(ticket, verdicts.closed(self.stats(now)), FailureReason.CLOSED)
        elif slot := self._take_idle(now):
            self._grant(ticket, slot, AcquireSource.IDLE, now)
            self._note_use(now)
        elif timeout <= 0:
            self._time_out(ticket, now)
        elif limit is not None and len(self._waiting) >= limit:
            error = verdicts.queue_full(self.stats(now), limit)
            self._refuse(ticket, error, FailureReason.QUEUE_FULL)
        else:
            self.line.join(ticket)
            if ticket.deadline < self.due:
                self.due = ticket.deadline
            ticket.queued = True
            waiting, strain = len(self._waiting), self.strain
            self.journal.record(RequestQueued, now, ticket.id, waiting)
            if not strain.saturated:
                self._weigh(now)
            elif waiting > strain.peak_waiting:
                strain.peak_waiting = waiting

    def conclude(self, ticket: Ticket[C], now: float) -> bool:
        """Say that the caller has its answer: this is the request's one outcome.

        True if it was refused.
        """
        wait = now - ticket.requested_at
        record = self.journal.record
        if slot := ticket.slot:
            id_, source = ticket.id, ticket.source
            del self._granted[id_]
            slot.since = now
            record(ConnectionAcquired, now, id_, wait, source, slot.connection_id)
            if self.backoff.distrust and source is AcquireSource.NEW:
                self.backoff.succeeded()
            return False
        self._refused -= 1
        error = ticket.error
        if ticket.reason is FailureReason.TIMEOUT and error is not None:
            record(AcquireTimedOut, now, ticket.id, wait, error.stats, error.__cause__)
        else:
            record(AcquireFailed, now, ticket.id, wait, ticket.reason, error)
        return True

    def withdraw(
        self, ticket: Ticket[C], now: float, error: BaseException, *, dirty: bool = False
    ) -> None:
        """End the request of a caller who has given up; what it was granted goes to the next.

        `dirty` says that the granted connection was being validated, so that nobody can tell
        the state it is in.
        """
        slot, ticket.slot = ticket.slot, None
        if slot:
            del self._granted[ticket.id]
            slot.end_lease()
        elif ticket.error is not None:
            self._refused -= 1
        elif not self.line.leave(ticket):
            return  # abandoned with its event loop, which was told then
        wait = now - ticket.requested_at
        reason = FailureReason.CANCELLED
        self.journal.record(AcquireFailed, now, ticket.id, wait, reason, error)
        if slot and dirty:
            self._close(slot, CloseReason.DIRTY, now)
        elif slot:
            self._offer(slot, ticket.source, now)
        self._weigh(now)

    def reject(self, ticket: Ticket[C], now: float, error: BaseException | None = None) -> None:
        """Close a granted connection that failed its validation; the ticket waits on, in front.

        A new connection that fails counts as a failed connect, so that tries are spaced out.
        """
        slot = ticket.slot
        if slot is None:
            return  # taken back meanwhile, because the pool closed
        del self._granted[ticket.id]
        ticket.slot = None
        slot.end_lease()
        new = ticket.source is AcquireSource.NEW
        self._close(slot, CloseReason.VALIDATION, now)
        if self.state != "open":
            self._refuse(ticket, verdicts.closed(self.stats(now)), FailureReason.CLOSED)
            return
        idle = self._take_idle(now)
        if idle is None:
            place = self.line.rejoin(ticket)
            if not ticket.queued:
                ticket.queued = True
                self.journal.record(RequestQueued, now, ticket.id, place)
            self.due = min(self.due, ticket.deadline)
            self._expire_line(now)
        else:
            self._grant(ticket, idle, AcquireSource.IDLE, now)
        if new:
            self.backoff.distrust = True
            failure = ValidationFailedError("validate_func refused a new connection")
            failure.__cause__ = error
            self._connects_fail(slot.round, failure, now)

    def next_idle(self) -> Slot[C] | None:
        """Return the idle connection the next request would be granted."""
        return self._idle[-1] if self._idle else None

    def expel(self, slot: Slot[C], now: float) -> None:
        """Close an idle connection that did not pass its validation."""
        self._close(slot, CloseReason.VALIDATION, now)

    def is_pending(self, ticket: Ticket[C]) -> bool:
        """Tell whether a request that was made has no outcome yet."""
        return ticket.id in self._granted or ticket.error is not None or ticket.id in self._waiting

    # A lease: ends with `release`, `discard`, `detach` or `reclaim`

    def release(self, slot: Slot[C], lease: int, now: float, reset: float = 0.0) -> bool:
        """End a lease. True: the connection is idle, and the caller publishes the release.

        Raises:
            ReleaseError: the lease has already ended; nothing changes.
        """
        if self.lay_down(slot, lease, now):
            return True
        if slot.lease != lease:
            raise self.not_leased(slot.connection_id)
        if len(self._idle) < self._low:
            self._note_use(now)
        self._end_lease(slot, now, reset)
        self._offer(slot, AcquireSource.HANDOFF, now)
        return False

    def discard(
        self, slot: Slot[C], lease: int, reason: CloseReason, now: float, reset: float = 0.0
    ) -> None:
        """End a lease and close its connection.

        Raises:
            ReleaseError: the lease has already ended; nothing changes.
        """
        if slot.lease != lease:
            raise self.not_leased(slot.connection_id)
        self._end_lease(slot, now, reset)
        self._close(slot, reason, now)

    def _end_lease(self, slot: Slot[C], now: float, reset: float) -> None:
        use = now - slot.since
        record = self.journal.record
        record(ConnectionReleased, now, slot.lease, slot.connection_id, use, reset)
        if slot.suspected:
            record(LeakReturned, now, slot.lease, slot.connection_id, use)
        slot.end_lease()

    def detach(self, slot: Slot[C], now: float) -> C:
        """Let a leased connection go for good, and free its slot."""
        connection = slot.connection
        assert connection is not None
        self._note_peak(now)
        use, age = now - slot.since, now - slot.opened_at
        self.journal.record(ConnectionDetached, now, slot.lease, slot.connection_id, use, age)
        self._vacate(slot, now)
        return connection

    def reclaim(self, slot: Slot[C], lease: int, now: float) -> bool:
        """Take back the connection of a lease that its holder lost; False if it ended before."""
        if slot.lease != lease:
            return False
        self._reclaim(slot, CloseReason.LEAK, now)
        return True

    def not_leased(self, what: str) -> ReleaseError:
        """Return the error for a release of what is not on loan."""
        return ReleaseError(
            f"{what or 'this connection'} is not on loan from pool {self.name!r}: it was released "
            "before, or belongs to another pool. Release each connection once, where it came "
            "from; `async with pool.connection()` does both."
        )
