"""A pool, its callers, and what is known of both."""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from poolscope.instrument import ForeignPool, observe
from tests.instrument.truth.books import Books
from tests.instrument.truth.callers import STILL, Caller
from tests.instrument.truth.stages import Loop, Stage, Threads
from tests.instrument.truth.subjects import SIZE, Subject, act
from tests.instrument.truth.views import View

CALLERS = SIZE + 4


class Load:
    """Opens a pool, and lets callers at it."""

    def __init__(self, subject: Subject, view: View, rng: random.Random) -> None:
        self.subject = subject
        self.view = view
        self.books = Books(subject.reconnects)
        self.stage: Stage = Loop() if subject.in_loop else Threads(CALLERS)
        self.goes_on = True
        self.halted = False
        self.tide = True
        """Whether many want to use the pool, or few."""
        self.closed = True
        self.cut: set[int] = set()
        """Numbers of connections that callers broke, or may have broken."""
        self.kept: set[int] = set()
        """Numbers of connections that callers took for themselves."""
        self.callers = [Caller(self, random.Random(rng.random())) for _ in range(CALLERS)]
        self.lives: list[Future[None]] = []
        self.source: ForeignPool

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Open the pool and let callers at it; at the end all have gone home."""
        self.stage.do(self._open())
        self.lives = [self.stage.begin(each.live()) for each in self.callers]
        try:
            yield
        finally:
            self.goes_on = self.halted = False
            for life in self.lives:
                life.result(30)

    async def _open(self) -> None:
        # Both ways of being observed: all are, and this one is found by asking for it.
        await act(self.subject.open())
        self.closed = False
        self.source = observe(self.subject.watch())
        self.books.about(self.source)

    def disturb(self) -> bool:
        """Do to the pool what its owner may do; tell whether that cuts what is lent."""
        return bool(self.stage.do(self._disturb()))

    async def _disturb(self) -> Any:
        return await act(self.subject.disturb())

    def close(self) -> None:
        """Close the pool, if it is open."""
        if not self.closed:
            self.closed = True
            self.stage.do(self._close())

    async def _close(self) -> None:
        await act(self.subject.close())

    @property
    def outcomes(self) -> Counter[str]:
        return sum((caller.outcomes for caller in self.callers), Counter())

    @property
    def rests(self) -> bool:
        if self.goes_on and any(life.done() for life in self.lives):
            raise AssertionError("a caller has died")
        return STILL.issuperset(caller.place for caller in self.callers)
