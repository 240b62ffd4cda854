"""Cancellation struck between any two steps of the event loop.

`Victim` awaits something that is to be struck, and counts the loop's callbacks meanwhile: moment k
lies just before the k-th of them. So a sweep over all k strikes each suspension both while it lasts
and when what it waited for has been delivered but not yet received, and it strikes in the midst of
what tasks of the pool do at that time.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from typing import Any, Literal

import anyio

from poolscope.testing import VirtualLoop

Kind = Literal["task.cancel", "asyncio.timeout", "anyio scope"]
KINDS: tuple[Kind, ...] = ("task.cancel", "asyncio.timeout", "anyio scope")

ENDLESS = 20_000


class StrikingLoop(VirtualLoop):
    """Tells `before_each` of every callback that it is about to run."""

    def __init__(self) -> None:
        super().__init__()
        self.before_each: Callable[[], None] | None = None
        self._steps = 0

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return super().call_soon(self._step, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return super().call_at(when, self._step, callback, *args, context=context)

    def _step(self, callback: Callable[..., object], *args: Any) -> None:
        self._steps += 1
        if self._steps == ENDLESS:
            self.stop()
        if self.before_each is not None:
            self.before_each()
        callback(*args)


class Victim:
    """Awaits something that is struck by `kinds[i]` at `moments[i]`."""

    def __init__(self, kinds: Sequence[Kind], moments: Sequence[int]) -> None:
        self.kinds = kinds
        self._due = dict(zip(moments, range(len(kinds)), strict=True))
        self._weapons: list[Callable[[], object]] = []
        self.moment = 0
        self.strikes = 0
        """How many strikes there was time for."""
        self.felt = False
        """Whether a strike was delivered before the end."""

    async def suffer(self, body: Coroutine[Any, Any, None]) -> None:
        """Await `body` under the strikes; raise what comes out.

        A cancellation that came in must come out, whatever else went wrong. A scope of anyio ends
        where it was struck and raises nothing: then this returns.
        """
        try:
            await self._within(self.kinds, body)
        finally:
            body.close()

    async def _within(self, kinds: Sequence[Kind], body: Awaitable[None]) -> None:
        """Stand in the scope of the last strike first: the first strikes the innermost."""
        if not kinds:
            await self._watch(body)
        elif kinds[-1] == "task.cancel":
            task = asyncio.current_task()
            assert task is not None
            self._weapons.insert(0, task.cancel)
            await self._within(kinds[:-1], body)
        elif kinds[-1] == "asyncio.timeout":
            async with asyncio.timeout(None) as limit:
                self._weapons.insert(0, lambda: limit.reschedule(0))
                await self._within(kinds[:-1], body)
        else:
            with anyio.CancelScope() as scope:
                self._weapons.insert(0, scope.cancel)
                await self._within(kinds[:-1], body)

    async def _watch(self, body: Awaitable[None]) -> None:
        task = asyncio.current_task()
        assert task is not None
        with self._counting():
            try:
                await body
            except asyncio.CancelledError:
                self.felt = True
                raise
            except BaseException as error:
                if task.cancelling():
                    raise AssertionError(f"not the cancellation came out, but {error!r}") from error
                raise
            assert not task.cancelling(), "the cancellation was swallowed"

    @contextmanager
    def _counting(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, StrikingLoop)
        loop.before_each = self._on_step
        try:
            yield
        finally:
            loop.before_each = None

    def _on_step(self) -> None:
        self.moment += 1
        if (which := self._due.get(self.moment)) is not None:
            self.strikes += 1
            self._weapons[which]()


def in_virtual_time(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in a loop that can strike."""
    with asyncio.Runner(loop_factory=StrikingLoop) as runner:
        runner.run(main)


def sweep(
    act: Callable[[Victim], Awaitable[None]], kinds: Sequence[Kind], *, every: int = 1
) -> int:
    """Act once for every moment, or pair of moments, there is time to strike; return how often."""
    moments = list(range(1, len(kinds) + 1))
    for times in itertools.count():
        victim = Victim(kinds, moments)
        try:
            in_virtual_time(act(victim))
        except BaseException as error:
            error.add_note(f"struck by {' and '.join(kinds)} at moments {moments}")
            raise
        if not victim.strikes:
            return times
        moments[victim.strikes - 1] += every
        for later in range(victim.strikes, len(kinds)):
            moments[later] = moments[later - 1] + 1
    raise AssertionError
