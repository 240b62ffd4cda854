"""Connections: how they come, to whom they go, how they leave."""

from __future__ import annotations

import math

from poolscope.core import verdicts
from poolscope.core.slot import IN_USE, C, Slot
from poolscope.core.state import State
from poolscope.core.ticket import NOTHING, Chores, Ticket
from poolscope.errors import PoolError, ValidationFailedError
from poolscope.events import (
    AcquireSource,
    CloseReason,
    ConnectFailed,
    ConnectFault,
    ConnectionClosed,
    ConnectionOpened,
    ConnectStarted,
    FailureReason,
)
from poolscope.faults import classify
from poolscope.strain import PEAK_STEP

SHORTEST_SWEEP = 0.01


class Supply(State[C]):
    """Connects, grants and closes, as the line and the limits ask for them."""

    # What the driver owes

    def chores(self, now: float) -> Chores[C]:
        """Return the work to be done now; each piece is returned once.

        There can be none while no slot is vacant and nothing is `owed`.
        """
        self._start_connects(now)
        chores = self.owed
        if chores is not NOTHING:
            self.owed = NOTHING
        return chores

    def _owe(self) -> Chores[C]:
        """Return the list to write a chore on."""
        if self.owed is NOTHING:
            self.owed = Chores([], [], [])
        return self.owed

    def _start_connects(self, now: float) -> None:
        places = self.places
        limit = self.settings.max_connecting
        while places.connecting < min(self._connects_needed(now), limit) and places.vacant:
            if now < self.backoff.retry_at:
                self.due = min(self.due, self.backoff.retry_at)
                return
            slot = places.begin_connecting(now)
            self._serial += 1
            slot.connection_id = f"{self.name}#{self._serial}"
            slot.close_reason = CloseReason.LIFETIME
            slot.round = self.backoff.round
            slot.attempt = self.backoff.streak + 1
            request = self.line.place(places.connecting - 1)
            self.journal.record(ConnectStarted, now, slot.connection_id, slot.attempt, request)
            self._owe().connect.append(slot)

    def _connects_needed(self, now: float) -> int:
        """One for each caller in line, and enough to keep `min_size`."""
        if self.state != "open":
            return 0
        callers, missing = len(self.line), self.settings.min_size - self.places.open
        if missing > callers and now < self.backoff.refill_at:
            self.due = min(self.due, self.backoff.refill_at)
            return callers
        return max(callers, missing)

    # What the driver reports

    def connected(self, slot: Slot[C], connection: C, now: float) -> None:
        """Take an opened connection in: to the longest waiter, or idle."""
        self._expire_line(now)  # before it counts as in use, which would look like saturation
        self.journal.record(ConnectionOpened, now, slot.connection_id, now - slot.since)
        self.places.fill(slot, connection)
        life = self.settings.max_lifetime
        slot.opened_at = now
        slot.expires_at = now + life * (1 - self.settings.lifetime_jitter * self._random.random())
        if slot.close_reason is CloseReason.STALE:
            slot.expires_at = -math.inf
        if not self.backoff.distrust:
            self.backoff.succeeded()
        self.due = min(self.due, now + self.sweep_period())
        self._offer(slot, AcquireSource.NEW, now)
        self._note_use(now)

    def connect_failed(
        self, slot: Slot[C], error: BaseException, now: float, *, abandoned: bool = False
    ) -> None:
        """Free the slot of a connect that failed; fail those who have waited long enough for it."""
        create = now - slot.since
        fault = ConnectFault.ABANDONED if abandoned else classify(error)
        self.journal.record(
            ConnectFailed, now, slot.connection_id, create, slot.attempt, error, fault
        )
        self._vacate(slot, now)
        if not abandoned:
            self._connects_fail(slot.round, error, now)

    def disconnected(self, slot: Slot[C], now: float) -> None:
        """Free the slot of a connection that is closed."""
        self._vacate(slot, now)

    def sweep_period(self) -> float:
        """Return the longest time between two ticks while connections are open.

        Whatever falls due after a tick falls due at least this much later, so no release and no
        acquire has to set an alarm.
        """
        settings = self.settings
        life = settings.max_lifetime * (1 - settings.lifetime_jitter)
        leak = settings.leak_threshold or math.inf
        return max(SHORTEST_SWEEP, min(settings.idle_timeout, life, leak, PEAK_STEP))

    # Where a connection goes

    def _offer(self, slot: Slot[C], source: AcquireSource, now: float) -> None:
        """Give a free connection to the next in line, or keep it, or close it."""
        if self.state != "open":
            return self._close(slot, CloseReason.POOL_CLOSED, now)
        if slot.expires_at <= now:
            return self._close(slot, slot.close_reason, now)
        if self._shrinking and self.places.taken > self.settings.max_size:
            return self._close(slot, CloseReason.EXCESS, now)
        if now >= self.line.due:
            self._expire_line(now)
        if self._waiting:
            self._grant(self._waiting.popitem(last=False)[1], slot, source, now)
            if not self._waiting and self.strain.saturated:
                self._weigh(now)
        elif len(self._idle) >= self.idle_limit():
            self._close(slot, CloseReason.EXCESS, now)
        else:
            self.places.put_idle(slot, now)

    def _grant(self, ticket: Ticket[C], slot: Slot[C], source: AcquireSource, now: float) -> None:
        self.places.move(slot, IN_USE, now)
        slot.lease = ticket.id
        ticket.slot = slot
        ticket.source = source
        self._granted[ticket.id] = ticket
        ticket.wake()

    def _take_idle(self, now: float) -> Slot[C] | None:
        """Take the idle connection used last, closing those past their life."""
        while self._idle:
            slot = self._idle[-1]
            if slot.expires_at > now:
                return self._idle.pop()
            self._close(slot, slot.close_reason, now)
        return None

    def _close(self, slot: Slot[C], reason: CloseReason, now: float) -> None:
        if slot.state is IN_USE:
            self._note_peak(now)
        age = now - slot.opened_at
        self.journal.record(ConnectionClosed, now, slot.connection_id, reason, age)
        self.places.begin_closing(slot, now)
        self._owe().close.append(slot)
        self._weigh(now)

    def _vacate(self, slot: Slot[C], now: float) -> None:
        self.places.vacate(slot, now, self.settings.max_size)
        self._settle_limits()
        self._weigh(now)

    def _settle_limits(self) -> None:
        """Set how much a release has to think: nothing while the pool is open and not too big."""
        self._shrinking = self.places.taken > self.settings.max_size
        keep = self.state == "open" and not self._shrinking
        self._keep = self.idle_limit() if keep else 0

    # Who goes away empty-handed

    def _expire_line(self, now: float) -> None:
        for ticket in self.line.expire(now):
            self._time_out(ticket, now)
        self._weigh(now)

    def _time_out(self, ticket: Ticket[C], now: float) -> None:
        error = verdicts.timed_out(self.stats(now), now - ticket.requested_at, self.backoff.error)
        self._refuse(ticket, error, FailureReason.TIMEOUT)

    def _refuse(self, ticket: Ticket[C], error: PoolError, reason: FailureReason) -> None:
        ticket.error = error
        ticket.reason = reason
        self._refused += 1
        ticket.wake()

    def _connects_fail(self, round_: int, error: BaseException, now: float) -> None:
        """Note a failure. Once per round the longest waiter that has seen too many goes.

        When no lease is out, and no connect is under way that could still help, all of them go.
        """
        first = self.backoff.failed(round_, error, now)
        if not first and self._may_help():
            return
        reason = FailureReason.CONNECT_FAILED
        if isinstance(error, ValidationFailedError):
            reason = FailureReason.VALIDATION_FAILED
        while (ticket := self.line.first()) and self.backoff.exhausted(ticket.round):
            self.line.leave(ticket)
            stats = self.stats(now)
            verdict = verdicts.connects_failed(stats, self.backoff.streak, error)
            self._refuse(ticket, verdict, reason)
            if self._may_help():
                break
        self._weigh(now)

    def _may_help(self) -> bool:
        """Tell whether something is under way, or out, that may yet serve somebody in line."""
        return self.places.connecting > 0 or self.places.in_use > len(self._granted)
