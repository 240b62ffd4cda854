"""A pool of which there is nothing but the numbers: they go on as those of a pool in use do."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from random import Random

from poolscope.histogram import Histogram
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.reasons import CloseReason, FailureReason
from poolscope.stats import PoolStats
from poolscope.telemetry import catalog
from poolscope.telemetry.reading import Reading

TROUBLED = 0.2
"""The share of pools in which requests fail: each has a histogram more."""
_LIFETIME = 600.0
_TIMEOUT = 5.0


class Pool:
    """The numbers of one pool, from `started` on, in seconds since 1970."""

    def __init__(self, name: str, started: float, random: Random) -> None:
        """Draw how busy it is, and whether requests fail."""
        self._random = random
        self._name = name
        self._counts = ConnectionPoolMetrics()
        self._counts.start_time = started
        self._size = random.choice((5, 10, 20))
        use = random.uniform(0.005, 0.05)
        self._busy = self._size * random.uniform(0.1, 0.7)
        self._rate = self._busy / use
        self._failures = 0.002 if random.random() < TROUBLED else 0.0
        self._wait = _shares(catalog.WAIT_BUCKETS, random.uniform(0.0003, 0.003), 1.5)
        self._use = _shares(catalog.USE_BUCKETS, use, 0.8)
        self._create = _shares(catalog.CREATE_BUCKETS, random.uniform(0.005, 0.02), 0.4)
        self._saturated = 0.0
        _count(self._counts.create, self._create, self._size, random)

    def advance(self, seconds: float) -> None:
        """Go on: requests, failures, and connections that reach their lifetime."""
        requests = self._rate * seconds * self._random.uniform(0.8, 1.2)
        counts, random = self._counts, self._random
        _count(counts.wait, self._wait, requests, random)
        _count(counts.use, self._use, requests, random)
        replaced = _whole(self._size * seconds / _LIFETIME, random)
        counts.closed[CloseReason.LIFETIME] += replaced
        _count(counts.create, self._create, replaced, random)
        if failed := _whole(self._failures * requests, random):
            self._fail(failed)

    def reading(self) -> Reading:
        """Return what an exporter reads of it."""
        return Reading({catalog.POOL_NAME: self._name}, self._stats(), self._counts, 0, 0)

    def _fail(self, times: int) -> None:
        reason = FailureReason.TIMEOUT
        self._counts.failures[reason] += times
        histogram = self._counts.failed_wait.setdefault(reason, Histogram(catalog.WAIT_BUCKETS))
        for _ in range(times):
            histogram.record(_TIMEOUT + self._random.uniform(0, 0.01))
        self._saturated += self._random.uniform(0, times)

    def _stats(self) -> PoolStats:
        random = self._random
        used = min(
            self._size, round(random.gauss(self._busy, self._busy**0.5)) if self._busy else 0
        )
        used = max(0, used)
        waiting = random.randint(0, 3) if used == self._size else 0
        return PoolStats(
            pool=self._name,
            time=0.0,
            sequence=0,
            state="open",
            min_size=self._size // 2,
            max_size=self._size,
            max_idle=self._size,
            idle=self._size - used,
            in_use=used,
            connecting=0,
            closing=0,
            waiting=waiting,
            granted=0,
            oldest_wait=random.uniform(0, 0.1) if waiting else 0.0,
            oldest_use=random.uniform(0, 0.5) if used else 0.0,
            oldest_use_at=None,
            generation=0,
            used_peak=min(self._size, used + random.randint(0, 3)),
            saturated_for=0.0,
            saturation_time=self._saturated,
            acquire_timeout=_TIMEOUT,
        )


def _shares(bounds: Sequence[float], median: float, spread: float) -> list[tuple[float, float]]:
    """Return for each bucket the share of values, as good as log-normal, and a value in it."""
    # The logistic function is close to the normal distribution, and simple.
    below = [1 / (1 + exp(-1.7 * (log(bound) - log(median)) / spread)) for bound in bounds]
    shares = [high - low for low, high in zip([0.0, *below], [*below, 1.0], strict=True)]
    return list(zip(shares, [*bounds, bounds[-1]], strict=True))


def _count(
    histogram: Histogram, shares: Sequence[tuple[float, float]], values: float, random: Random
) -> None:
    for bucket, (share, value) in enumerate(shares):
        if number := _whole(values * share, random):
            histogram.counts[bucket] += number
            histogram.sum += number * value * random.uniform(0.7, 1)


def _whole(expected: float, random: Random) -> int:
    """Return a whole number that is the expected one on average."""
    return int(expected + random.random())
