"""The driver of a pool of threads, whole: its beginning and its end. Not for applications."""

from __future__ import annotations

import math
from asyncio import CancelledError
from collections.abc import Callable
from functools import partial

from poolscope import registry
from poolscope.core.slot import IN_USE, C
from poolscope.engine import Readiness
from poolscope.events import CloseReason
from poolscope.threads.call import Call
from poolscope.threads.lending import Lending
from poolscope.threads.turn import Once


class Driver(Lending[C]):
    """Opens and closes the pool, each once at a time, whoever asks and whoever gives up."""

    _ending: Once | None = None
    """The end that is under way; None while none is."""

    def leave_parent(self) -> None:
        """Forget what is the parent's; if that was closing, nobody here is."""
        self._ending = None
        super().leave_parent()

    def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition holds after some decision; False when time is up."""
        deadline = self.clock() + timeout
        while True:
            with self.lock:
                if condition():
                    return True
                watcher = self.watch()
            left = deadline - self.clock()
            if left <= 0:
                return False
            watcher.wait(left)

    def until_ready(self, timeout: float, *, give_up: bool) -> None:
        """Wait until `min_size` connections are open.

        Raises:
            PoolTimeoutError: time is up; the last connect error is chained.
            ConnectFailedError: with `give_up`, when `retry_limit` is exhausted.
            PoolClosedError: the pool closed meanwhile.
        """
        readiness = Readiness(self, give_up=give_up)
        self.until(readiness.is_settled, timeout)
        readiness.judge()

    def wait_ready(self, timeout: float) -> None:
        """Open the pool if it is new, and wait until it is ready."""
        if self.warns and self.system.runs_loop():
            self.warn_of_loop()
        self.begin()
        self.until_ready(timeout, give_up=False)

    def initialize(self) -> None:
        """Open the pool and wait until it is ready; leave nothing behind if that fails."""
        if self.warns and self.system.runs_loop():
            self.warn_of_loop()
        self.begin()
        try:
            self.until_ready(self.timeout, give_up=True)
        except BaseException:
            if self.core.state == "open":
                self._end_once(self._close_to_begin_again)
            raise

    def _close_to_begin_again(self) -> None:
        self._close(0.0)
        with self.lock:
            self.renew()
            self.renew_threads()

    def close(self, timeout: float) -> None:
        """Close the pool, once; whoever calls meanwhile waits for the same end."""
        if self._ending is not None or self.core.state == "open":
            self._end_once(partial(self._close, timeout))
        if self.core.state in ("new", "closing"):
            self._finish()
        registry.release(self.name, self)

    def _end_once(self, end: Callable[[], None]) -> None:
        """Have the pool end on a thread of its own: who waits for it may be interrupted."""

        def run() -> None:
            try:
                end()
            finally:
                self._ending = None
                self.decide(lambda _: None)  # which wakes those who wait for it

        with self.lock:
            ending = self._ending
            if ending is None:
                self._ending = ending = Once(run)
        self.workers.start(ending)  # again, in case the first was interrupted before
        self.until(lambda: self._ending is not ending, math.inf)

    def _close(self, timeout: float) -> None:
        """Close within `timeout`: first the leases get their time, then what is left of it serves
        for goodbyes, and for connects, which no thread can stop. Then connections are dropped.
        """
        core = self.core
        deadline = self.clock() + timeout
        self.decide(core.close)
        self.until(lambda: not core.places.in_use, timeout)
        self.decide(self._take_back)
        self.until(self._empty, deadline - self.clock())
        self.decide(self._drop_what_is_left)
        self._finish()

    def _take_back(self, now: float) -> None:
        self.held = frozenset(s for s in self.core.places.slots if s.state is IN_USE)
        self.core.terminate(CloseReason.POOL_CLOSED, now)
        for call in list(self.calls):
            call.end(None, RuntimeError(f"pool {self.name!r} was closed"), now)

    def _drop_what_is_left(self, now: float) -> None:
        for slot in self.core.connecting:
            if isinstance(call := slot.holder, Call):
                call.end(None, CancelledError(), now)
        for slot in self.core.closing:
            if isinstance(call := slot.holder, Call):
                call.end(None, TimeoutError("it did not close in the time given"), now)

    def _empty(self) -> bool:
        return len(self.core.places.vacant) == len(self.core.places.slots)

    def _finish(self) -> None:
        self.decide(self.core.finish)
        self.cancel_alarm()
        self.guard.close()
        self.workers.close()
