"""The pools beyond the limit, summed up: so that no program, whatever it does, floods a backend.

A pool that finds `MOST_POOLS` others when it is made has no series of its own, ever. What such
pools count goes into one series, and stays in it when they close: counters must not go down.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import add
from typing import Any
from weakref import ref

from poolscope import registry
from poolscope.histogram import Histogram
from poolscope.reasons import CloseReason, ConnectFault, FailureReason
from poolscope.registry import Counts, Source
from poolscope.stats import PoolStats
from poolscope.telemetry import catalog
from poolscope.telemetry.reading import Reading, look_at

_HIGHEST = ("oldest_wait", "oldest_use", "saturated_for", "acquire_timeout")
_SUMMED = (
    "min_size", "max_size", "max_idle", "idle", "in_use", "connecting", "closing", "waiting",
    "granted", "used_peak",
)  # fmt: skip


class Overflow:
    """Sum up the pools that have no series of their own. Safe from any thread.

    A pool counts as it was when it was released. Of one that was lost before, what is known from
    the last reading counts. Who resets the metrics of such a pool takes them out of the sum.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.forget()
        registry.when_released(self._released)

    def forget(self) -> None:
        """Start again with none, as a forked child does."""
        # Reentrant, because a finalizer may come in while it is held.
        self._lock = threading.RLock()
        self._gone = _Sum(time.time())
        self._members: dict[ref[Source], Reading] = {}
        """The last reading of each, until it is released or lost."""
        self._any = False

    def reading(self) -> Reading | None:
        """Return the sum of those that are here, and were; None before the first."""
        with self._lock:
            self._let_go_of_lost()
            levels = self._look_around()
            if not self._any:
                return None
            total = _Sum(self._gone.start_time)
            total.add(self._gone)
            for member in list(self._members.values()):  # a finalizer may take one out
                total.add_pool(member)
            return total.reading(levels)

    def _let_go_of_lost(self) -> None:
        for member in [member for member in list(self._members) if member() is None]:
            self._gone.add_pool(self._members.pop(member))

    def _look_around(self) -> list[PoolStats]:
        """Read all; return the levels of those that serve."""
        levels = []
        for source in registry.beyond():
            if (reading := look_at(source)) is not None:
                self._any = True
                self._members[ref(source)] = reading
                if reading.serves:
                    levels.append(reading.stats)
        return levels

    def _released(self, source: Source) -> None:
        with self._lock:
            last = self._members.pop(ref(source), None)
            if (reading := look_at(source) or last) is not None:
                self._any = True
                self._gone.add_pool(reading)


class _Sum:
    """What several pools have counted; and the `Counts` of a pool that stands for them."""

    def __init__(self, start_time: float) -> None:
        self.start_time = start_time
        self.failures: Counter[FailureReason] = Counter()
        self.connect_faults: Counter[ConnectFault] = Counter()
        self.closed: Counter[CloseReason] = Counter()
        self.leaks = 0
        self.wait = _Times(catalog.WAIT_BUCKETS)
        self.use = _Times(catalog.USE_BUCKETS)
        self.create = _Times(catalog.CREATE_BUCKETS)
        self.failed_wait: dict[FailureReason, Histogram] = {}
        self.failed_create: dict[ConnectFault, Histogram] = {}
        self.saturation = 0
        """In nanoseconds."""
        self.subscriber_errors = 0
        self.events_dropped = 0

    def add_pool(self, pool: Reading) -> None:
        """Add one pool."""
        self._add(pool.counts)
        self.saturation += _whole(pool.stats.saturation_time)
        self.subscriber_errors += pool.subscriber_errors
        self.events_dropped += pool.events_dropped

    def add(self, other: _Sum) -> None:
        """Add another sum."""
        self._add(other)
        self.saturation += other.saturation
        self.subscriber_errors += other.subscriber_errors
        self.events_dropped += other.events_dropped

    def _add(self, counts: Counts) -> None:
        _count(self.failures, counts.failures)
        _count(self.connect_faults, counts.connect_faults)
        _count(self.closed, counts.closed)
        self.leaks += counts.leaks
        self.wait.add(counts.wait)
        self.use.add(counts.use)
        self.create.add(counts.create)
        _add_all(self.failed_wait, counts.failed_wait)
        _add_all(self.failed_create, counts.failed_create)

    def reading(self, levels: Sequence[PoolStats]) -> Reading:
        """Return the sum as if it were one pool, with the levels of those that serve."""
        shown: dict[str, Any] = {name: sum(getattr(s, name) for s in levels) for name in _SUMMED}
        shown |= {name: max((getattr(s, name) for s in levels), default=0.0) for name in _HIGHEST}
        stats = PoolStats(
            pool="", time=0.0, sequence=0, state="open", oldest_use_at=None, generation=0,
            saturation_time=self.saturation / 1e9, **shown,
        )  # fmt: skip
        attributes = {catalog.OVERFLOW: "true"}
        errors, dropped = self.subscriber_errors, self.events_dropped
        return Reading(attributes, stats, self, errors, dropped, len(levels))


class _Times(Histogram):
    """A sum of histograms. Their sums are added up in whole nanoseconds.

    The order in which pools are added changes when they close, and with it a sum of floats. It
    might go down by a rounding error, which looks as if it had begun anew.
    """

    __slots__ = ("nanoseconds",)

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__(bounds)
        self.nanoseconds = 0

    def add(self, other: Histogram) -> None:
        """Add the values of another one with the same bounds."""
        self.counts = list(map(add, self.counts, other.counts))
        self.nanoseconds += other.nanoseconds if isinstance(other, _Times) else _whole(other.sum)
        self.sum = self.nanoseconds / 1e9


def _whole(seconds: float) -> int:
    return round(seconds * 1e9)


# Another thread may add a reason meanwhile; the copy is made in one step.


def _count(mine: Counter[Any], others: Mapping[Any, int]) -> None:
    for reason, number in dict(others).items():
        mine[reason] += number


def _add_all(mine: dict[Any, Histogram], others: Mapping[Any, Histogram]) -> None:
    for reason, histogram in dict(others).items():
        if reason not in mine:
            mine[reason] = _Times(histogram.bounds)
        mine[reason].add(histogram)
