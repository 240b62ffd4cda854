"""Ctrl-C and SIGTERM, as an orderly end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Cancels one task, once, however often and however early somebody interrupts.

    Between its `with` and the task's start an interrupt is remembered. After `disarm()`, when the
    task clears up, there is nothing left to interrupt.
    """

    def __init__(self) -> None:
        """Hear nothing yet."""
        self.came = False
        self._armed = True
        self._task: asyncio.Task[Any] | None = None
        self._before: list[Any] = []

    def __enter__(self) -> Interrupts:
        self._before = [signal.signal(number, self._hear) for number in _SIGNALS]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(_SIGNALS, self._before, strict=True):
            # One that came ends the process: another one must not spoil the end.
            signal.signal(number, signal.SIG_IGN if self.came else handler)

    async def watch(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something to its end, or to its cancellation by an interrupt."""
        self._task = asyncio.create_task(work)
        if self.came:
            self._task.cancel()
        await asyncio.wait({self._task})
        self.disarm()
        if not self._task.cancelled():
            self._task.result()

    def disarm(self) -> None:
        """Take no more notice."""
        self._armed = False

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        if self.came or not self._armed:
            return
        self.came = True
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._armed and self._task is not None and not self._task.cancelling():
            self._task.cancel()
