"""What turns: the core's chores done as tasks, its events published, its alarms kept."""

from __future__ import annotations

import logging
import math
import weakref
from asyncio import (
    AbstractEventLoop,
    CancelledError,
    Future,
    Task,
    TimerHandle,
)
from collections.abc import Callable
from functools import partial
from typing import Any

from poolscope.aio.connector import Connector
from poolscope.aio.jobs import Jobs
from poolscope.aio.stacks import describe
from poolscope.bus import EventBus
from poolscope.core.pool_core import PoolCore
from poolscope.core.slot import C, Slot
from poolscope.core.ticket import NOTHING, Chores
from poolscope.engine import BaseEngine
from poolscope.events import CloseFailed, Misuse, MisuseDetected, SubscriberFailed
from poolscope.faults import where
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.settings import ConnectionPoolSettings

logger = logging.getLogger("poolscope")

SHORTEST_DELAY = 1e-6
"""Seconds. An alarm that rings too early by a rounding error is set again, and must not spin."""


class Engine(BaseEngine[C]):
    """Stands between one core and one event loop at a time."""

    kind = "async with ConnectionPool(...)"

    def __init__(
        self,
        settings: ConnectionPoolSettings,
        connector: Connector[C],
        bus: EventBus,
        clock: Callable[[], float],
        metrics: ConnectionPoolMetrics,
    ) -> None:
        """Make an engine that is not yet bound to a loop."""
        self.connector = connector
        self.loop: AbstractEventLoop | None = None
        self.thread = 0
        """The thread the loop runs in; 0 while bound to none."""
        self._halted = False
        self._alarm: TimerHandle | None = None
        self._alarm_at = math.inf
        self._publishing = False
        self._watchers: list[Future[None]] = []
        self._resetting: dict[int, None] = {}
        """Leases whose callers have given back, and whose reset is under way."""
        self.jobs: Jobs
        super().__init__(settings, connector, bus, clock, metrics)

    def renew(self) -> None:
        """Begin with a new core, bound to no loop."""
        super().renew()
        self.plain_check = self.connector.plain_check if self.checks else None
        self.core.checks_idle = self.checks and self.plain_check is None
        self.loop = None
        self.thread = 0

    # What it does

    def pump(self, now: float | None = None) -> None:
        """Do what is owed after a decision: chores, events, alarm, and those who watch."""
        core = self.core
        if now is None:
            now = self.clock()
        if now >= core.due:
            core.tick(now)
        if core.vacant or core.owed is not NOTHING:
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
            if jobs.hurried and self.terminate(slot.connection):
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
            journal = self.core.journal
            while records := journal.outbox:
                journal.outbox = []
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
        delay = due - self.clock()
        if delay > 0:
            delay = max(delay, SHORTEST_DELAY)
        self._alarm_at = due
        context = self.jobs.context
        self._alarm = self.loop.call_later(delay, _ring, weakref.ref(self), context=context)

    def _rung(self) -> None:
        self._alarm_at = math.inf
        try:
            self.pump()
        except Exception as error:
            text = "upkeep of pool %r failed; it goes on in a second: %s"
            logger.error(text, self.name, where(error))
            self._set_alarm(self.clock() + 1.0)

    def cancel_alarm(self) -> None:
        """Ring no more."""
        if self._alarm is not None:
            self._alarm.cancel()
        self.forget_alarm()

    def forget_alarm(self) -> None:
        """Have no alarm set: it is cancelled, or of a loop that is gone."""
        self._alarm, self._alarm_at = None, math.inf

    # A task can be cancelled before its first step, and then runs none of its code, not even a
    # `finally`. So how a task ended is noted by callbacks, which always run.

    def _connect_ended(self, core: PoolCore[C], slot: Slot[C], task: Task[C]) -> None:
        if slot.holder is not task:
            return  # of a parent process, or of a loop that was left
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
        if slot.holder is not task:
            return
        now = self.clock()
        name, connection = slot.connection_id, slot.connection
        core.disconnected(slot, now)
        if task.cancelled():
            self.terminate(connection)
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
            self.terminate(slot.connection)
            self.core.disconnected(slot, self.clock())

    # What it tells

    def misused(self, misuse: Misuse, detail: str) -> None:
        """Count a call that no correct program makes."""
        self.core.journal.record(MisuseDetected, self.clock(), misuse, detail)
        self.publish()

    def subscriber_failed(self, name: str, error: BaseException, detached: bool) -> None:
        """Tell of it later: others are still to hear of the event at which it failed."""

        def tell() -> None:
            self.core.journal.record(SubscriberFailed, self.clock(), name, error, detached)
            self.publish()

        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon(tell, context=self.jobs.context)


def _ring(engine_ref: weakref.ref[Engine[Any]]) -> None:
    """Ring the alarm of an engine that may be gone: an alarm must not keep a pool alive."""
    if (engine := engine_ref()) is not None:
        engine._rung()
