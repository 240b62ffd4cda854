"""What turns: decisions made one at a time, and all that follows from each."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from poolscope.bus import EventBus
from poolscope.core.slot import C, Slot
from poolscope.core.ticket import NOTHING
from poolscope.errors import PoolError
from poolscope.events import Misuse, MisuseDetected, SubscriberFailed
from poolscope.functions import Functions, is_prompt
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.settings import ConnectionPoolSettings
from poolscope.stats import PoolStats
from poolscope.threads.call import Call
from poolscope.threads.guard import Guard
from poolscope.threads.stacks import describe
from poolscope.threads.system import System, ThreadSystem, Waker
from poolscope.threads.telling import Telling
from poolscope.threads.timers import finalizer
from poolscope.threads.turn import Once, Turn

T = TypeVar("T")


class Turns(Telling[C]):
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
        self.at_work: dict[int, bool] = {}
        """Connections, by id, that threads of the pool work on; whether they are to close them."""
        self.resetting: dict[int, None] = {}
        """Leases whose callers have given back, and whose reset is under way."""
        self._watchers: list[Waker] = []
        # What callers leave who go away by an exception. To put it down is one step each, in which
        # nothing can come between; every decision begins by looking here.
        self.forsaken: deque[tuple[Any, BaseException | None, bool]] = deque()
        """What they have begun, for `end_early`."""
        self.deserted: deque[Turn[Any]] = deque()
        """Turns of which they have not done what there was for them to do."""
        self.afterwards: list[Callable[[], object]] = []
        """What the present decision leads to, and must not be done under the lock."""
        super().__init__(settings, functions, bus, clock, metrics)
        self.begin_telling()
        self.when_lost = self.finalizer()
        """Has a lost lease taken back. A finalizer calls it, in any thread, at any time."""
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
            turn.deserted = True
            self.deserted.append(turn)
            if decision is not nothing and (turn.here or not turn.done):
                self.see_to_what_is_left()
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
                self._take_over(turn, now)
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
        if self.bus.raised:
            self.judge(0)

    def _take_over(self, turn: Turn[Any], now: float) -> None:
        """See to what callers left who went away by an exception."""
        self.collect_untold()
        while self.forsaken:
            self.end_early(*self.forsaken.popleft(), now)
        while self.deserted:
            turn.elsewhere += self.deserted.popleft().here  # what was done is not done twice

    def _have_taken(self, turn: Turn[Any]) -> None:
        """Let a worker take a turn, in this context, whatever is raised here meanwhile."""
        context, done, struck = copy_context(), self.system.waker(), None

        def take() -> None:
            try:
                context.run(self.take, turn)
            except BaseException as error:
                turn.error = error
            turn.done = True
            done.set()

        once = Once(take)
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
                inline = self.inline and not turn.deserted
                connects = turn.here if inline and turn.asks else turn.elsewhere
                closes = turn.here if inline else turn.elsewhere
                connects += [self.connecting(slot) for slot in chores.connect]
                closes += [self.closing(slot) for slot in chores.close]
        self.set_alarm(core.due, now)
        if self.afterwards:
            turn.afterwards, self.afterwards = self.afterwards, []
        journal = core.journal
        if journal.outbox:
            turn.records, journal.outbox = journal.outbox, []
        if self._watchers:
            watchers, self._watchers = self._watchers, []
            for watcher in watchers:
                watcher.set()

    def _report_leak(self, slot: Slot[C], lease: int) -> None:
        stack = describe(slot.holder)

        def suspect(now: float) -> None:
            if slot.lease == lease:
                self.core.suspect(slot, stack, now)

        self.decide(suspect)

    def see_to_what_is_left(self) -> None:
        """Decide something, and so see to what is left. If this is interrupted, others will."""
        if self.system.owns(self.lock):  # in a handler or a finalizer, which must not wait
            self.later(nothing)
        else:
            self.decide(nothing)

    def later(self, decision: Callable[[float], object]) -> None:
        """Have something decided as soon as this thread is through with its own decision."""
        job = partial(self.decide, decision)
        self.system.call_later(0.0, partial(self.workers.start, job))

    # Waiting for decisions of others

    def watch(self) -> Waker:
        """Return what is set after the next decision. Call it under the lock."""
        watcher = self.system.waker()
        self._watchers.append(watcher)
        return watcher

    # What decisions lead to

    def finalizer(self) -> Callable[[object], object]:
        """Return what has lost leases taken back, for weak references to them."""
        call = partial(_take_back_lost, weakref.ref(self))
        if isinstance(self.system, ThreadSystem):
            return finalizer(call)
        return lambda _: self.system.call_later(0.0, call)

    def take_back_lost(self) -> None:
        """Take back the connections of leases that nobody has any more."""
        raise NotImplementedError

    def end_early(self, lease: Any, error: BaseException | None, used: bool, now: float) -> None:
        """End what a caller has begun; `used`: the connection was lent to the application."""
        raise NotImplementedError

    def lost(self, loan: object) -> None:
        """Have a lost lease taken back, whose weak reference is `loan`."""
        raise NotImplementedError

    def connecting(self, slot: Slot[C]) -> Call:
        """Return the call that opens a connection for a slot."""
        raise NotImplementedError

    def closing(self, slot: Slot[C]) -> Call:
        """Return the call that closes the connection of a slot."""
        raise NotImplementedError

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


def nothing(_now: float) -> None:
    """Decide nothing: what is owed and due is seen to all the same."""


def _take_back_lost(engine_ref: weakref.ref[Turns[Any]]) -> None:
    if (engine := engine_ref()) is not None:
        engine.workers.start(engine.take_back_lost)
