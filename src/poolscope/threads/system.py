"""What a pool of threads needs of the system: to wait, to wake, to have work done elsewhere, later.

Behind this protocol tests put a world in virtual time, where every switch is on purpose.
"""

from __future__ import annotations

import threading
from asyncio import _get_running_loop
from collections.abc import Callable
from typing import Any, Protocol

from poolscope.faults import runs_handlers
from poolscope.threads.timers import call_later
from poolscope.threads.waker import ThreadWaker
from poolscope.threads.workers import ThreadWorkers

Job = Callable[[], object]


class Lock(Protocol):
    """A lock its owner may take again."""

    def __enter__(self) -> Any: ...
    def __exit__(self, kind: Any, error: Any, traceback: Any, /) -> Any: ...
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock; False when that took too long."""

    def release(self) -> None:
        """Let go of it. Raises RuntimeError if this thread does not hold it."""


class Waker(Protocol):
    """What one thread waits for and another sets, once."""

    def wait(self, timeout: float) -> bool:
        """Wait until it is set; False when that took too long."""

    def set(self) -> None:
        """Let the thread that waits go on. May be called again."""


class Timer(Protocol):
    """Something that will be done later."""

    def cancel(self) -> None:
        """Have it not be done. Safe when it was already."""


class Workers(Protocol):
    """Threads that work for one pool, as many as there is work at a time."""

    def start(self, job: Job) -> None:
        """Have a job done, in the context of no request. May be called in a finalizer."""

    def close(self) -> None:
        """Let no thread linger when its work is done."""


class System(Protocol):
    """Where the threads of a pool come from."""

    def lock(self) -> Lock:
        """Return a lock its owner may take again."""

    def owns(self, lock: Any) -> bool:
        """Tell whether the calling thread holds a lock."""

    def waker(self) -> Waker:
        """Return a waker that is not set."""

    def workers(self, name: str) -> Workers:
        """Return workers, none of them begun yet."""

    def call_later(self, delay: float, call: Job) -> Timer:
        """Call in so many seconds, on a thread that must not be kept."""

    def is_struck(self) -> bool:
        """Tell whether signal handlers run in this thread, and can raise between any two steps."""

    def runs_loop(self) -> bool:
        """Tell whether an event loop runs in this thread, which waiting would stop."""


def was_not_acquired(error: RuntimeError) -> None:
    """Raise what came out of a `release` again, unless it says that the lock is not held.

    It is not held if an interrupt came while it was waited for, and that is on its way out then.
    Else a signal handler has raised.
    """
    if error.__context__ is None:
        raise error


class ThreadSystem:
    """The threads of the interpreter; looked up late, for those who patch them (gevent)."""

    def lock(self) -> Lock:
        """Return a lock its owner may take again."""
        return threading.RLock()

    def owns(self, lock: Any) -> bool:
        """Tell whether the calling thread holds a lock, as `threading.Condition` asks it."""
        return bool(lock._is_owned())

    def waker(self) -> ThreadWaker:
        """Return a waker that is not set."""
        return ThreadWaker()

    def workers(self, name: str) -> ThreadWorkers:
        """Return workers, none of them begun yet."""
        return ThreadWorkers(name)

    def call_later(self, delay: float, call: Job) -> Timer:
        """Call in so many seconds, on a thread that must not be kept."""
        return call_later(delay, call)

    def is_struck(self) -> bool:
        """Tell whether signal handlers run in this thread, and can raise between any two steps."""
        return runs_handlers()

    def runs_loop(self) -> bool:
        """Tell whether an event loop runs in this thread, which waiting would stop."""
        return _get_running_loop() is not None


SYSTEM = ThreadSystem()
