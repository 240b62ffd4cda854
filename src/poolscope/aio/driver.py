"""What callers do with a pool, in terms of the core and the event loop. Not for applications."""

from __future__ import annotations

import asyncio
import logging
import math
import weakref
from collections.abc import Callable, Iterable
from functools import partial

from poolscope import registry
from poolscope.aio.connector import Connector
from poolscope.aio.engine import Engine
from poolscope.aio.lease import Claim, doubt, make_claim
from poolscope.bus import EventBus
from poolscope.core import verdicts
from poolscope.core.slot import IN_USE, C, Slot
from poolscope.events import (
    AcquireSource,
    CloseReason,
    ConnectionAcquired,
    ConnectionReleased,
    ConnectionRequested,
    Misuse,
)
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.settings import ConnectionPoolSettings

logger = logging.getLogger("poolscope")


class Driver(Engine[C]):
    """Requests, leases, and the pool's beginning and end."""

    def __init__(
        self,
        settings: ConnectionPoolSettings,
        connector: Connector[C],
        bus: EventBus,
        clock: Callable[[], float],
        metrics: ConnectionPoolMetrics,
    ) -> None:
        """Make a driver that is not yet bound to a loop."""
        super().__init__(settings, connector, bus, clock)
        self.metrics = metrics
        self.resets = connector.reset_func is not None
        self._resetting: set[int] = set()
        self._closer: asyncio.Task[None] | None = None
        myself = weakref.ref(self)
        metrics.subscribe_to(bus, lambda: driver.stats() if (driver := myself()) else None)

    def reset_counts(self) -> None:
        """Set the counts of this process to zero."""
        self.metrics.reset()

    # Requests

    async def acquire(self, timeout: float) -> Slot[C]:
        """Make a request and wait for its end. `Lease.__aenter__` is the same, written out."""
        self.bind()
        claim: Claim[C] = make_claim()
        now = self.clock()
        if self.core.request(claim, now, timeout):
            slot = claim.slot
            assert slot is not None
            id_, source = claim.id, AcquireSource.IDLE
            self.bus.publish(ConnectionRequested, self.name, now, id_)
            acquired = (now, id_ + 1, id_, 0.0, source, slot.connection_id)
            self.bus.publish(ConnectionAcquired, self.name, *acquired)
        else:
            await self.wait(claim, now)
            slot = claim.slot
            assert slot is not None
        return slot

    async def wait(self, claim: Claim[C], now: float) -> None:
        """Wait until a claim is settled, and its connection validated; then conclude it.

        Whatever strikes meanwhile, cancellation above all, withdraws the claim: nothing that was
        granted is lost, and it goes on to the caller.
        """
        core = self.core
        checking = False
        try:
            self.pump(now)
            while claim.error is None:
                if claim.slot is None:
                    claim.future = self.loop.create_future()  # type: ignore[union-attr]
                    await claim.future
                    continue
                if not core.checks:
                    break
                checking = True
                failure = await self._check(claim, claim.slot)
                checking = False
                if failure is None:
                    break
                core.reject(claim, self.clock(), failure)
                self.pump()
        except BaseException as error:
            core.withdraw(claim, self.clock(), error, dirty=checking)
            self.pump()
            raise
        core.conclude(claim, self.clock())
        if core.journal.outbox:
            self.publish()
        if claim.error is not None:
            verdict, claim.error = claim.error, None
            try:
                raise verdict
            finally:
                del verdict  # its traceback knows this frame

    async def _check(self, claim: Claim[C], slot: Slot[C]) -> Exception | None:
        """Validate within what is left of the deadline; return why it failed, None if it passed."""
        assert slot.connection is not None
        limit = min(self.settings.validate_timeout, claim.deadline - self.clock())
        try:
            if await self.connector.is_valid(slot.connection, claim.id, self.jobs, limit):
                return None
        except Exception as error:
            return error
        return ValueError("validate_func returned a false value")

    # Leases

    def find(self, connection: object) -> Slot[C]:
        """Return the slot of a leased connection.

        Raises:
            ReleaseError: it is not on loan from this pool; the misuse is counted.
        """
        slot = self.core.places.find(connection)
        if slot is not None and slot.state is IN_USE and slot.lease not in self._resetting:
            return slot
        misuse = Misuse.DOUBLE_RELEASE if slot else Misuse.FOREIGN_RELEASE
        what = slot.connection_id if slot else f"this {type(connection).__name__}"
        self.misused(misuse, what)
        raise self.core.not_leased(what)

    async def give_back(
        self, slot: Slot[C], lease: int, kind: type[BaseException] | None = None
    ) -> None:
        """End a lease that was left by an exception of that kind.

        With a `reset_func` this waits for the reset; cancelling the wait does not stop it.
        """
        if slot.lease != lease:
            return  # released or detached by hand meanwhile, or taken back
        reason = doubt(kind)
        if self.resets and kind is not GeneratorExit:
            self._resetting.add(lease)
            assert slot.connection is not None
            limit = self.settings.validate_timeout
            job = self.jobs.start(
                self.connector.reset(slot.connection, lease, self.jobs, limit)
            )
            ended = partial(self._reset_ended, slot, lease, reason, self.clock())
            job.add_done_callback(ended, context=self.jobs.context)
            await asyncio.wait({job})
            return
        now = self.clock()
        if reason is not None:
            self.core.discard(slot, lease, reason, now)
        else:
            use = now - slot.since
            if self.core.release(slot, lease, now):
                self._publish_released(slot, lease, now, use, 0.0)
        self.pump(now)

    def _reset_ended(
        self,
        slot: Slot[C],
        lease: int,
        reason: CloseReason | None,
        started: float,
        job: asyncio.Task[None],
    ) -> None:
        self._resetting.discard(lease)
        clean = not job.cancelled() and job.exception() is None
        self._end_lease(slot, lease, None if clean else reason or CloseReason.RESET, started)
        if job.cancelled():
            self.halt()

    def _end_lease(
        self, slot: Slot[C], lease: int, reason: CloseReason | None, started: float
    ) -> None:
        if slot.lease != lease:
            return  # taken back meanwhile, because the pool closed
        now = self.clock()
        use, reset = now - slot.since, now - started
        if reason is not None:
            self.core.discard(slot, lease, reason, now, reset)
        elif self.core.release(slot, lease, now, reset):
            self._publish_released(slot, lease, now, use, reset)
        self.pump()

    def _publish_released(
        self, slot: Slot[C], lease: int, now: float, use: float, reset: float
    ) -> None:
        sequence = self.core.journal.sequence
        fields = (now, sequence, lease, slot.connection_id, use, reset)
        self.bus.publish(ConnectionReleased, self.name, *fields)

    def lose(self, slot: Slot[C], lease: int) -> None:
        """Have a lost lease taken back. A finalizer calls this, in any thread, at any time."""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._reclaim, slot, lease)

    def _reclaim(self, slot: Slot[C], lease: int) -> None:
        at, name = slot.acquired_at(), slot.connection_id
        if self.core.reclaim(slot, lease, self.clock()):
            logger.warning(
                "connection %s was lost without being given back; it was acquired at %s and is "
                "closed now. Use `async with pool.connection()`.", name, at or "an unknown place",
            )  # fmt: skip
            self.pump()

    # The pool's beginning and end

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
        core = self.core
        began, started = core.backoff.round, self.clock()

        def ready() -> bool:
            return core.places.open >= core.settings.min_size or core.state != "open"

        def hopeless() -> bool:
            return give_up and core.backoff.exhausted(began)

        await self.until(lambda: ready() or hopeless(), timeout)
        error = core.backoff.error
        if core.state != "open":
            raise verdicts.closed(self.stats())
        if not ready() and hopeless() and error is not None:
            raise verdicts.connects_failed(self.stats(), core.backoff.streak, error)
        if not ready():
            raise verdicts.timed_out(self.stats(), self.clock() - started, error)

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
        if self.core.state == "new":
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
            _cancel(slot for slot in core.closing if hasattr(slot.connection, "terminate"))
            await self.jobs.settle()
            self._finish()

    def _empty(self) -> bool:
        return len(self.core.places.vacant) == len(self.core.places.slots)

    def _finish(self) -> None:
        self.core.finish(self.clock())
        self.cancel_alarm()
        self.pump()



def _cancel(slots: Iterable[Slot[C]]) -> None:
    """Cancel the tasks that open or close the connections of these slots."""
    for slot in slots:
        if isinstance(slot.holder, asyncio.Task):
            slot.holder.cancel()
