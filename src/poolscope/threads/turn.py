"""One decision, from the thread that wants it made to the work it leads to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from poolscope.core.journal import Record
from poolscope.core.slot import Slot
from poolscope.threads.call import Call

T = TypeVar("T")


class Once:
    """A job that is done once, however often it is started."""

    __slots__ = ("_jobs",)

    def __init__(self, job: Callable[[], object]) -> None:
        """Prepare the job."""
        self._jobs = [job]

    def __call__(self) -> None:
        """Do it, unless it was done, or is being done."""
        try:
            job = self._jobs.pop()
        except IndexError:
            return
        job()


class Turn(Generic[T]):
    """One decision, and what is to be done because of it."""

    __slots__ = (
        "afterwards", "asks", "decision", "deserted", "done", "elsewhere", "error", "here",
        "inspect", "records", "result",
    )  # fmt: skip

    def __init__(self, decision: Callable[[float], T], asks: bool) -> None:
        """Prepare a decision; it is given the time."""
        self.decision = decision
        self.asks = asks
        """Whether who wants it made wants a connection."""
        self.deserted = False
        """Who wanted it made went away by an exception, and does nothing more for it."""
        self.done = False
        self.result: T
        self.error: BaseException | None = None
        self.here: list[Call] = []
        """Calls for the thread that wants it made."""
        self.elsewhere: list[Call] = []
        """Calls for threads of the pool."""
        self.afterwards: list[Callable[[], object]] = []
        self.inspect: list[tuple[Slot[Any], int]] = []
        self.records: list[Record] = []
