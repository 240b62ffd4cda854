"""What another library's pool says of itself at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from poolscope.stats import PoolState


@dataclass(slots=True)
class Levels:
    """The levels of a pool, read from its own state. What it does not know stays as it is here.

    Which of them are to be shown, the source says: `ForeignPool.omits`.
    """

    idle: int = 0
    in_use: int = 0
    connecting: int = 0
    waiting: int = 0
    """Requests in line, as the pool knows them; those we know of are counted in any case."""
    min_size: int = 0
    max_size: int = 0
    """0 where there is no limit."""
    max_idle: int = 0
    acquire_timeout: float = 0.0
    state: PoolState = "open"
