"""Another library's pool as a source of events, counts and levels."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any, Self

from poolscope import registry
from poolscope.events import PoolClosed, PoolOpened, SubscriberFailed
from poolscope.instrument.levels import Levels
from poolscope.instrument.reports import Reports
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.stats import PoolStats
from poolscope.target import Target
from poolscope.telemetry import catalog

UNKNOWN = frozenset({catalog.LEAKS.name})
"""What no foreign pool can tell: none has a threshold from which a lease is a leak."""


class ForeignPool(Reports):
    """A pool of another library, observed. Safe from any thread.

    It holds nothing of the pool: the pool, or its adapter, holds this. `close()` ends it.
    """

    def __init__(
        self,
        name: str | None,
        target: Target | None,
        levels: Callable[[], Levels],
        omits: frozenset[str] = UNKNOWN,
    ) -> None:
        """Begin to observe, under this name or one like it.

        `levels` must not hold the pool, nor take a lock, nor wait: exporters call it from anywhere.
        What it raises at once, while it is tried here, is raised.
        """
        levels()
        super().__init__()
        self._levels = levels
        self._target = target
        self.omits = omits
        """Names of the metrics this pool cannot tell: they are not shown."""
        self.metrics = ConnectionPoolMetrics()
        self.state: Any = "open"
        """That of the observation; it is `closed` before the pool may be."""
        self.end: Callable[[], object] | None = None
        """What takes it from its pool again; called by `close()`, once."""
        with registry.naming:
            self.name = registry.free_name(name)
            registry.register(self)
        self.bus.owner = myself = weakref.ref(self)
        self.metrics.subscribe_to(self.bus, myself)
        _pools.add(self)
        self.publish(PoolOpened)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # What exporters read

    @property
    def target(self) -> Target | None:
        """Return what it connects to, if known."""
        return self._target

    def stats(self) -> PoolStats:
        """Return its levels, as the pool itself says. Safe from any thread."""
        # The counter says the next number; asking it for one would leave a gap.
        sequence, levels, now = int(repr(self._numbers)[6:-1]) - 1, self._levels(), monotonic()
        leases = [(lease.since, lease.site) for lease in list(self.leases.values())]
        began = list(self.requests.values())
        oldest, site = min(leases, key=lambda lease: lease[0], default=(now, None))
        self.strain.step(len(leases), now)
        return PoolStats(
            pool=self.name,
            time=now,
            sequence=sequence,
            state=self.state if self.state == "closed" else levels.state,
            min_size=levels.min_size,
            max_size=levels.max_size,
            max_idle=levels.max_idle,
            idle=levels.idle,
            in_use=levels.in_use,
            connecting=levels.connecting,
            closing=0,
            waiting=max(levels.waiting, len(began)),
            granted=0,
            oldest_wait=max(0.0, now - min(began, default=now)),
            oldest_use=max(0.0, now - oldest),
            oldest_use_at=site,
            generation=0,
            used_peak=self.strain.used_peak(levels.in_use, now),
            saturated_for=self.strain.saturated_for(now),
            saturation_time=self.strain.saturation_time(now),
            acquire_timeout=levels.acquire_timeout,
        )

    def __repr__(self) -> str:
        """Return name and state."""
        return f"<{type(self).__name__} {self.name!r} {self.stats()}>"

    # What becomes of it

    def subscriber_failed(self, name: str, error: BaseException, detached: bool) -> None:
        """Hear which subscriber raised what; called by the bus."""
        self.publish(SubscriberFailed, name, error, detached)

    def retire(self) -> None:
        """Tell that the pool closed: the observation ends when the last request and lease do."""
        self.retired = True
        if not self.leases and not self.requests:
            self.close()

    def lost(self) -> None:
        """Hear that a pool which reports here is lost, and will say no more."""
        self.close()

    def close(self) -> None:
        """Observe no more. The pool goes on as if it had never been observed. May be repeated."""
        with self._lock:
            end, self.end = self.end, None
            was, self.state = self.state, "closed"
        if end is not None:
            end()
        if was != "closed":
            self.publish(PoolClosed)
            registry.release(self.name, self)

    def begin_in_child(self) -> None:
        """Count from zero in a forked child: what was under way is the parent's."""
        inherited = self.inherited | set(self.connections)
        self.begin()
        self.inherited = inherited
        self.metrics.reset()
        self.bus.forget()


_pools: weakref.WeakSet[ForeignPool] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for pool in tuple(_pools):
        pool.begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
