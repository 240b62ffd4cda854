"""The driver of an asyncio pool, whole: its beginning and its end. Not for applications."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

from poolscope import registry
from poolscope.aio.lending import Lending
from poolscope.core.slot import C, Slot
from poolscope.engine import Readiness
from poolscope.events import CloseReason


class Driver(Lending[C]):
    """Opens and closes the pool, each once at a time, whoever asks and whoever gives up."""

    _closer: asyncio.Task[None] | None = None

    async def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait until a condition holds after some decision; False when time is up."""
        assert self.loop is not None
        deadline = self.clock() + timeout
        while not condition():
            left = deadline - self.clock()
            if left <= 0:
                return False
            watcher = self.loop.create_future()
            self._watchers.append(watcher)
            await asyncio.wait({watcher}, timeout=None if left == math.inf else left)
        return True

    async def until_ready(self, timeout: float, *, give_up: bool) -> None:
        """Wait until `min_size` connections are open.

        Raises:
            PoolTimeoutError: time is up; the last connect error is chained.
            ConnectFailedError: with `give_up`, when `retry_limit` is exhausted.
            PoolClosedError: the pool closed meanwhile.
        """
        readiness = Readiness(self, give_up=give_up)
        await self.until(readiness.is_settled, timeout)
        readiness.judge()

    async def initialize(self) -> None:
        """Open the pool and wait until it is ready; leave nothing behind if that fails."""
        self.bind()
        try:
            await self.until_ready(self.timeout, give_up=True)
        except BaseException:
            if self.core.state == "open":
                self._closer = self.jobs.start(self._close_to_begin_again())
                await asyncio.wait({self._closer})
            raise

    async def _close_to_begin_again(self) -> None:
        await self._close(0.0)
        self.renew()
        self._closer = None

    async def close(self, timeout: float) -> None:
        """Close the pool, once; whoever calls meanwhile waits for the same end."""
        if self._closer is None and self.core.state == "open":
            self.bind()
            self._closer = self.jobs.start(self._close(timeout))
        if self._closer is not None:
            await asyncio.wait({self._closer})
        if self.core.state in ("new", "closing"):
            self._finish()
        registry.release(self.name, self)

    async def _close(self, timeout: float) -> None:
        """Close within `timeout`: first the leases get their time, then what is left of it serves
        for goodbyes, then connections are dropped.
        """
        core = self.core
        deadline = self.clock() + timeout
        core.close(self.clock())
        _cancel(core.connecting)
        self.pump()
        try:
            await self.until(lambda: not core.places.in_use, timeout)
            core.terminate(CloseReason.POOL_CLOSED, self.clock())
            self.jobs.cancel_calls()
            self.pump()
            await self.until(self._empty, deadline - self.clock())
            await self.jobs.join(deadline - self.clock())
        finally:
            self.jobs.hurry()
            can = self.connector.can_terminate
            _cancel(slot for slot in core.closing if can(slot.connection))
            await self.jobs.settle()
            self._finish()

    def _empty(self) -> bool:
        return len(self.core.places.vacant) == len(self.core.places.slots)

    def _finish(self) -> None:
        self.core.finish(self.clock())
        self.cancel_alarm()
        self.dismiss_sentinel()
        self.pump()


def _cancel(slots: Iterable[Slot[C]]) -> None:
    """Cancel the tasks that open or close the connections of these slots."""
    for slot in slots:
        if isinstance(slot.holder, asyncio.Task):
            slot.holder.cancel()
