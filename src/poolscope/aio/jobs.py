"""Tasks that belong to the pool, not to the caller who caused them."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")

_STEPS_TO_END = 8
"""Rounds of the loop in which a cancelled call, and the close it leads to, have long ended."""


class Jobs:
    """Start tasks, hold them until they end, and wait for them with a limit.

    A task runs in a copy of the context the pool was opened in: a connection outlives the
    request that caused it, and must not carry that request's context with it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Context) -> None:
        """Start tasks on that loop, in copies of that context."""
        self._loop = loop
        self.context = context
        self.hurried = False
        """There is no time left for goodbyes."""
        self._goodbyes: dict[asyncio.Task[Any], None] = {}
        # Used as sets: while empty, as most are, they take a third of the room of a set.
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._calls: dict[int, asyncio.Task[Any]] = {}

    def start(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine in a task of the pool."""
        task = self._loop.create_task(coroutine, context=self.context.copy())
        if not task.done():
            self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not self._tasks:
            self._tasks.clear()  # gives back the room a burst of tasks took
        if not task.cancelled():
            task.exception()  # seen here, so that the loop does not report it once more

    async def call(
        self,
        function: Callable[..., Any],
        *args: Any,
        limit: float,
        lease: int = 0,
        late: Callable[[Any], object] | None = None,
    ) -> Any:
        """Call a plain or async function and return what it returns, within `limit` seconds.

        Whoever waits can be cancelled at once, and gets its answer in time, even if the function
        ignores cancellation. What it returns after all is given to `late`. `lease` names the
        lease it works on, for `cancel_calls`.

        Raises:
            TimeoutError: it took longer; it has been cancelled and is left to end by itself.
            RuntimeError: it was cancelled by somebody else.
        """
        result = function(*args)
        if not inspect.isawaitable(result):
            return result
        task = self.start(result if inspect.iscoroutine(result) else _as_coroutine(result))
        if lease:
            self._calls[lease] = task
        try:
            await asyncio.wait({task}, timeout=None if limit == math.inf else max(0.0, limit))
        except BaseException:
            self._give_up(task, late)
            raise
        finally:
            self._calls.pop(lease, None)
        if not task.done():
            self._give_up(task, late)
            raise TimeoutError(f"{_name(function)} did not return within {limit:.2f} s")
        if task.cancelled():
            raise RuntimeError(f"{_name(function)} was cancelled from outside the pool")
        return task.result()

    def cancel_calls(self) -> None:
        """Cancel whatever is at work on a lease."""
        for task in self._calls.values():
            task.cancel()

    def say_goodbye(
        self, closing: Coroutine[Any, Any, Any], terminate: Callable[[], object]
    ) -> None:
        """Start a close that is cut short, by calling `terminate`, when the time is up."""

        def ended(task: asyncio.Task[Any]) -> None:
            self._goodbyes.pop(task, None)
            if task.cancelled():
                terminate()

        task = self.start(closing)
        self._goodbyes[task] = None
        task.add_done_callback(ended)
        if self.hurried:
            task.cancel()

    def hurry(self) -> None:
        """Cut goodbyes short, from now on."""
        self.hurried = True
        for task in tuple(self._goodbyes):
            task.cancel()

    async def join(self, timeout: float) -> None:
        """Wait until no task is left but the one that waits, for so long at most."""
        deadline = self._loop.time() + timeout
        while left := self._tasks.keys() - {asyncio.current_task()}:
            rest = deadline - self._loop.time()
            if rest <= 0:
                break
            await asyncio.wait(left, timeout=None if rest == math.inf else rest)

    async def cancel(self) -> None:
        """Cancel all tasks, and those that this leads to, until none is left that listens."""
        for _ in range(_STEPS_TO_END):
            for task in self._tasks.keys() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0)

    async def settle(self) -> None:
        """Let what was cancelled end. What ignores that is not waited for."""
        for _ in range(_STEPS_TO_END):
            if self._tasks.keys() <= {asyncio.current_task()}:
                break
            await asyncio.sleep(0)

    def _give_up(self, task: asyncio.Task[Any], late: Callable[[Any], object] | None) -> None:
        def pass_on(task: asyncio.Task[Any]) -> None:
            if late is not None and not task.cancelled() and task.exception() is None:
                late(task.result())

        task.add_done_callback(pass_on)
        task.cancel()


async def _as_coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__))
