"""What happens to a pool without anybody asking for a connection."""

from __future__ import annotations

import math

from poolscope.core import verdicts
from poolscope.core.slot import CLOSING, CONNECTING, IDLE, IN_USE, VACANT, C, Slot
from poolscope.core.supply import Supply
from poolscope.core.ticket import NOTHING
from poolscope.events import (
    AcquireFailed,
    CloseReason,
    FailureReason,
    LeakReclaimed,
    LeakSuspected,
    PoolClosed,
    PoolDrained,
    PoolOpened,
    PoolResized,
)


class Upkeep(Supply[C]):
    """Ageing, leaks, limits, and the pool's own beginning and end."""

    def open(self, now: float) -> None:
        """Begin to serve, and to keep `min_size`."""
        self.state = "open"
        self._settle_limits()
        self.journal.record(PoolOpened, now)

    def tick(self, now: float) -> None:
        """Do what has fallen due: deadlines, ages, idle times, suspicions."""
        self._expire_line(now)
        self._retire_idle(now)
        self._notice_leaks(now)
        self.due = self._next_due(now)
        self._note_use(now)

    def _retire_idle(self, now: float) -> None:
        spare = self.places.open - self.settings.min_size
        for slot in self._idle.copy():
            if slot.expires_at <= now:
                self._close(slot, slot.close_reason, now)
            elif spare > 0 and slot.since + self.settings.idle_timeout <= now:
                self._close(slot, CloseReason.IDLE, now)
            else:
                continue
            spare -= 1

    def _notice_leaks(self, now: float) -> None:
        threshold = self.settings.leak_threshold or math.inf
        for slot in self.places.slots:
            if slot.state is IN_USE and not slot.suspected and slot.since + threshold <= now:
                slot.suspected = True
                self._owe().inspect.append(slot)

    def suspect(self, slot: Slot[C], stack: str, now: float) -> None:
        """Report a leak, with what the holder is doing now."""
        if slot.suspected:
            use = now - slot.since
            self.journal.record(
                LeakSuspected, now, slot.lease, slot.connection_id, use, slot.acquired_at(), stack
            )

    def _next_due(self, now: float) -> float:
        due = self.line.due
        threshold = self.settings.leak_threshold or math.inf
        spare = self.places.open > self.settings.min_size
        for slot in self._idle:
            end = slot.since + self.settings.idle_timeout if spare else math.inf
            due = min(due, slot.expires_at, end)
        for slot in self.places.slots:
            if slot.state is IN_USE and not slot.suspected:
                due = min(due, slot.since + threshold)
        if self.places.open:
            due = min(due, now + self.sweep_period())
        return due

    def resize(self, min_size: int, max_size: int, now: float) -> None:
        """Change the limits. Too many connections are closed: idle ones now, others when free."""
        checked = self.settings.copy(min_size=min_size, max_size=max_size)
        self.settings.min_size = checked.min_size
        self.settings.max_size = checked.max_size
        self.places.resize(max_size)
        self._settle_limits()
        surplus = max(self.places.taken - max_size, len(self._idle) - self.idle_limit())
        for slot in self._idle[: max(0, surplus)]:
            self._close(slot, CloseReason.EXCESS, now)
        self.journal.record(PoolResized, now, min_size, max_size)
        self._weigh(now)

    def drain(self, now: float) -> None:
        """Begin a new generation: what is open or opening now is closed as soon as it is free."""
        self.generation += 1
        for slot in self.places.slots:
            if slot.state is not VACANT:
                slot.close_reason = CloseReason.STALE
                slot.expires_at = -math.inf
        self.journal.record(PoolDrained, now, self.generation)
        for slot in self._idle.copy():
            self._close(slot, CloseReason.STALE, now)

    def close(self, now: float) -> None:
        """Stop serving: who waits is refused, idle connections go; leases may still come back."""
        self.state = "closing"
        self._settle_limits()
        while self.line:
            self._refuse(self.line.pop(), verdicts.closed(self.stats(now)), FailureReason.CLOSED)
        self._weigh(now)
        for slot in self._idle.copy():
            self._close(slot, CloseReason.POOL_CLOSED, now)

    def terminate(self, reason: CloseReason, now: float) -> None:
        """Take back every connection still in use, or just being handed out."""
        for ticket in self._granted.copy().values():
            slot = self._granted.pop(ticket.id).slot
            ticket.slot = None
            self._refuse(ticket, verdicts.closed(self.stats(now)), FailureReason.CLOSED)
            if slot is not None:
                self._close(slot, reason, now)
        for slot in self.places.slots:
            if slot.state is IN_USE:
                self._reclaim(slot, reason, now)

    def _reclaim(self, slot: Slot[C], reason: CloseReason, now: float) -> None:
        use = now - slot.since
        at = slot.acquired_at()
        self.journal.record(LeakReclaimed, now, slot.lease, slot.connection_id, use, reason, at)
        self._close(slot, reason, now)

    def finish(self, now: float) -> None:
        """Be closed; nothing falls due any more."""
        self.state = "closed"
        self.due = math.inf
        self.journal.record(PoolClosed, now)

    def abandon(self, reason: CloseReason, error: BaseException, now: float) -> None:
        """Lose everything at once: the event loop or the process that held it is gone."""
        for slot in self.connecting:
            self.connect_failed(slot, error, now, abandoned=True)
        for ticket in (*self.line, *self._granted.values()):
            self.line.leave(ticket)
            ticket.slot = None
            wait = now - ticket.requested_at
            cancelled = FailureReason.CANCELLED
            self.journal.record(AcquireFailed, now, ticket.id, wait, cancelled, error)
        self._weigh(now)
        leases = set(self._granted)
        self._granted.clear()
        for slot in self.places.slots:
            if slot.state is IN_USE and slot.lease not in leases:
                self._reclaim(slot, reason, now)
            elif slot.state in (IDLE, IN_USE):
                self._close(slot, reason, now)
        for slot in self.places.slots.copy():
            if slot.state is CLOSING:
                self.disconnected(slot, now)
        self.owed = NOTHING
        self.due = math.inf

    @property
    def connecting(self) -> list[Slot[C]]:
        """Return the slots whose connections are being opened."""
        return [slot for slot in self.places.slots if slot.state is CONNECTING]

    @property
    def closing(self) -> list[Slot[C]]:
        """Return the slots whose connections are being closed."""
        return [slot for slot in self.places.slots if slot.state is CLOSING]
