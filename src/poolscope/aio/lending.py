"""What callers do: make requests, hold leases, give them back."""

from __future__ import annotations

import asyncio
import inspect
import logging
from functools import partial

from poolscope.aio.binding import Binding
from poolscope.aio.lease import Lease
from poolscope.core.slot import IN_USE, C, Slot
from poolscope.engine import doubt, refuse
from poolscope.events import (
    CloseReason,
    ConnectionReleased,
    Misuse,
)

logger = logging.getLogger("poolscope")


class Lending(Binding[C]):
    """Carries requests and leases from callers to the core and back."""

    # Requests

    async def validate(self, lease: Lease[C]) -> None:
        """Validate what was granted, and wait for another connection until one passes."""
        core = self.core
        while lease.slot is not None:
            lease.checking = True
            failure = await self._check(lease, lease.slot)
            lease.checking = False
            if failure is None:
                return
            core.reject(lease, self.clock(), failure)
            self.pump()
            if lease.slot is None and lease.error is None:
                lease.waker = self.loop.create_future()
                await lease.waker

    def withdraw(self, lease: Lease[C], error: BaseException) -> None:
        """Give up a request: nothing that was granted is lost, it goes on to the next."""
        self.core.withdraw(lease, self.clock(), error, dirty=lease.checking)
        self.pump()

    def conclude(self, lease: Lease[C]) -> None:
        """Tell of a request that has its outcome; raise the error if it was refused."""
        refused = self.core.conclude(lease, self.clock())
        self.publish()
        if refused:
            refuse(lease)

    async def _check(self, lease: Lease[C], slot: Slot[C]) -> Exception | None:
        """Validate within what is left of the deadline; return why it failed, None if it passed."""
        assert slot.connection is not None
        limit = min(self.settings.validate_timeout, lease.deadline - self.clock())
        try:
            if await self.connector.is_valid(slot.connection, lease.id, self.jobs, limit):
                return None
        except Exception as error:
            return error
        return ValueError("validate_func returned a false value")

    def weed_out(self) -> None:
        """Close idle connections that do not pass a plain `validate_func`, up to one that does.

        It is asked before the request is made, so that the request itself takes the short way. A
        function that turns out to be async is asked in `validate` from then on.
        """
        core = self.core
        while self.plain_check is not None and (slot := core.next_idle()):
            assert slot.connection is not None
            try:
                valid = self.plain_check(slot.connection)
            except Exception:
                valid = False
            if inspect.isawaitable(valid):
                getattr(valid, "close", int)()
                self.plain_check = None
                core.checks_idle = True
            elif valid:
                return
            else:
                core.expel(slot, self.clock())
                self.pump()

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
            self._resetting[lease] = None
            assert slot.connection is not None
            limit = self.settings.validate_timeout
            job = self.jobs.start(self.connector.reset(slot.connection, lease, self.jobs, limit))
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
        self._resetting.pop(lease, None)
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
