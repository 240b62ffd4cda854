"""Where the core writes down what happened, until the driver publishes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poolscope.events import Event

Record = tuple[type[Event], tuple[Any, ...]]
"""An event not yet built: its type, and its fields in order: pool, time, sequence, ..."""


class Journal:
    """Number the events of one pool, and keep those somebody listens to."""

    __slots__ = ("_audience", "_pool", "outbox", "sequence")

    def __init__(self, pool: str, audience: Mapping[type[Event], object]) -> None:
        """Keep records of the event types for which `audience` holds something true."""
        self._pool = pool
        self._audience = audience
        self.sequence = 0
        """Number of the last event."""
        self.outbox: list[Record] = []
        """What is not yet published. The driver takes the list and leaves a new one."""

    def record(self, kind: type[Event], now: float, *fields: object) -> int:
        """Note an event; return its sequence number."""
        self.sequence = sequence = self.sequence + 1
        if self._audience[kind]:
            self.outbox.append((kind, (self._pool, now, sequence, *fields)))
        return sequence
