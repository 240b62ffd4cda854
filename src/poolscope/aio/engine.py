"""What turns: the core's chores done as tasks, its events published, its alarms kept."""

from __future__ import annotations

import logging
import math
import os
import random
import warnings
import weakref
from asyncio import (
    AbstractEventLoop,
    CancelledError,
    Future,
    Task,
    TimerHandle,
    current_task,
    get_running_loop,
)
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from sys import is_finalizing
from threading import get_ident
from typing import Any, Generic

from poolscope import registry
from poolscope.aio.connector import Connector, terminate
from poolscope.aio.jobs import Jobs
from poolscope.aio.stacks import describe
from poolscope.bus import EventBus
from poolscope.core.journal import Journal
from poolscope.core.pool_core import PoolCore
from poolscope.core.slot import C, Slot
from poolscope.core.ticket import NOTHING, Chores
from poolscope.errors import WrongLoopError
from poolscope.events import CloseFailed, CloseReason, Misuse, MisuseDetected, SubscriberFailed
from poolscope.settings import ConnectionPoolSettings
from poolscope.stats import PoolStats

logger = logging.getLogger("poolscope")

_random = random.Random()
"""For jitter. One for all pools: its state takes 3 KB."""


class Engine(Generic[C]):
    """Stands between one core and one event loop at a time."""

    def __init__(
        self,
        settings: ConnectionPoolSettings,
        connector: Connector[C],
        bus: EventBus,
        clock: Callable[[], float],
    ) -> None:
        """Make an engine that is not yet bound to a loop."""
        self.settings = settings.copy()
        self.connector = connector
        self.bus = bus
        self.hooks = bus.hooks
        self.clock = clock
        self.timeout = self.settings.acquire_timeout
        self.loop: AbstractEventLoop | None = None
        self.thread = 0
        """The thread the loop runs in; 0 while bound to none."""
        self.name = registry.claim(self.settings.name, self)
        self._halted = False
        self._forked = False
        self._alarm: TimerHandle | None = None
        self._alarm_at = math.inf
        self._publishing = False
        self._watchers: list[Future[None]] = []
        self.jobs: Jobs
        self.core: PoolCore[C]
        self.renew()
        myself = weakref.ref(self)
        bus.on_failure = lambda *failure: (engine := myself()) and engine._subscriber_failed(*failure)
        _engines.add(self)

    def renew(self) -> None:
        """Begin with a new core; its events go on counting where the old one's ended."""
        checks = self.settings.validate_on_acquire and self.connector.validate_func is not None
        journal = self.core.journal if hasattr(self, "core") else Journal(self.name, self.hooks)
        self.core = PoolCore(self.name, self.settings, journal, _random, checks=checks)
        self.loop = None
        self.thread = 0

    # Where it runs

    def bind(self) -> Task[Any] | None:
        """Make sure that the pool runs on the loop running here; return the current task.

        Raises:
            WrongLoopError: no loop runs here, or the pool belongs to another one.
        """
        try:
            loop = get_running_loop()
        except RuntimeError:
            raise WrongLoopError(
                f"pool {self.name!r} needs a running asyncio event loop, and none runs in this "
                "thread. Await its methods from a coroutine; use SyncConnectionPool in threads."
            ) from None
        if self._forked:
            self._leave_parent()
        elif self.loop is not None and self.loop is not loop and self.loop.is_closed():
            self._leave_loop()
        if self.core.state in ("closing", "closed"):
            return current_task()
        if self.loop is None:
            self._settle(loop)
        elif self.loop is not loop:
            self._complain(loop)
        self.thread = get_ident()
        return current_task()

    def _settle(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.jobs = Jobs(loop, copy_context())
        self._halted = False
        self._alarm, self._alarm_at = None, math.inf
        if self.core.state == "new":
            self.core.open(self.clock())
        self.pump()

    def _complain(self, loop: AbstractEventLoop) -> None:
        detail = f"bound to {self.loop!r}, used from {loop!r}"
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.misused, Misuse.WRONG_LOOP, detail)
        raise WrongLoopError(
            f"pool {self.name!r} is {detail}. A pool serves the one loop it was opened on: make "
            "one pool per loop, or send the work to that loop (asyncio.run_coroutine_threadsafe)."
        )

    def _leave_loop(self) -> None:
        """Let go of what a closed loop has left behind."""
        for slot in self.core.places.slots:
            if slot.connection is not None:
                terminate(slot.connection)
        error = RuntimeError("the event loop of this pool was closed")
        self.core.abandon(CloseReason.BROKEN, error, self.clock())
        self.loop = None
        self.publish()

    def _leave_parent(self) -> None:
        """Begin anew in a child process, without a word on the parent's connections."""
        self._forked = False
        _inherited.extend(slot.connection for slot in self.core.places.slots)
        error = RuntimeError("this process was forked from the one that used the pool")
        self.core.abandon(CloseReason.FORKED, error, self.clock())
        self.loop = None
        self.publish()
        self.reset_counts()

    def reset_counts(self) -> None:
        """Set the counts of this process to zero."""

    # What it does

    def pump(self, now: float | None = None) -> None:
        """Do what is owed after a decision: chores, events, alarm, and those who watch."""
        core = self.core
        if now is None:
            now = self.clock()
        if now >= core.due:
            core.tick(now)
        chores = core.chores(now)
        if chores is not NOTHING:
            self._do(chores, now)
        if core.due < self._alarm_at:
            self._set_alarm(core.due)
        if core.journal.outbox:
            self.publish()
        if self._watchers:
            self._wake_watchers()

    def _do(self, chores: Chores[C], now: float) -> None:
        for slot in chores.inspect:
            self.core.suspect(slot, describe(slot.holder), now)
        if self._halted or self.loop is None or self.loop.is_closed():
            self._clear_up(chores)
            return
        core, connector, jobs, settings = self.core, self.connector, self.jobs, self.settings
        for slot in chores.connect:
            slot.holder = opening = jobs.start(connector.open(jobs, settings))
            ended = partial(self._connect_ended, core, slot)
            opening.add_done_callback(ended, context=jobs.context)
        for slot in chores.close:
            assert slot.connection is not None
            if jobs.hurried and terminate(slot.connection):
                core.disconnected(slot, now)
                continue
            slot.holder = closing = jobs.start(connector.close(slot.connection, jobs, settings))
            done = partial(self._close_ended, core, slot)
            closing.add_done_callback(done, context=jobs.context)

    def _wake_watchers(self) -> None:
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)

    def publish(self) -> None:
        """Publish what the core has written down, in order even if a subscriber calls the pool."""
        if self._publishing:
            return
        self._publishing = True
        hooks = self.hooks
        try:
            while records := self.core.journal.take():
                for kind, fields in records:
                    for hook in hooks[kind]:
                        try:
                            hook(*fields)
                        except BaseException as error:  # a subscriber must not harm the pool
                            self.bus.report(hook, kind, error)
        finally:
            self._publishing = False

    def _set_alarm(self, due: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._halted or self.loop is None or self.loop.is_closed():
            return
        delay = max(0.0, due - self.clock())
        self._alarm_at = due
        self._alarm = self.loop.call_later(delay, _ring, weakref.ref(self), context=self.jobs.context)

    def _rung(self) -> None:
        self._alarm_at = math.inf
        try:
            self.pump()
        except Exception:
            logger.exception("upkeep of pool %r failed; it goes on in a second", self.name)
            self._set_alarm(self.clock() + 1.0)

    def cancel_alarm(self) -> None:
        """Ring no more."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = math.inf

    # A task can be cancelled before its first step, and then runs none of its code, not even a
    # `finally`. So how a task ended is noted by callbacks, which always run.

    def _connect_ended(self, core: PoolCore[C], slot: Slot[C], task: Task[C]) -> None:
        now = self.clock()
        if task.cancelled():
            core.connect_failed(slot, CancelledError(), now, abandoned=True)
            self.halt()
        elif error := task.exception():
            core.connect_failed(slot, error, now)
        elif core.places.find(connection := task.result()) is not None:
            again = TypeError("factory returned a connection that is already in the pool")
            core.connect_failed(slot, again, now)
        else:
            core.connected(slot, connection, now)
        self.pump(now)

    def _close_ended(
        self, core: PoolCore[C], slot: Slot[C], task: Task[BaseException | None]
    ) -> None:
        now = self.clock()
        name, connection = slot.connection_id, slot.connection
        core.disconnected(slot, now)
        if task.cancelled():
            terminate(connection)
            self.halt()
        elif error := task.result():
            core.journal.record(CloseFailed, now, name, error)
        self.pump(now)

    def halt(self) -> None:
        """Stop serving if a task of the pool was cancelled by somebody else: the loop is ending.

        From now on nothing is started, and connections are dropped without goodbye.
        """
        if self.core.state == "open":
            self._halted = True
            self.core.close(self.clock())
            self.pump()

    def _clear_up(self, chores: Chores[C]) -> None:
        error = RuntimeError("the event loop is ending")
        for slot in chores.connect:
            self.core.connect_failed(slot, error, self.clock(), abandoned=True)
        for slot in chores.close:
            terminate(slot.connection)
            self.core.disconnected(slot, self.clock())

    # What it tells

    def stats(self) -> PoolStats:
        """Return the levels at this moment. Safe from any thread."""
        return self.core.stats(self.clock())

    def misused(self, misuse: Misuse, detail: str) -> None:
        """Count a call that no correct program makes."""
        self.core.journal.record(MisuseDetected, self.clock(), misuse, detail)
        self.publish()

    def _subscriber_failed(self, *failure: object) -> None:
        """Tell of it later: others are still to hear of the event it failed at."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon(self._tell_failure, *failure, context=self.jobs.context)

    def _tell_failure(self, *failure: object) -> None:
        self.core.journal.record(SubscriberFailed, self.clock(), *failure)
        self.publish()

    def __del__(self) -> None:
        """Drop what was left open, and say so, unless the interpreter is ending anyway."""
        if is_finalizing() or not hasattr(self, "core") or self._forked:
            return
        left = [s.connection for s in self.core.places.slots if s.connection is not None]
        if not left or self.core.state == "closed":
            return
        for connection in left:
            terminate(connection)
        warnings.warn(
            f"pool {self.name!r} was lost with {len(left)} open connections; close it, or use it "
            "as `async with ConnectionPool(...)`",
            ResourceWarning,
            stacklevel=2,
        )


def _ring(engine_ref: weakref.ref[Engine[Any]]) -> None:
    """Ring the alarm of an engine that may be gone: an alarm must not keep a pool alive."""
    if (engine := engine_ref()) is not None:
        engine._rung()


_engines: weakref.WeakSet[Engine[Any]] = weakref.WeakSet()
_inherited: list[object] = []
"""Connections of a parent process. Closing them here would speak on the parent's sockets."""


def _after_fork_in_child() -> None:
    for engine in tuple(_engines):
        engine._forked = True
        engine.thread = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
