"""How often something may be said of a pool: a burst, then a steady rate, the rest counted.

Time is that of the events, so there is no clock and nothing to wait for.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from poolscope.events import Event
from poolscope.telemetry.catalog import MOST_POOLS

BURST = 5
"""What may be said at once after a silence."""

LATE = 60.0
"""Seconds by which one thread may tell what was before that which another told. More is a clock
that went back."""

# Reentrant, because a finalizer may come in while it is held.
_lock = threading.RLock()


class RateLimiter:
    """Keeps a bucket of tokens for each kind of event of each pool. Safe from any thread."""

    def __init__(self) -> None:
        """Start with full buckets."""
        self._pools: dict[str, dict[type[Event], _Bucket]] = {}

    def admit(self, event: Event, per_minute: int) -> int | None:
        """Return how many events were suppressed before this one, None to suppress it too."""
        with _lock:
            kinds = self._pools.get(event.pool)
            if kinds is None:
                if len(self._pools) >= MOST_POOLS:
                    self._pools.pop(next(iter(self._pools)))
                kinds = self._pools[event.pool] = {}
            bucket = kinds.setdefault(type(event), _Bucket(event.time))
            return bucket.take(event.time, per_minute / 60)

    def forget(self, pool: str) -> None:
        """Let go of a pool that is closed."""
        with _lock:
            self._pools.pop(pool, None)


@dataclass(slots=True)
class _Bucket:
    moment: float
    tokens: float = BURST
    suppressed: int = 0

    def take(self, now: float, per_second: float) -> int | None:
        elapsed = now - self.moment
        if not -LATE < elapsed < 0:
            self.moment = now
        elapsed = max(0.0, elapsed)
        self.tokens = min(BURST, self.tokens + elapsed * per_second)
        if self.tokens < 1:
            self.suppressed += 1
            return None
        self.tokens -= 1
        suppressed, self.suppressed = self.suppressed, 0
        return suppressed


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
