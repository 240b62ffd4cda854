"""One thread for all that is to be done later, of all pools of a process."""

from __future__ import annotations

import heapq
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import count

from poolscope.faults import where
from poolscope.threads.spawn import begin

logger = logging.getLogger("poolscope")


class Handle:
    """One thing to be done later."""

    __slots__ = ("_timers", "call", "number", "when")

    def __init__(self, timers: Timers, when: float, call: Callable[[], object]) -> None:
        """Be due at that time."""
        self._timers = timers
        self.when = when
        self.number = next(_numbers)
        self.call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Have it not be done. Safe when it was already."""
        self.call = None
        self._timers.look()


class Timers:
    """Call back in time. Its thread begins with the first timer, and ends when none is left.

    No lock is needed, so it can be used in finalizers: only the thread itself knows the order of
    what is due; others put what they want on its queue.
    """

    def __init__(self) -> None:
        """Have nothing to do."""
        self.inbox: queue.SimpleQueue[Handle | Callable[[], object] | None] = queue.SimpleQueue()
        """New timers; calls that are due at once; None for a look at what is left."""
        self._may_run = [True]
        """Held by the one thread that runs; taking it is one step."""
        self._due: list[tuple[float, int, Handle]] = []

    def call_later(self, delay: float, call: Callable[[], object]) -> Handle:
        """Call in so many seconds. The call must be short, and may not raise."""
        handle = Handle(self, time.monotonic() + delay, call)
        self.inbox.put(handle)
        self._cover()
        return handle

    def look(self) -> None:
        """Have the thread see what is left to do."""
        if not self._may_run:
            self.inbox.put(None)

    def _cover(self) -> None:
        if self._may_run:
            begin(self._run, "poolscope-timers", _no_thread)

    def _run(self) -> None:
        try:
            self._may_run.pop()
        except IndexError:  # another thread was quicker
            return
        while self._serve():
            pass
        self._may_run.append(True)
        if not self.inbox.empty():  # it came after the last look
            self._cover()

    def _serve(self) -> bool:
        """Wait for what comes first, a new timer or one that is due. False: nothing is left."""
        due = self._due
        while due and due[0][2].call is None:
            heapq.heappop(due)
        try:
            if not due:
                handle = self.inbox.get_nowait()
            else:
                wait = due[0][0] - time.monotonic()
                handle = self.inbox.get(timeout=min(max(0.0, wait), threading.TIMEOUT_MAX))
        except queue.Empty:
            if not due:
                return False
            self._ring(heapq.heappop(due)[2])
            return True
        if isinstance(handle, Handle):
            if handle.call is not None:
                heapq.heappush(due, (handle.when, handle.number, handle))
        elif handle is not None:
            self._do(handle)
        return True

    def _ring(self, handle: Handle) -> None:
        if time.monotonic() < handle.when:
            heapq.heappush(self._due, (handle.when, handle.number, handle))
            return
        call, handle.call = handle.call, None
        if call is not None:
            self._do(call)

    def _do(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            logger.error("a timer failed: %s", where(error))


def _no_thread() -> None:
    logger.debug("no thread can be had for timers")  # the interpreter ends


_numbers = count()
_timers: Timers | None = None


def call_later(delay: float, call: Callable[[], object]) -> Handle:
    """Call in so many seconds, on the thread of timers. The call must be short."""
    return _all().call_later(delay, call)


def finalizer(call: Callable[[], object]) -> Callable[[object], object]:
    """Return what has the thread of timers call, if there is one.

    It is for weak references, and not written in Python: interrupts in finalizers are lost.
    """
    return partial(_all().inbox.put, call)


def _all() -> Timers:
    global _timers
    if _timers is None:
        _timers = Timers()  # not at import: gevent may patch queues and threads after that
    return _timers


def _after_fork_in_child() -> None:
    global _timers
    _timers = None  # its thread stayed with the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
