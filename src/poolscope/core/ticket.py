"""A caller's claim to a connection, and the work the driver owes the pool."""

from __future__ import annotations

from collections.abc import MutableSequence
from dataclasses import dataclass
from typing import Any, Generic

from poolscope.core.slot import C, Slot
from poolscope.errors import PoolError
from poolscope.events import AcquireSource, FailureReason


class Ticket(Generic[C]):
    """One request. The core settles it once: with a slot, or with an error and its reason."""

    __slots__ = (
        "deadline",
        "error",
        "id",
        "outcome",
        "queued",
        "reason",
        "requested_at",
        "round",
        "slot",
        "source",
        "waker",
    )

    id: int
    requested_at: float
    deadline: float
    round: int
    slot: Slot[C] | None
    source: AcquireSource
    error: PoolError | None
    reason: FailureReason

    outcome: int
    """Number of the event that tells its outcome, if that is left to the driver to publish."""

    queued: bool
    """Whether it has stood in line; told once."""

    waker: Any
    """The driver's own: what wakes the caller, None while it does not sleep."""

    def wake(self) -> None:
        """Tell the caller that the ticket is settled. Drivers override it; it only sets a flag."""


@dataclass(slots=True)
class Chores(Generic[C]):
    """What the driver has to do now, and then report to the core."""

    connect: MutableSequence[Slot[C]]
    """Call the factory, then `connected` or `connect_failed`."""
    close: MutableSequence[Slot[C]]
    """Close the connection, then `disconnected`."""
    inspect: MutableSequence[Slot[C]]
    """See what the holder is doing, then `suspect`."""


NOTHING: Chores[Any] = Chores((), (), ())  # type: ignore[arg-type]
"""No chores: what most decisions leave to do, so that they build nothing."""
