"""The snapshot of a pool: its levels at one moment, read from its own state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PoolState = Literal["new", "open", "closing", "closed"]


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Say how many connections are where. Taken in one step, so the numbers fit each other.

    `size` = connecting + idle + in use + closing. A connection being validated or reset is in
    use. Times are in seconds.
    """

    pool: str
    time: float
    """Reading of the pool's monotonic clock."""
    sequence: int
    """Number of the last event this snapshot includes."""
    state: PoolState
    min_size: int
    max_size: int
    """0 where there is no limit, as in some pools of other libraries."""
    max_idle: int
    idle: int
    in_use: int
    connecting: int
    closing: int
    waiting: int
    """Requests not yet ended: queued, or granted to a caller who has not returned."""
    granted: int
    """Connections in use that are being handed to one of those waiting."""
    oldest_wait: float
    """How long the first in line has been waiting; 0 when nobody waits."""
    oldest_use: float
    """How long the longest lease has been held; 0 when none is out."""
    oldest_use_at: str | None
    """Where the longest lease was acquired, as `file:line`, when known."""
    generation: int
    """How often the pool was drained."""
    used_peak: int
    """The highest number of connections in use, granted ones included, in the last 60 s."""
    saturated_for: float
    """How long requests have been waiting while all of `max_size` is in use; 0 when none does."""
    saturation_time: float
    """How long that was so, all in all, the present time included."""
    acquire_timeout: float
    """The setting."""

    @property
    def size(self) -> int:
        """Return the number of places taken, of `max_size`."""
        return self.connecting + self.idle + self.in_use + self.closing

    def __str__(self) -> str:
        """Return the snapshot as part of a sentence."""
        limit = f"/{self.max_size}" if self.max_size else ""
        parts = [f"{self.in_use}{limit} in use", f"{self.idle} idle"]
        if self.connecting:
            parts.append(f"{self.connecting} connecting")
        parts.append(f"{self.waiting} waiting")
        text = ", ".join(parts)
        if self.oldest_use:
            text += f"; oldest held {self.oldest_use:.1f} s"
            text += f" at {self.oldest_use_at}" if self.oldest_use_at else ""
        return text
