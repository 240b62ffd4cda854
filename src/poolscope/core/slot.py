"""A place for one connection, and the states it goes through."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from types import CodeType
from typing import Generic, TypeVar

from poolscope.events import CloseReason

C = TypeVar("C")


class SlotState(Enum):
    """Where a slot is in its round."""

    VACANT = 0
    CONNECTING = 1
    IDLE = 2
    IN_USE = 3
    CLOSING = 4

    successors: tuple[SlotState, ...]
    """The states that may follow; the same as TRANSITIONS, but quicker to reach."""


VACANT, CONNECTING, IDLE, IN_USE, CLOSING = SlotState

TRANSITIONS: Mapping[SlotState, tuple[SlotState, ...]] = {
    VACANT: (CONNECTING,),
    CONNECTING: (IN_USE, IDLE, VACANT, CLOSING),
    IDLE: (IN_USE, CLOSING),
    IN_USE: (IDLE, IN_USE, CLOSING, VACANT),
    CLOSING: (VACANT,),
}
for _state, _successors in TRANSITIONS.items():
    _state.successors = _successors


class Slot(Generic[C]):
    """A permit for one connection, and what is known about the connection in it."""

    __slots__ = (
        "attempt",
        "close_reason",
        "connection",
        "connection_id",
        "expires_at",
        "holder",
        "instruction",
        "lease",
        "opened_at",
        "round",
        "since",
        "site",
        "state",
        "suspected",
    )

    def __init__(self) -> None:
        """Start vacant."""
        self.state = VACANT
        self.since = 0.0
        """When it entered its state, or its present lease began."""
        self.connection: C | None = None
        self.connection_id = ""
        self.opened_at = 0.0
        self.expires_at = math.inf
        self.close_reason = CloseReason.LIFETIME
        """Why it will be closed once it has expired."""
        self.lease = 0
        """The request that holds it, 0 when none does."""
        self.suspected = False
        self.attempt = 0
        self.round = 0
        # The driver's own: who holds the connection, or who opens or closes it; and where that was
        # acquired. The core only clears them.
        self.holder: object = None
        self.site: CodeType | None = None
        self.instruction = 0

    def acquired_at(self) -> str | None:
        """Return where the present lease was acquired, as `folder/file.py:line`."""
        site, instruction = self.site, self.instruction
        if site is None:
            return None
        place = "/".join(site.co_filename.replace("\\", "/").split("/")[-2:])
        for first, last, line in site.co_lines():
            if first <= instruction < last and line is not None:
                return f"{place}:{line}"
        return f"{place}:{site.co_firstlineno}"

    def vacate(self) -> None:
        """Forget the connection that was here, and its lease."""
        self.connection = None
        self.connection_id = ""
        self.end_lease()

    def end_lease(self) -> None:
        """Forget the lease."""
        self.lease = 0
        self.suspected = False
        self.holder = None
        self.site = None
