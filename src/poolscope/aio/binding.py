"""Where a pool runs: on one event loop, in one process; and what becomes of it when they go."""

from __future__ import annotations

import os
import weakref
from asyncio import AbstractEventLoop, Task, current_task, get_running_loop
from collections.abc import AsyncGenerator
from contextlib import suppress
from contextvars import Context, copy_context
from threading import get_ident
from typing import Any

from opentelemetry import context as otel_context

from poolscope import registry
from poolscope.aio.engine import Engine
from poolscope.aio.jobs import Jobs
from poolscope.core import verdicts
from poolscope.core.slot import C
from poolscope.engine import keep_from_parent
from poolscope.errors import WrongLoopError
from poolscope.events import CloseReason, Misuse


class Binding(Engine[C]):
    """Binds the engine to the loop it is first used on, and leaves loops and parents behind."""

    _sentinel: AsyncGenerator[None] | None = None
    """What the loop tells that it is about to end."""

    def bind(self) -> Task[Any] | None:
        """Make sure that the pool runs on the loop running here; return the current task.

        Raises:
            WrongLoopError: no loop runs here, or the pool belongs to another one.
        """
        try:
            loop = get_running_loop()
        except RuntimeError:
            raise WrongLoopError(
                f"pool {self.name!r} needs a running asyncio event loop, and none runs in this "
                "thread. Await its methods from a coroutine, under asyncio.run() or your framework."
            ) from None
        if self._forked:
            self._begin_in_child()
        elif self.loop is not None and self.loop is not loop and self.loop.is_closed():
            self._leave_loop()
        if self.core.state in ("closing", "closed"):
            return current_task()
        if self.loop is None:
            self._settle(loop)
        elif self.loop is not loop:
            self._complain(loop)
        self.thread = get_ident()
        return current_task()

    def require_open(self) -> None:
        """Bind, and refuse what makes no sense on a closed pool."""
        self.bind()
        if self.core.state != "open":
            raise verdicts.closed(self.stats())

    def _settle(self, loop: AbstractEventLoop) -> None:
        self.loop = loop
        self.jobs = Jobs(loop, _own_context())
        self.forget_alarm()
        self._halted = False
        self._sentinel = _watch(weakref.ref(self))
        with suppress(StopIteration):  # begins it, here and now: it does not wait for anything
            self._sentinel.__anext__().send(None)
        if self.core.state == "new":
            self.core.open(self.clock())
        self.pump()

    def _complain(self, loop: AbstractEventLoop) -> None:
        detail = f"bound to {self.loop!r}, used from {loop!r}"
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self.misused, Misuse.WRONG_LOOP, detail)
        raise WrongLoopError(
            f"pool {self.name!r} is {detail}. A pool serves the one loop it was opened on: make "
            "one pool per loop, or send the work to that loop (asyncio.run_coroutine_threadsafe)."
        )

    def _leave_loop(self) -> None:
        """Let go of what a closed loop has left behind."""
        for slot in self.core.places.slots:
            if slot.connection is not None:
                self.terminate(slot.connection)
        error = RuntimeError("the event loop of this pool was closed")
        self.core.abandon(CloseReason.BROKEN, error, self.clock())
        if self._halted:  # by the end of that loop; nobody closed the pool
            self.core.finish(self.clock())
            self.renew()
        self.loop = None
        self.publish()

    async def loop_ends(self) -> None:
        """Leave nothing behind on a loop that is ending: no task, and no connection.

        `asyncio.run` cancels all tasks once; what they then give back would start new ones.
        """
        self.halt()
        self._halted = True
        self.core.terminate(CloseReason.POOL_CLOSED, self.clock())
        self.pump()
        await self.jobs.cancel()

    def dismiss_sentinel(self) -> None:
        """Have the loop tell nothing any more."""
        sentinel, self._sentinel = self._sentinel, None
        if sentinel is not None:
            with suppress(StopIteration, RuntimeError):
                sentinel.aclose().send(None)

    def leave_parent(self) -> None:
        """Forget the parent's connections in a child process, without a word on their sockets.

        What is to be told of it is published when the child uses the pool: subscribers may hold
        locks that nobody in this process will release.
        """
        keep_from_parent(self._sentinel)
        self.abandon_parent()
        if self._halted:  # by the end of the parent's loop; nobody closed the pool
            self.core.finish(self.clock())
            self.renew()
        self.loop, self.thread = None, 0
        self.count_from_zero()

    def _begin_in_child(self) -> None:
        self._forked = False
        self.publish()
        self.count_from_zero()


def _own_context() -> Context:
    """Return the present context without its trace.

    What the pool does for all its callers must not show as work of the one who was first.
    """
    context = copy_context()
    context.run(otel_context.attach, otel_context.Context())
    return context


async def _watch(binding_ref: weakref.ref[Binding[Any]]) -> AsyncGenerator[None]:
    """Wait, as an asynchronous generator does, for the loop to close what was left unfinished."""
    try:
        yield
    finally:
        binding = binding_ref()
        if binding is not None and binding._sentinel is not None:
            await binding.loop_ends()


def _after_fork_in_child() -> None:
    for source in registry.live():
        if isinstance(source, Binding):
            source.leave_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
