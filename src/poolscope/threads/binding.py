"""Where a pool of threads runs: in one process; and what becomes of it in a child of that."""

from __future__ import annotations

import os
import threading
from typing import Any

from poolscope import registry
from poolscope.core import verdicts
from poolscope.core.slot import C
from poolscope.threads.engine import Engine
from poolscope.threads.guard import Guard


class Binding(Engine[C]):
    """Begins to serve when it is first used, and leaves parents behind."""

    _beginning: threading.RLock
    """Held by the thread of a child process that begins; others must not count before that."""

    def begin(self) -> None:
        """Open the pool if it was never used, and in a child process begin anew."""
        if self._forked:
            with self._beginning:
                if self._forked:
                    self._begin_in_child()
        if self.core.state == "new":
            self.decide(self._open)

    def _open(self, now: float) -> None:
        if self.core.state == "new":
            self.core.open(now)

    def require_open(self) -> None:
        """Begin, and refuse what makes no sense on a closed pool."""
        self.begin()
        if self.core.state != "open":
            raise verdicts.closed(self.stats())

    def renew_threads(self) -> None:
        """Have threads that linger; those of a pool that was closed do not."""
        self.workers = self.system.workers(self.name)
        self.guard = Guard(self.system, self.workers, self.clock)
        self.when_lost = self.finalizer()

    def leave_parent(self) -> None:
        """Forget what is the parent's: connections, threads, and a lock one of them may hold.

        What is to be told of it is published when the child uses the pool: subscribers may hold
        locks that nobody in this process will release.
        """
        self.lock = self.system.lock()
        self.deciding = False
        self.renew_threads()
        self.calls.clear()
        self.resetting.clear()
        self._watchers.clear()
        self.forsaken.clear()
        self.deserted.clear()
        self.begin_telling()
        self.forget_alarm()
        self._beginning = threading.RLock()
        self.abandon_parent()
        self.count_from_zero()

    def _begin_in_child(self) -> None:
        journal = self.core.journal
        records, journal.outbox = journal.outbox, []
        self.publish(records)
        self.count_from_zero()
        self._forked = False


def _live() -> list[Binding[Any]]:
    return [source for source in registry.live() if isinstance(source, Binding)]


_held: list[Any] = []


def _before_fork() -> None:
    """Let no decision be half made in the child. None takes long, unless its thread is stopped."""
    for binding in _live():
        lock: Any = binding.lock
        if lock.acquire(timeout=1.0):
            _held.append(lock)


def _after_fork_in_parent() -> None:
    while _held:
        _held.pop().release()


def _after_fork_in_child() -> None:
    _held.clear()
    for binding in _live():
        binding.leave_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
