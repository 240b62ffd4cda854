"""An event loop in virtual time: nothing waits, the clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class DeadlockError(AssertionError):
    """Nothing is ready and no timer is set: every task waits for ever."""


class _JumpingSelector(selectors.DefaultSelector):
    """Looks for I/O without waiting; lets the clock jump where others would wait."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise DeadlockError("nothing is ready and no timer is set")
        if not ready and timeout:
            self.loop.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose `time()` is `now`, moved on only by waiting. For tests without real I/O."""

    def __init__(self) -> None:
        """Start at time 0."""
        selector = _JumpingSelector()
        selector.loop = self
        self.now = 0.0
        super().__init__(selector)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self.now

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """Call back at that time, and never a rounding error before it.

        asyncio is content when a timer rings up to its clock's resolution too early: a real clock
        goes on by itself, but whoever waits for the rest here would wait for ever.
        """
        return super().call_at(when, self._ring, when, callback, *args, context=context)

    def _ring(self, when: float, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        self.now = max(self.now, when)
        callback(*args)


def clock() -> float:
    """Read the clock of the running loop; give this to a pool as its `clock`."""
    return asyncio.get_running_loop().time()


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time; fail if it leaves tasks behind.

    Raises:
        DeadlockError: all tasks wait for ever.
    """

    async def and_look_around() -> T:
        result = await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            raise AssertionError(f"tasks left behind: {left}")
        return result

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(and_look_around())
