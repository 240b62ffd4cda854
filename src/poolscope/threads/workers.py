"""Threads that do what may take long for one pool: connect, close, check, publish."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress

from poolscope.faults import where

logger = logging.getLogger("poolscope")

Job = Callable[[], object]

LINGER = 5.0
"""Seconds a thread waits for more work before it ends."""


class ThreadWorkers:
    """Start a thread when there is a job and nobody free to do it. Holds no pool alive."""

    def __init__(self, name: str, jobs: queue.SimpleQueue[Job | None]) -> None:
        """Work for the pool of this name, with no thread yet."""
        self._name = name
        self._jobs = jobs  # its put() may be called in finalizers and signal handlers
        self._free: dict[object, None] = {}
        """The threads that are taking a job, or are about to."""
        self._linger = LINGER

    def start(self, job: Job) -> None:
        """Have a job done, at once even if all threads are at work."""
        self._jobs.put(job)
        self.cover()

    def cover(self) -> None:
        """See that each job that waits has a free thread. May be called at any time."""
        while self._jobs.qsize() > len(self._free):
            me = object()
            self._free[me] = None
            name = f"poolscope-{self._name}"
            try:
                threading.Thread(target=self._work, args=(me,), name=name, daemon=True).start()
            except RuntimeError:  # no thread can be had: the interpreter ends, or the limit is met
                self._free.pop(me, None)
                self._do_next()
            except BaseException:  # a signal handler raised; nobody knows whether there is one
                self._free.pop(me, None)
                raise

    def close(self) -> None:
        """Let no thread linger when its work is done."""
        self._linger = 0.0
        self._pass_on()

    def _pass_on(self) -> None:
        """Let one of the threads that wait for jobs end."""
        if self._free and not self._linger:
            self._jobs.put(None)

    def _do_next(self) -> None:
        with suppress(queue.Empty):
            self._do(self._jobs.get_nowait())

    def _work(self, me: object) -> None:
        while (job := self._take(me)) is not None:
            self._do(job)
            del job  # it knows its pool, and waiting for the next may take long
            self._free[me] = None

    def _take(self, me: object) -> Job | None:
        """Wait for a job; None when the thread is to end."""
        try:
            job = self._jobs.get(timeout=self._linger) if self._linger else self._jobs.get_nowait()
        except queue.Empty:
            job = None
        self._free.pop(me, None)
        if job is None:
            self._pass_on()
        self.cover()  # somebody may have counted on this thread for the next one
        return job

    def _do(self, job: Job | None) -> None:
        """Do a job. What it raises is nobody's: it is logged."""
        try:
            if job is not None:
                job()
        except BaseException as error:
            logger.error("a thread of pool %r failed: %s", self._name, where(error))
