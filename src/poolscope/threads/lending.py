"""What callers do: make requests, hold leases, give them back."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from poolscope.core.slot import IN_USE, C, Slot
from poolscope.engine import doubt
from poolscope.events import (
    AcquireSource,
    CloseReason,
    ConnectionAcquired,
    ConnectionReleased,
    ConnectionRequested,
    Misuse,
)
from poolscope.functions import is_prompt
from poolscope.threads.binding import Binding
from poolscope.threads.call import Call
from poolscope.threads.engine import awaitable, name_of
from poolscope.threads.lease import ENDED, HALF_TOLD, UNTOLD, WAITING, SyncLease
from poolscope.threads.telling import go_on

logger = logging.getLogger("poolscope")


class Lending(Binding[C]):
    """Carries requests and leases from callers to the core and back."""

    warns = True
    """Whether to look if a caller stops an event loop; it is told once."""

    # Requests

    def wait(self, lease: SyncLease[C], timeout: float) -> None:
        """Make a request that is not granted at once, and wait for its outcome.

        Raises:
            PoolError: it was refused.
        """
        self.begin()
        lease.checking = False
        self.decide(partial(self._request, lease, timeout))
        if lease.stage == WAITING:
            self._until_settled(lease)
            if self.core.checks:
                self._validate(lease)
            self.decide(partial(self._conclude, lease))
        if lease.error is not None:
            self._refuse(lease)

    def _request(self, lease: SyncLease[C], timeout: float, now: float) -> None:
        if self.core.request(lease, now, timeout):
            lease.error = None
            self._note_lent(lease)
            return
        lease.stage = WAITING
        self._rearm(lease)

    def _rearm(self, lease: SyncLease[C]) -> None:
        """Have the lease woken by the decision that settles it, if this one did not."""
        settled = lease.slot is not None or lease.error is not None
        lease.waker = None if settled else self.system.waker()

    def _until_settled(self, lease: SyncLease[C]) -> None:
        while lease.slot is None and lease.error is None:
            left = lease.deadline - self.clock()
            if lease.waker is None or left <= 0 or not lease.waker.wait(left):
                self.decide(lambda _: None)  # each decision first sees to what has fallen due

    def _conclude(self, lease: SyncLease[C], now: float) -> None:
        self.core.conclude(lease, now)
        lease.stage = ENDED

    def _refuse(self, lease: SyncLease[C]) -> NoReturn:
        verdict, lease.error = lease.error, None
        assert verdict is not None
        try:
            raise verdict
        finally:
            del verdict  # its traceback knows this frame

    def forsake(
        self, lease: SyncLease[C], error: BaseException | None, *, used: bool = False
    ) -> None:
        """End whatever a caller has begun who goes away by an exception. Nothing is lost.

        `used` says that the connection was lent to the application meanwhile.
        """
        end, struck = partial(self._end_early, lease, error, used), None
        if self.system.owns(self.lock):  # in a handler, which must not wait
            return self._later(end)
        while lease.slot is not None or lease.stage == WAITING:
            try:
                self.decide(end)
            except BaseException as raised:
                if not self.is_interrupt(raised):
                    raise
                struck = raised
        if struck is not None:
            raise struck

    def _end_early(
        self, lease: SyncLease[C], error: BaseException | None, used: bool, now: float
    ) -> None:
        slot = lease.slot
        if lease.stage == WAITING:
            assert error is not None
            self.core.withdraw(lease, now, error, dirty=lease.checking)
        elif slot is not None and slot.lease == lease.id:
            self._note_lent(lease)
            doubtful = CloseReason.DIRTY if self.resets else None
            reason = (doubt(type(error) if error else None) or doubtful) if used else None
            self._end_lease(slot, lease.id, reason, 0.0, now)
        lease.slot, lease.stage = None, ENDED

    def _note_lent(self, lease: SyncLease[C]) -> None:
        """Record what the core leaves to its driver to publish, and nobody has published yet."""
        id_, at = lease.id, lease.requested_at
        assert lease.slot is not None
        connection_id = lease.slot.connection_id
        if lease.stage == UNTOLD:
            self._record(ConnectionRequested, at, id_)
        if lease.stage in (UNTOLD, HALF_TOLD):
            self._record(
                ConnectionAcquired, at, id_ + 1, id_, 0.0, AcquireSource.IDLE, connection_id
            )
        lease.stage = ENDED

    def _record(self, kind: Any, *fields: Any) -> None:
        self.core.journal.outbox.append((kind, (self.name, *fields)))

    # Validation

    def _validate(self, lease: SyncLease[C]) -> None:
        """Validate what was granted, and wait for another connection until one passes."""
        while lease.slot is not None:
            lease.checking = True
            failure = self._check(lease, lease.slot)
            lease.checking = False
            if failure is None:
                return
            self.decide(partial(self._reject, lease, failure))
            self._until_settled(lease)

    def _reject(self, lease: SyncLease[C], failure: Exception, now: float) -> None:
        self.core.reject(lease, now, failure)
        self._rearm(lease)

    def _check(self, lease: SyncLease[C], slot: Slot[C]) -> Exception | None:
        """Validate within what is left of the deadline; return why it failed, None if it passed."""
        check, connection = self.functions.validate_func, slot.connection
        assert check is not None
        assert connection is not None
        limit = min(self.settings.validate_timeout, lease.deadline - self.clock())
        try:
            if is_prompt(check) or limit == math.inf:
                valid = check(connection)
            else:
                valid = self._within(limit, name_of(check), partial(check, connection))
        except Exception as error:
            return error
        if inspect.isawaitable(valid):
            return awaitable("validate_func", valid)
        return None if valid else ValueError("validate_func returned a false value")

    def _within(self, limit: float, name: str, function: Any) -> Any:
        """Return what a function returns on a thread of the pool, within `limit` seconds."""
        call = Call(self, function, lambda *_: None)
        self.calls[call] = None
        try:
            self.workers.start(call)
            if not call.done.wait(max(0.0, limit)):
                call.give_up(TimeoutError(f"{name} did not return within {limit:.2f} s"))
        finally:
            self.calls.pop(call, None)
        if call.error is not None:
            raise call.error
        return call.result

    # Leases

    def find(self, connection: object) -> tuple[Slot[C], int]:
        """Return the slot of a leased connection, and the lease.

        Raises:
            ReleaseError: it is not on loan from this pool; the misuse is counted.
        """
        with self.lock:
            slot = self.core.places.find(connection)
            lease = slot.lease if slot is not None and slot.state is IN_USE else 0
        if slot is not None and lease and lease not in self.resetting:
            return slot, lease
        misuse = Misuse.DOUBLE_RELEASE if slot else Misuse.FOREIGN_RELEASE
        what = slot.connection_id if slot else f"this {type(connection).__name__}"
        self.misused(misuse, what)
        raise self.core.not_leased(what)

    def give_back(self, slot: Slot[C], lease: int, kind: type[BaseException] | None = None) -> None:
        """End a lease that was left by an exception of that kind, or by none.

        With a `reset_func` this waits for the reset; an interrupt does not stop that.
        """
        reset = 0.0
        if kind is not None or self.resets:
            if (cleaned := self._clean(slot, lease, kind)) is None:
                return
            reset = cleaned
        now, hooks, quiet, done = self.clock(), self.hooks[ConnectionReleased], False, 0
        try:
            with self.lock:
                use, sequence = now - slot.since, self.core.journal.sequence + 1
                quiet = not self.deciding and self.core.lay_down(slot, lease, now)
            if not quiet:
                return self._end(slot, lease, None, reset)
            connection_id, pool = slot.connection_id, self.name
            for hook in hooks:
                hook(pool, now, sequence, lease, connection_id, use, reset)
                done += 1
        except BaseException as error:
            if not quiet:
                raise
            fields = (self.name, now, sequence, lease, slot.connection_id, use, reset)
            struck = go_on(self, ConnectionReleased, hooks, fields, done, error)
            if struck is not None:
                raise struck from None

    def _clean(self, slot: Slot[C], lease: int, kind: type[BaseException] | None) -> float | None:
        """Make a connection fit for its next user; return how long that took.

        None: the lease has ended already, now or before.
        """
        if slot.lease != lease:
            return None  # released or detached by hand meanwhile, or taken back
        reason, reset, connection = doubt(kind), self.functions.reset_func, slot.connection
        if reset is None or connection is None:
            if reason is not None:
                self._end(slot, lease, reason, 0.0)
            return 0.0 if reason is None else None
        started = self.clock()
        self.resetting[lease] = None
        limit = self.settings.validate_timeout
        if not is_prompt(reset) and limit != math.inf:
            ended = partial(self._reset_ended, slot, lease, reason, started)
            call = self.call(partial(self._reset, connection), ended, limit, name_of(reset))
            self.calls[call] = None
            self.workers.start(call)
            call.done.wait(math.inf)
            return None
        clean = False
        try:
            self._reset(connection)
            clean = True
        except Exception:
            reason = reason or CloseReason.RESET
        finally:
            self.resetting.pop(lease, None)
            if not clean:
                self._end(slot, lease, reason or CloseReason.DIRTY, self.clock() - started)
        return self.clock() - started if clean else None

    def _reset(self, connection: C) -> None:
        assert self.functions.reset_func is not None
        result = self.functions.reset_func(connection)
        if inspect.isawaitable(result):
            raise awaitable("reset_func", result)

    def _reset_ended(
        self, slot: Slot[C], lease: int, reason: CloseReason | None, started: float, call: Call,
        now: float,
    ) -> None:  # fmt: skip
        self.resetting.pop(lease, None)
        self.calls.pop(call, None)
        failed = call.error is not None
        self._end_lease(slot, lease, reason or CloseReason.RESET if failed else None,
                        now - started, now)  # fmt: skip

    def _end(self, slot: Slot[C], lease: int, reason: CloseReason | None, reset: float) -> None:
        """End a lease by a decision; later, if this thread is in the middle of one."""
        end = partial(self._end_lease, slot, lease, reason, reset)
        if self.system.owns(self.lock):
            self._later(end)
        else:
            self.decide(end)

    def _later(self, decision: Callable[[float], object]) -> None:
        """Have something decided as soon as this thread is through with its own decision."""
        job = partial(self.decide, decision)
        self.system.call_later(0.0, partial(self.workers.start, job))

    def _end_lease(
        self, slot: Slot[C], lease: int, reason: CloseReason | None, reset: float, now: float
    ) -> None:
        if slot.lease != lease:
            return  # taken back meanwhile, because the pool closed
        use = now - slot.since
        if reason is not None:
            self.core.discard(slot, lease, reason, now, reset)
        elif self.core.release(slot, lease, now, reset):
            sequence = self.core.journal.sequence
            self._record(ConnectionReleased, now, sequence, lease, slot.connection_id, use, reset)

    def let_go(self, slot: Slot[C], lease: int) -> None:
        """Take a leased connection out of the pool for good.

        Raises:
            ReleaseError: the lease has ended.
        """

        def detach(now: float) -> None:
            if slot.lease != lease:
                raise self.core.not_leased(slot.connection_id)
            self.core.detach(slot, now)

        self.decide(detach)

    def lose(self, slot: Slot[C], lease: int) -> None:
        """Have a lost lease taken back. A finalizer calls this, in any thread, at any time."""
        if slot.lease == lease:
            reclaim = partial(self._reclaim, slot, lease)
            self.system.call_later(0.0, partial(self.workers.start, reclaim))

    def _reclaim(self, slot: Slot[C], lease: int) -> None:
        at, name = slot.acquired_at(), slot.connection_id
        if self.decide(lambda now: self.core.reclaim(slot, lease, now)):
            logger.warning(
                "connection %s was lost without being given back; it was acquired at %s and is "
                "closed now. Use `with pool.connection()`.", name, at or "an unknown place",
            )  # fmt: skip

    # Event loops

    def warn_of_loop(self) -> None:
        """Say, once, that waiting here stops an event loop."""
        self.warns = False
        self.misused(Misuse.BLOCKED_LOOP, "called on the thread of a running event loop")
        warnings.warn(
            f"pool {self.name!r} is for threads, and was called on a running event loop: while it "
            "waits, nothing else runs there. Use ConnectionPool, or asyncio.to_thread().",
            RuntimeWarning,
            stacklevel=4,
        )
