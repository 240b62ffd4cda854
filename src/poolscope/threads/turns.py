"""What turns: decisions made one at a time, and all that follows from each."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from threading import get_ident
from typing import Any, TypeVar

from poolscope.bus import EventBus
from poolscope.core.journal import Record
from poolscope.core.slot import C, Slot
from poolscope.core.ticket import NOTHING
from poolscope.engine import BaseEngine
from poolscope.errors import PoolError
from poolscope.events import Misuse, MisuseDetected, SubscriberFailed
from poolscope.faults import where
from poolscope.functions import Functions, is_prompt
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.settings import ConnectionPoolSettings
from poolscope.stats import PoolStats
from poolscope.threads.call import Call
from poolscope.threads.guard import Guard
from poolscope.threads.interrupts import is_interrupt
from poolscope.threads.stacks import describe
from poolscope.threads.system import System, Timer, Waker
from poolscope.threads.turn import Turn

logger = logging.getLogger("poolscope")

T = TypeVar("T")

SHORTEST_DELAY = 1e-6
"""Seconds. An alarm that rings too early by a rounding error is set again, and must not spin."""


class Turns(BaseEngine[C]):
    """Stands between one core and any number of threads.

    The core is touched under `lock` only, by straight-line steps (`PoolCore.lend`, `lay_down`) or
    by `decide`. Nothing of the application is called under it: no function, no subscriber.
    """

    kind = "with SyncConnectionPool(...)"

    def __init__(
        self,
        settings: ConnectionPoolSettings,
        functions: Functions[C],
        bus: EventBus,
        clock: Callable[[], float],
        metrics: ConnectionPoolMetrics,
        *,
        system: System,
        inline: bool,
    ) -> None:
        """Make an engine. `inline`: who causes a connect or a close does it in its own thread."""
        self.functions = functions
        self.system = system
        self.inline = inline
        self.lock = system.lock()
        self.deciding = False
        """A decision is being made: only its own thread can see this under the lock."""
        self.calls: dict[Call, None] = {}
        """What is at work on leases: validations and resets."""
        self.resetting: dict[int, None] = {}
        """Leases whose callers have given back, and whose reset is under way."""
        self._alarm: Timer | None = None
        self._alarm_at = math.inf
        self._watchers: list[Waker] = []
        self.afterwards: list[Callable[[], object]] = []
        """What the present decision leads to, and must not be done under the lock."""
        self._publishing: dict[int, list[Record]] = {}
        """What threads are publishing just now."""
        super().__init__(settings, functions, bus, clock, metrics)
        self.workers = system.workers(self.name)
        self.guard = Guard(system, self.workers, clock)
        self.tries = self.checks and (
            is_prompt(functions.validate_func) or self.settings.validate_timeout == math.inf
        )
        """Whether callers validate in their own threads what they are lent."""

    # Decisions

    def decide(self, decision: Callable[[float], T], *, asks: bool = False) -> T:
        """Have the core decide in one piece, and see to all that follows. Return the result.

        Where a signal handler could strike in the middle, another thread decides meanwhile. `asks`:
        the caller wants a connection, and may connect itself if the pool is `inline`.

        Raises:
            PoolError: called by what interrupted a decision: a signal handler, a finalizer.
        """
        if self.system.owns(self.lock):
            raise PoolError(
                f"pool {self.name!r} was called by a signal handler, or a finalizer, that "
                "interrupted it in this very thread. Have the handler set a flag, and act later."
            )
        turn = Turn(decision, asks)
        try:
            if self.system.is_struck():
                self._have_taken(turn)
            else:
                self.take(turn)
            for job in turn.here:
                job.run_here()
        except BaseException:
            for job in turn.here:
                self.workers.start(job)  # those begun before are not done twice
            raise
        if turn.error is not None:
            raise turn.error
        return turn.result

    def take(self, turn: Turn[Any]) -> None:
        """Take a turn: decide, then do what is owed, publish, and look at who is suspect."""
        with self.lock:
            self.deciding = True
            try:
                now = self.clock()
                try:
                    turn.result = turn.decision(now)
                except Exception as error:
                    turn.error = error
                self._follow(turn, now)
            finally:
                self.deciding = False
        for step in turn.afterwards:
            step()
        for job in turn.elsewhere:
            self.workers.start(job)
        self.publish(turn.records)
        for slot, lease in turn.inspect:
            self._report_leak(slot, lease)
        turn.done = True

    def _have_taken(self, turn: Turn[Any]) -> None:
        """Let a worker take a turn, in this context, whatever is raised here meanwhile."""
        context, done, struck = copy_context(), self.system.waker(), None
        left = [True]

        def once() -> None:
            if not (left and left.pop()):
                return  # it was started twice
            try:
                context.run(self.take, turn)
            except BaseException as error:
                turn.error = error
            turn.done = True
            done.set()

        while not turn.done:
            try:
                self.workers.start(once)
                done.wait(math.inf)
            except BaseException as error:
                struck = error
        if struck is not None:
            raise struck

    def _follow(self, turn: Turn[Any], now: float) -> None:
        """Collect what is owed after a decision: chores, events, the alarm; wake who watches."""
        core = self.core
        if now >= core.due:
            core.tick(now)
        if core.vacant or core.owed is not NOTHING:
            chores = core.chores(now)
            if chores is not NOTHING:
                turn.inspect = [(slot, slot.lease) for slot in chores.inspect]
                connects = turn.here if self.inline and turn.asks else turn.elsewhere
                closes = turn.here if self.inline else turn.elsewhere
                connects += [self.connecting(slot) for slot in chores.connect]
                closes += [self.closing(slot) for slot in chores.close]
        if core.due < self._alarm_at:
            self._set_alarm(core.due, now)
        if self.afterwards:
            turn.afterwards, self.afterwards = self.afterwards, []
        journal = core.journal
        if journal.outbox:
            turn.records, journal.outbox = journal.outbox, []
        if self._watchers:
            watchers, self._watchers = self._watchers, []
            for watcher in watchers:
                watcher.set()

    def publish(self, records: list[Record]) -> None:
        """Publish events in this thread, in order even if a subscriber calls the pool."""
        if not records:
            return
        me, publishing = get_ident(), self._publishing
        if (earlier := publishing.get(me)) is not None:
            earlier += records
            return
        publishing[me] = records
        try:
            for kind, fields in records:  # which may become more meanwhile
                for hook in self.hooks[kind]:
                    try:
                        hook(*fields)
                    except BaseException as error:  # a subscriber must not harm the pool
                        self.bus.report(hook, kind, error)
        finally:
            del publishing[me]

    def is_interrupt(self, error: BaseException) -> bool:
        """Tell whether an error came from a signal handler, and so is meant for who runs here."""
        return self.system.is_struck() and is_interrupt(error)

    def _report_leak(self, slot: Slot[C], lease: int) -> None:
        stack = describe(slot.holder)

        def suspect(now: float) -> None:
            if slot.lease == lease:
                self.core.suspect(slot, stack, now)

        self.decide(suspect)

    # Waiting for decisions of others

    def watch(self) -> Waker:
        """Return what is set after the next decision. Call it under the lock."""
        watcher = self.system.waker()
        self._watchers.append(watcher)
        return watcher

    # What decisions lead to

    def connecting(self, slot: Slot[C]) -> Call:
        """Return the call that opens a connection for a slot."""
        raise NotImplementedError

    def closing(self, slot: Slot[C]) -> Call:
        """Return the call that closes the connection of a slot."""
        raise NotImplementedError

    # The alarm

    def _set_alarm(self, due: float, now: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        delay = due - now
        if delay > 0:
            delay = max(delay, SHORTEST_DELAY)
        self._alarm_at = due
        self._alarm = self.system.call_later(delay, partial(_ring, weakref.ref(self)))

    def rung(self) -> None:
        """See to what has fallen due."""
        try:
            self.decide(self.forget_alarm)
        except Exception as error:
            text = "upkeep of pool %r failed; it goes on in a second: %s"
            logger.error(text, self.name, where(error))
            self._alarm = self.system.call_later(1.0, partial(_ring, weakref.ref(self)))

    def forget_alarm(self, _now: float = 0.0) -> None:
        """Have no alarm set: it has rung, or is of a process that is not this one."""
        self._alarm, self._alarm_at = None, math.inf

    def cancel_alarm(self) -> None:
        """Ring no more."""
        if self._alarm is not None:
            self._alarm.cancel()
        self.forget_alarm()

    # What it tells

    def stats(self) -> PoolStats:
        """Return the levels at this moment. Safe from any thread, and in signal handlers."""
        with self.lock:
            return super().stats()

    def misused(self, misuse: Misuse, detail: str) -> None:
        """Count a call that no correct program makes."""
        self.decide(lambda now: self.core.journal.record(MisuseDetected, now, misuse, detail))

    def subscriber_failed(self, name: str, error: BaseException, detached: bool) -> None:
        """Tell of it later: others are still to hear of the event at which it failed."""

        def tell(now: float) -> None:
            self.core.journal.record(SubscriberFailed, now, name, error, detached)

        self.workers.start(partial(self.decide, tell))


def _ring(engine_ref: weakref.ref[Turns[Any]]) -> None:
    """Ring the alarm of an engine that may be gone: an alarm must not keep a pool alive."""
    if (engine := engine_ref()) is not None:
        engine.workers.start(engine.rung)
