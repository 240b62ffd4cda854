"""One decision, from the thread that wants it made to the work it leads to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from poolscope.core.journal import Record
from poolscope.core.slot import Slot
from poolscope.threads.call import Call

T = TypeVar("T")


class Turn(Generic[T]):
    """One decision, and what is to be done because of it."""

    __slots__ = (
        "afterwards", "asks", "decision", "done", "elsewhere", "error", "here", "inspect",
        "records", "result",
    )  # fmt: skip

    def __init__(self, decision: Callable[[float], T], asks: bool) -> None:
        """Prepare a decision; it is given the time."""
        self.decision = decision
        self.asks = asks
        """Whether who wants it made wants a connection."""
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
