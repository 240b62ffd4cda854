"""Threads that do what may take long for one pool: connect, close, check, publish."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from poolscope.faults import where
from poolscope.threads.spawn import begin
from poolscope.threads.waker import ThreadWaker

logger = logging.getLogger("poolscope")

Job = Callable[[], object]

LINGER = 5.0
"""Seconds a thread waits for more work before it ends."""


class ThreadWorkers:
    """Start a thread when there is a job and nobody free to do it. Holds no pool alive.

    Each step on `_jobs` and `_free` is one that no other thread can see half done, so that no lock
    is needed. A job is put down before somebody is called for it, and whoever lies down to wait
    looks once more: so none is overlooked.
    """

    def __init__(self, name: str) -> None:
        """Work for the pool of this name, with no thread yet."""
        self._name = name
        self._jobs: deque[Job] = deque()
        self._free: list[ThreadWaker] = []
        """What the threads that have nothing to do are waiting for."""
        self._resting: dict[ThreadWaker, None] = {}
        """The same, with those which somebody was about to set who was interrupted."""
        self._linger = LINGER

    def start(self, job: Job) -> None:
        """Have a job done, at once even if all threads are at work."""
        self._jobs.append(job)
        try:
            self._free.pop().set()
        except IndexError:
            self._hire()

    def close(self) -> None:
        """Let no thread linger when its work is done."""
        self._linger = 0.0
        for waker in list(self._resting):
            waker.set()

    def _hire(self) -> None:
        begin(self._work, f"poolscope-{self._name}", self._do_all)

    def _work(self) -> None:
        self._do_all()
        while self._wait():
            self._do_all()

    def _do_all(self) -> None:
        with suppress(IndexError):
            while True:
                self._do(self._jobs.popleft())

    def _wait(self) -> bool:
        """Wait until there is something to do; False when that took too long."""
        waker = ThreadWaker()
        self._resting[waker] = None
        self._free.append(waker)
        called = not self._jobs and waker.wait(self._linger)
        del self._resting[waker]
        try:
            self._free.remove(waker)
        except ValueError:  # called, perhaps in this very moment
            return True
        return called or bool(self._jobs)

    def _do(self, job: Job) -> None:
        """Do a job. What it raises is nobody's: it is logged."""
        try:
            job()
        except BaseException as error:
            logger.error("a thread of pool %r failed: %s", self._name, where(error))
