"""Time limits for functions that callers run in their own threads, where nobody can stop them."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from poolscope.threads.system import System, Timer, Workers

Watch = tuple[float, Callable[[Any], object], Any]
"""Until when a function may run; how it is interrupted; the connection it works on."""


class Guard:
    """Interrupt what runs too long. Beginning and ending costs two steps in a dict.

    One timer serves all: it is set for the first to fall due, and then for the next.
    """

    def __init__(self, system: System, workers: Workers, clock: Callable[[], float]) -> None:
        """Guard nothing yet."""
        self._system = system
        self._workers = workers
        self._clock = clock
        self._watches: dict[int, Watch] = {}
        self._due = math.inf
        self._timer: Timer | None = None

    def begin(
        self, lease: int, limit: float, interrupt: Callable[[Any], object], connection: Any
    ) -> None:
        """Watch what a caller is about to do on a lease, for `limit` seconds."""
        due = self._clock() + limit
        self._watches[lease] = (due, interrupt, connection)
        if due < self._due:
            self._due = due
            self._set(limit)

    def end(self, lease: int) -> bool:
        """Watch it no more. False: it was interrupted, whatever it has returned."""
        return self._watches.pop(lease, None) is not None

    def _set(self, delay: float) -> None:
        if delay < math.inf:
            ring = partial(self._workers.start, partial(_ring, weakref.ref(self)))
            self.close()
            self._timer = self._system.call_later(max(0.0, delay), ring)

    def close(self) -> None:
        """Let nothing fall due any more."""
        if self._timer is not None:
            self._timer.cancel()

    def rung(self) -> None:
        """Interrupt what is overdue, and see when the next falls due."""
        now, self._due = self._clock(), math.inf
        for lease, (due, interrupt, connection) in self._watches.copy().items():
            if due > now:
                self._due = min(self._due, due)
            elif self._watches.pop(lease, None) is not None:  # else it has just ended
                with suppress(Exception):  # the function ends with an error of its own, or late
                    interrupt(connection)
        self._set(self._due - now)


def _ring(guard_ref: weakref.ref[Guard]) -> None:
    if (guard := guard_ref()) is not None:
        guard.rung()
