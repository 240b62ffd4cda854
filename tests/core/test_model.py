"""The core against its laws, in virtual time: random decisions, checked after every step."""

import random
from typing import Any

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
    AcquireSource,
    CloseReason,
    ConnectionAcquired,
    ConnectionReleased,
    ConnectionRequested,
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
    )
    def make(
        self, min_size, extra, max_idle, max_waiting, max_connecting, retry_limit, checks, seed
    ):
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
        self.core.open(self.now)
        self.settle()

    # What a driver does after every decision

    def settle(self) -> None:
        if self.now >= self.core.due:
            self.core.tick(self.now)
        chores = self.core.chores(self.now)
        self.connects.extend(chores.connect)
        self.closes.extend(chores.close)
        for slot in chores.inspect:
            self.core.suspect(slot, "", self.now)
        for kind, fields in self.journal.outbox:
            self.replay(kind(*fields))
        self.journal.outbox.clear()

    def publish(self, kind: type, *fields: Any) -> None:
        self.replay(kind("model", self.now, *fields))

    def pending(self) -> list[Caller]:
        return [caller for caller in self.callers if not caller.woken]

    def settled(self) -> list[Caller]:
        return [caller for caller in self.callers if caller.woken]

    # Callers

    @rule(timeout=st.sampled_from([0.0, 1.0, 3.0, 100.0]))
    def request(self, timeout):
        caller = Caller()
        if self.core.request(caller, self.now, timeout):
            slot = caller.slot
            self.publish(ConnectionRequested, caller.id)
            source, name = AcquireSource.IDLE, slot.connection_id
            self.publish(ConnectionAcquired, caller.id + 1, caller.id, 0.0, source, name)
            self.leases.append((slot, caller.id))
        else:
            self.callers.append(caller)
        self.settle()

    @precondition(lambda self: self.settled())
    @rule(data=st.data())
    def conclude(self, data):
        caller = pick(data, self.settled())
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
    @rule(data=st.data(), how=st.sampled_from(["release", "discard", "detach", "reclaim"]))
    def end_lease(self, data, how):
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
    @rule(data=st.data())
    def connect(self, data):
        slot = pick(data, self.connects)
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

    @rule(seconds=st.sampled_from([0.001, 0.5, 2.0, 6.0, 25.0]))
    def pass_time(self, seconds):
        self.now += seconds
        self.settle()

    @precondition(lambda self: self.core.state == "open")
    @rule(min_size=st.integers(0, 3), extra=st.integers(1, 3))
    def resize(self, min_size, extra):
        self.core.resize(min_size, min_size + extra, self.now)
        self.ceiling = max(self.ceiling, min_size + extra)
        self.settle()

    @precondition(lambda self: self.core.state == "open")
    @rule()
    def drain(self):
        self.core.drain(self.now)
        self.settle()

    @precondition(lambda self: self.core.state == "open")
    @rule(luck=st.integers(0, 9))
    def close(self, luck):
        if luck == 0:
            self.core.close(self.now)
            self.settle()

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
TestPoolModel.settings = settings(max_examples=300)
