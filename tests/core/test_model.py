"""The core against its laws, in virtual time: random decisions, checked after every step."""

import math
import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from poolscope.core.journal import Journal
from poolscope.core.pool_core import PoolCore
from poolscope.core.slot import Slot
from poolscope.core.ticket import Ticket
from poolscope.errors import ReleaseError
from poolscope.events import (
    EVENT_TYPES,
    AcquireFailed,
    AcquireSource,
    AcquireTimedOut,
    CloseReason,
    ConnectionAcquired,
    ConnectionReleased,
    ConnectionRequested,
    ConnectStarted,
    RequestQueued,
    SaturationEnded,
)
from poolscope.settings import ConnectionPoolSettings
from poolscope.testing.laws import Replay


class Caller(Ticket[str]):
    """A ticket that remembers whether it was woken."""

    __slots__ = ("woken",)

    def __init__(self) -> None:
        self.slot = None
        self.error = None
        self.woken = False

    def wake(self) -> None:
        assert not self.woken or self.slot is None or self.error is None
        self.woken = True


def pick(data: st.DataObject, items: list[Any]) -> Any:
    return items[data.draw(st.integers(0, len(items) - 1), label="which")]


class PoolModel(RuleBasedStateMachine):
    """Plays the driver, the callers, the server and the clock."""

    @initialize(
        min_size=st.integers(0, 2),
        extra=st.integers(1, 3),
        max_idle=st.integers(0, 4),
        max_waiting=st.none() | st.integers(1, 4),
        max_connecting=st.integers(1, 3),
        retry_limit=st.integers(0, 2),
        checks=st.booleans(),
        seed=st.integers(0, 2**16),
        start=st.sampled_from(["cold", "warm", "busy"]),
    )
    def make(
        self, min_size, extra, max_idle, max_waiting, max_connecting, retry_limit, checks, seed,
        start,
    ):  # fmt: skip
        self.settings = ConnectionPoolSettings(
            min_size=min_size,
            max_size=min_size + extra,
            max_idle=max_idle,
            max_waiting=max_waiting,
            max_connecting=max_connecting,
            retry_limit=retry_limit,
            idle_timeout=5,
            max_lifetime=20,
            leak_threshold=8,
        )
        self.checks = checks
        self.now = 0.0
        self.replay = Replay()
        self.journal = Journal("model", dict.fromkeys(EVENT_TYPES, (True,)))
        self.core: PoolCore[str] = PoolCore(
            "model", self.settings, self.journal, random.Random(seed), checks=checks
        )
        self.callers: list[Caller] = []
        self.leases: list[tuple[Slot[str], int]] = []
        self.connects: list[Slot[str]] = []
        self.closes: list[Slot[str]] = []
        self.rejected: set[int] = set()
        """Callers whose connection failed its validation: back in line, in front of all."""
        self.ceiling = self.settings.max_size
        self.levels = [(0.0, 0)]
        """How many were in use, and since when."""
        self.saturation_time = 0.0
        self.saturated_since: float | None = None
        self.core.open(self.now)
        self.settle()
        self.begin(start)

    def begin(self, start: str) -> None:
        """Begin where much can happen: single steps seldom lead there."""
        while self.connects and start == "warm":
            self.open(self.connects[0])
        while len(self.leases) < self.settings.max_size and start == "busy":
            self.acquire()

    # What a driver does after every decision

    def settle(self) -> None:
        if self.now >= self.core.due:
            self.core.tick(self.now)
        under_way = len(self.connects)
        chores = self.core.chores(self.now)
        self.connects.extend(chores.connect)
        self.closes.extend(chores.close)
        for slot in chores.inspect:
            self.core.suspect(slot, "", self.now)
        events = [kind(*fields) for kind, fields in self.journal.outbox]
        for event in events:
            self.replay(event)
        self.journal.outbox.clear()
        started = [event.request_id for event in events if isinstance(event, ConnectStarted)]
        self.check_for_whom(started, under_way)
        self.levels.append((self.now, self.core.stats(self.now).in_use))
        if not self.is_saturated():
            self.saturated_since = None
        elif self.saturated_since is None:
            self.saturated_since = self.now

    def check_for_whom(self, started: list[int], under_way: int) -> None:
        """The first connect under way is for the first in line, and so on; the rest for nobody."""
        line = sorted(caller.id for caller in self.pending())
        places = range(under_way, under_way + len(started))
        assert started == [line[place] if place < len(line) else 0 for place in places]

    def is_saturated(self) -> bool:
        """Somebody stands in line, and all there may be is in use."""
        stats = self.core.stats(self.now)
        return bool(self.pending()) and stats.in_use >= stats.max_size

    def wait(self, seconds: float) -> None:
        """Let time pass in which the loop is busy, so that no alarm rings."""
        if self.is_saturated():
            self.saturation_time += seconds
        self.now += seconds

    def publish(self, kind: type, *fields: Any) -> None:
        self.replay(kind("model", self.now, *fields))

    def pending(self) -> list[Caller]:
        return [caller for caller in self.callers if not caller.woken]

    def settled(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.woken]

    # Callers

    @rule(timeout=st.sampled_from([0.0, 1.0, 3.0, 100.0]))
    def request(self, timeout):
        self.ask(timeout)

    @rule()
    def acquire(self):
        caller = self.ask(100.0)
        while caller is not None and not caller.woken and self.connects:
            self.open(self.connects[0])
        if caller is not None and caller.woken:
            self.answer(caller)

    def ask(self, timeout: float) -> Caller | None:
        """Make a request; return who asks, unless there was a connection at once."""
        caller = Caller()
        if self.core.request(caller, self.now, timeout):
            slot = caller.slot
            self.publish(ConnectionRequested, caller.id)
            source, name = AcquireSource.IDLE, slot.connection_id
            self.publish(ConnectionAcquired, caller.id + 1, caller.id, 0.0, source, name)
            self.leases.append((slot, caller.id))
            self.settle()
            return None
        self.callers.append(caller)
        self.settle()
        return caller

    @precondition(lambda self: self.settled())
    @rule(data=st.data())
    def conclude(self, data):
        self.answer(pick(data, self.settled()))

    def answer(self, caller: Caller) -> None:
        self.callers.remove(caller)
        self.core.conclude(caller, self.now)
        if caller.slot is not None:
            self.leases.append((caller.slot, caller.id))
        self.settle()

    @precondition(lambda self: self.callers)
    @rule(data=st.data(), dirty=st.booleans())
    def withdraw(self, data, dirty):
        caller = pick(data, self.callers)
        self.callers.remove(caller)
        self.core.withdraw(caller, self.now, KeyboardInterrupt(), dirty=dirty)
        self.settle()

    @precondition(lambda self: self.checks and any(c.slot for c in self.callers))
    @rule(data=st.data())
    def fail_validation(self, data):
        caller = pick(data, [caller for caller in self.callers if caller.slot])
        caller.woken = False
        self.rejected.add(caller.id)
        self.core.reject(caller, self.now, ValueError())
        self.settle()

    @precondition(lambda self: self.leases)
    @rule(
        data=st.data(),
        how=st.sampled_from(["release", "discard", "detach", "reclaim"]),
        late=st.sampled_from([0.0, 0.0, 1.0]),
    )
    def end_lease(self, data, how, late):
        self.wait(late)
        slot, lease = pick(data, self.leases)
        self.leases.remove((slot, lease))
        name, since = slot.connection_id, slot.since
        if how == "release":
            if self.core.release(slot, lease, self.now):
                sequence = self.journal.sequence
                use = self.now - since
                self.publish(ConnectionReleased, sequence, lease, name, use, 0.0)
        elif how == "discard":
            self.core.discard(slot, lease, CloseReason.DIRTY, self.now)
        elif how == "detach":
            self.core.detach(slot, self.now)
        else:
            assert self.core.reclaim(slot, lease, self.now)
        self.settle()
        self.end_it_again(slot, lease)

    def end_it_again(self, slot, lease):
        before = self.core.stats(self.now)
        try:
            self.core.release(slot, lease, self.now)
        except ReleaseError:
            assert self.core.stats(self.now) == before
        else:
            raise AssertionError("released twice")

    # The server

    @precondition(lambda self: self.connects)
    @rule(data=st.data(), late=st.sampled_from([0.0, 0.0, 1.0]))
    def connect(self, data, late):
        self.wait(late)
        self.open(pick(data, self.connects))

    def open(self, slot: Slot[str]) -> None:
        self.connects.remove(slot)
        self.core.connected(slot, f"connection {slot.connection_id}", self.now)
        self.settle()

    @precondition(lambda self: self.connects)
    @rule(data=st.data())
    def fail_connect(self, data):
        slot = pick(data, self.connects)
        self.connects.remove(slot)
        self.core.connect_failed(slot, ConnectionRefusedError(), self.now)
        self.settle()

    @precondition(lambda self: self.closes)
    @rule(data=st.data())
    def disconnect(self, data):
        slot = pick(data, self.closes)
        self.closes.remove(slot)
        self.core.disconnected(slot, self.now)
        self.settle()

    # The operator and the clock

    @rule(seconds=st.sampled_from([0.001, 0.5, 2.0, 6.0, 25.0, 75.0]))
    def pass_time(self, seconds):
        self.wait(seconds)
        self.settle()

    @precondition(lambda self: self.core.state == "open")
    @rule(
        what=st.sampled_from(["resize", "drain", "abandon or close"]),
        min_size=st.integers(0, 3),
        extra=st.integers(1, 3),
        luck=st.integers(0, 9),
    )
    def operate(self, what, min_size, extra, luck):
        if what == "resize":
            self.core.resize(min_size, min_size + extra, self.now)
            self.ceiling = max(self.ceiling, min_size + extra)
        elif what == "drain":
            self.core.drain(self.now)
        elif luck == 0:
            self.core.close(self.now)
        elif luck == 1:
            self.abandon()
        self.settle()

    def abandon(self) -> None:
        """Lose the event loop, and all that was on it."""
        self.core.abandon(CloseReason.BROKEN, RuntimeError(), self.now)
        for kept in (self.connects, self.closes, self.leases):
            kept.clear()
        self.callers = [caller for caller in self.callers if caller.error is not None]

    @precondition(lambda self: self.core.state == "closing")
    @rule()
    def terminate(self):
        self.core.terminate(CloseReason.POOL_CLOSED, self.now)
        self.leases.clear()
        for caller in self.callers:
            caller.woken = True
        self.settle()

    # The laws

    @invariant()
    def books_balance(self):
        self.replay.check(self.core.stats(self.now))

    @invariant()
    def books_agree_with_the_callers(self):
        stats = self.core.stats(self.now)
        assert stats.waiting == len(self.callers)
        assert stats.in_use - stats.granted == len(self.leases)
        assert stats.connecting == len(self.connects)
        assert stats.closing == len(self.closes)

    @invariant()
    def who_stood_in_line_was_told_so_once(self):
        queued = [event.request_id for event in self.replay.of(RequestQueued)]
        assert len(queued) == len(set(queued))
        assert {caller.id for caller in self.pending()} <= set(queued)
        outcomes = self.replay.of(ConnectionAcquired, AcquireTimedOut, AcquireFailed)
        for event in outcomes:
            if getattr(event, "source", AcquireSource.IDLE) is not AcquireSource.IDLE:
                assert event.request_id in queued

    @invariant()
    def saturation_is_told_while_it_lasts(self):
        stats = self.core.stats(self.now)
        since = self.saturated_since
        assert self.is_saturated() == (self.replay.saturation is not None)
        assert stats.saturated_for == (0.0 if since is None else self.now - since)
        assert stats.saturation_time == pytest.approx(self.saturation_time)
        ended = self.replay.of(SaturationEnded)
        told = sum(event.duration for event in ended) + stats.saturated_for
        assert stats.saturation_time == pytest.approx(told)

    @invariant()
    def the_peak_is_of_the_last_minute(self):
        peak = self.core.stats(self.now).used_peak
        # The loop is up to a second late to begin a new step.
        assert self.most_in_use(59) <= peak <= self.most_in_use(70)

    def most_in_use(self, seconds):
        """Return the highest level in force at any time of the last so many seconds."""
        ends = [time for time, _ in self.levels[1:]] + [math.inf]
        past = self.now - seconds
        return max(n for (_, n), end in zip(self.levels, ends, strict=True) if end > past)

    @invariant()
    def no_connection_is_in_two_places(self):
        held = [slot for slot, _ in self.leases]
        held += [caller.slot for caller in self.callers if caller.slot is not None]
        assert len(held) == len({id(slot) for slot in held})

    @invariant()
    def limits_hold(self):
        stats = self.core.stats(self.now)
        settings = self.core.settings
        assert stats.idle <= max(settings.max_idle, settings.min_size, stats.min_size)
        limit = settings.max_waiting
        queued = [caller for caller in self.pending() if caller.id not in self.rejected]
        assert limit is None or len(queued) <= limit
        assert stats.connecting <= settings.max_connecting
        assert stats.size <= self.ceiling
        self.ceiling = max(stats.max_size, stats.size)

    @invariant()
    def min_size_is_kept_up(self):
        stats, core = self.core.stats(self.now), self.core
        if core.state != "open" or stats.connecting == core.settings.max_connecting:
            return
        if stats.size < stats.max_size and self.now >= core.backoff.retry_at:
            assert stats.idle + stats.in_use + stats.connecting >= stats.min_size

    @invariant()
    def nobody_waits_beside_an_idle_connection(self):
        stats = self.core.stats(self.now)
        assert not (stats.idle and self.pending())

    @invariant()
    def whoever_waits_has_something_to_wait_for(self):
        stats = self.core.stats(self.now)
        if not self.pending():
            return
        on_the_way = stats.in_use or stats.connecting or stats.closing
        assert on_the_way or self.core.due < float("inf")

    @invariant()
    def an_alarm_is_set_for_every_deadline(self):
        for caller in self.pending():
            assert self.core.due <= caller.deadline

    @invariant()
    def waiters_are_served_in_order(self):
        queue = [caller.id for caller in self.core.line]
        assert queue == sorted(queue)


TestPoolModel = PoolModel.TestCase
TestPoolModel.settings = settings(max_examples=400)
