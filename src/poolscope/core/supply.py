"""Connections: how they come, to whom they go, how they leave."""

from __future__ import annotations

import math
from typing import Generic

from poolscope.core import verdicts
from poolscope.core.backoff import Backoff, Random
from poolscope.core.journal import Journal
from poolscope.core.line import Line
from poolscope.core.places import Places
from poolscope.core.slot import CLOSING, CONNECTING, IDLE, IN_USE, C, Slot
from poolscope.core.ticket import NOTHING, Chores, Ticket
from poolscope.errors import PoolError, ValidationFailedError
from poolscope.events import (
    AcquireSource,
    CloseReason,
    ConnectFailed,
    ConnectionClosed,
    ConnectionOpened,
    ConnectStarted,
    FailureReason,
)
from poolscope.settings import ConnectionPoolSettings
from poolscope.stats import PoolState, PoolStats

SHORTEST_SWEEP = 0.01


class Supply(Generic[C]):
    """The slots, the line in front of them, and the connects and closes they ask for."""

    def __init__(
        self,
        name: str,
        settings: ConnectionPoolSettings,
        journal: Journal,
        rng: Random,
        *,
        checks: bool = False,
    ) -> None:
        """Make a pool that is not yet open. `checks`: grants are validated before they count."""
        self.name = name
        self.settings = settings
        self.journal = journal
        self.checks = checks
        self.checks_idle = checks
        """False if the driver has validated what lies on top of the idle connections itself."""
        self.state: PoolState = "new"
        self.generation = 0
        self.due = math.inf
        """When `tick` has to be called next, at the latest."""
        self.places: Places[C] = Places(settings.max_size)
        self.line: Line[C] = Line()
        self.backoff = Backoff(settings, rng)
        self._random = rng
        self.vacant = self.places.vacant
        self._idle = self.places.idle
        self._waiting = self.line.tickets
        self._granted: dict[int, Ticket[C]] = {}
        """Tickets with a slot whose callers have not yet concluded."""
        self._refused = 0
        """Tickets with an error whose callers have not yet concluded."""
        self._serial = 0
        self._keep = 0
        """Up to so many idle connections a release needs no second thought."""
        self.owed: Chores[C] = NOTHING

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
        while places.connecting < min(self._connects_needed(), limit) and places.vacant:
            if now < self.backoff.retry_at:
                self.due = min(self.due, self.backoff.retry_at)
                return
            slot = places.begin_connecting(now)
            self._serial += 1
            slot.connection_id = f"{self.name}#{self._serial}"
            slot.close_reason = CloseReason.LIFETIME
            slot.round = self.backoff.round
            slot.attempt = self.backoff.streak + 1
            self.journal.record(ConnectStarted, now, slot.connection_id, slot.attempt)
            self._owe().connect.append(slot)

    def _connects_needed(self) -> int:
        """One for each caller in line, and enough to keep `min_size`."""
        if self.state != "open":
            return 0
        return max(len(self.line), self.settings.min_size - self.places.open)

    # What the driver reports

    def connected(self, slot: Slot[C], connection: C, now: float) -> None:
        """Take an opened connection in: to the longest waiter, or idle."""
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

    def connect_failed(
        self, slot: Slot[C], error: BaseException, now: float, *, abandoned: bool = False
    ) -> None:
        """Free the slot of a connect that failed; fail those who have waited long enough for it."""
        create = now - slot.since
        self.journal.record(
            ConnectFailed, now, slot.connection_id, create, slot.attempt, error, abandoned
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
        return max(SHORTEST_SWEEP, min(settings.idle_timeout, life, leak))

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
        elif len(self._idle) >= self.idle_limit():
            self._close(slot, CloseReason.EXCESS, now)
        else:
            self.places.put_idle(slot, now)

    def idle_limit(self) -> int:
        """Return how many idle connections are kept at most."""
        return max(self.settings.max_idle, self.settings.min_size)

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
        age = now - slot.opened_at
        self.journal.record(ConnectionClosed, now, slot.connection_id, reason, age)
        self.places.begin_closing(slot, now)
        self._owe().close.append(slot)

    def _vacate(self, slot: Slot[C], now: float) -> None:
        self.places.vacate(slot, now, self.settings.max_size)
        self._settle_limits()

    def _settle_limits(self) -> None:
        """Set how much a release has to think: nothing while the pool is open and not too big."""
        self._shrinking = self.places.taken > self.settings.max_size
        keep = self.state == "open" and not self._shrinking
        self._keep = self.idle_limit() if keep else 0

    # Who goes away empty-handed

    def _expire_line(self, now: float) -> None:
        for ticket in self.line.expire(now):
            self._time_out(ticket, now)

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

        While no lease is out nothing but a connect could help: then all of them go.
        """
        if not self.backoff.failed(round_, error, now):
            return
        reason = FailureReason.CONNECT_FAILED
        if isinstance(error, ValidationFailedError):
            reason = FailureReason.VALIDATION_FAILED
        while (ticket := self.line.first()) and self.backoff.exhausted(ticket.round):
            self.line.leave(ticket)
            stats = self.stats(now)
            verdict = verdicts.connects_failed(stats, self.backoff.streak, error)
            self._refuse(ticket, verdict, reason)
            if stats.in_use > stats.granted:
                break

    # The snapshot

    def stats(self, now: float) -> PoolStats:
        """Return the levels at this moment."""
        states = self.places.states()
        leased = [slot for slot in self.places.slots if slot.state is IN_USE]
        oldest = min(leased, key=lambda slot: slot.since, default=None)
        first = self.line.first()
        return PoolStats(
            pool=self.name,
            time=now,
            sequence=self.journal.sequence,
            state=self.state,
            min_size=self.settings.min_size,
            max_size=self.settings.max_size,
            max_idle=self.idle_limit(),
            idle=states.count(IDLE),
            in_use=states.count(IN_USE),
            connecting=states.count(CONNECTING),
            closing=states.count(CLOSING),
            waiting=len(self.line) + len(self._granted) + self._refused,
            granted=len(self._granted),
            oldest_wait=max(0.0, now - first.requested_at) if first else 0.0,
            oldest_use=max(0.0, now - oldest.since) if oldest else 0.0,
            oldest_use_at=oldest.acquired_at() if oldest else None,
            generation=self.generation,
        )
