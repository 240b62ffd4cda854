"""The numbers of each pool, in plain words, and what is wrong with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from poolscope.cli.stats.parse import PoolKey, PoolSeries
from poolscope.histogram import Histogram
from poolscope.reasons import FailureReason
from poolscope.telemetry import catalog
from poolscope.telemetry.catalog import Metric

Trouble = Literal["saturated", "connects_fail", "leak"]
TROUBLES: Sequence[Trouble] = ("saturated", "connects_fail", "leak")
"""The worst first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One pool. The names of the fields are the keys of `--json`; None is what the page lacks.

    Counts are since the pool opened. So are the quantiles when a pool is seen for the first time;
    later they are of the `interval_seconds` since the last time.
    """

    address: str
    job: str | None
    instance: str | None
    pool: str
    trouble: list[Trouble]
    max: int | None
    used: int | None
    idle: int | None
    opening: int | None
    waiting: int | None
    oldest_wait_seconds: float | None
    oldest_use_seconds: float | None
    used_peak: int | None
    wait_p99_seconds: float | None
    use_p99_seconds: float | None
    requests: int | None
    requests_per_second: float | None
    errors: int | None
    timeouts: int | None
    connect_failures: int | None
    leaks: int | None
    saturated_seconds: float | None
    interval_seconds: float | None

    @classmethod
    def read(
        cls, address: str, key: PoolKey, now: PoolSeries, before: PoolSeries, interval: float | None
    ) -> Self:
        """Make numbers of series; `interval` is None when there is nothing `before`."""
        state = now.numbers.get(catalog.COUNT.name, {})
        waits = _increase(now, before, catalog.WAIT_TIME)
        uses = _increase(now, before, catalog.USE_TIME)
        return cls(
            address=address,
            job=key.job,
            instance=key.instance,
            pool=key.pool,
            trouble=_troubles(now, before if interval else None),
            max=_whole(now.total(catalog.MAX)),
            used=_whole(state.get(catalog.STATE_USED)),
            idle=_whole(state.get(catalog.STATE_IDLE)),
            opening=_whole(now.total(catalog.OPENING)),
            waiting=_whole(now.total(catalog.PENDING_REQUESTS)),
            oldest_wait_seconds=now.total(catalog.WAIT_OLDEST),
            oldest_use_seconds=now.total(catalog.USE_OLDEST),
            used_peak=_whole(now.total(catalog.USED_PEAK)),
            wait_p99_seconds=_quantile(0.99, waits),
            use_p99_seconds=_quantile(0.99, uses),
            requests=_whole(now.buckets.get(catalog.WAIT_TIME.name, {}).get(math.inf)),
            requests_per_second=waits[math.inf] / interval if interval and waits else None,
            errors=_whole(now.total(catalog.FAILURES, without=FailureReason.CANCELLED.value)),
            timeouts=_whole(now.total(catalog.TIMEOUTS)),
            connect_failures=_whole(now.total(catalog.CONNECT_FAILURES)),
            leaks=_whole(now.total(catalog.LEAKS)),
            saturated_seconds=now.total(catalog.SATURATION_TIME),
            interval_seconds=interval,
        )

    @property
    def badness(self) -> tuple[float, ...]:
        """Return what is smaller the worse it is."""
        worst = min((TROUBLES.index(trouble) for trouble in self.trouble), default=len(TROUBLES))
        full = (self.used or 0) / self.max if self.max else 0.0
        return worst, -(self.oldest_wait_seconds or 0.0), -(self.waiting or 0), -full


def _troubles(now: PoolSeries, before: PoolSeries | None) -> list[Trouble]:
    """Judge a pool; with nothing `before` it cannot be known what is rising."""
    state = now.numbers.get(catalog.COUNT.name, {})
    used, idle = state.get(catalog.STATE_USED, 0), state.get(catalog.STATE_IDLE, 0)
    waiting, limit = now.total(catalog.PENDING_REQUESTS), now.total(catalog.MAX)
    failed, leaks = now.total(catalog.CONNECT_FAILURES), now.total(catalog.LEAKS)
    # After a restart it is less than before.
    rising = before and failed and failed != before.total(catalog.CONNECT_FAILURES)
    # Requests that wait although there is room wait for a connect.
    stuck = failed and waiting and limit and used + idle < limit
    found: dict[Trouble, object] = {
        "saturated": waiting and limit and used >= limit,
        "connects_fail": rising or stuck,
        "leak": leaks,
    }
    return [trouble for trouble in TROUBLES if found[trouble]]


def _increase(now: PoolSeries, before: PoolSeries, metric: Metric) -> dict[float, float]:
    """Return by how much each bucket has grown; after a restart it has grown from 0."""
    buckets, earlier = now.buckets.get(metric.name, {}), before.buckets.get(metric.name, {})
    if any(count < earlier.get(bound, 0.0) for bound, count in buckets.items()):
        return buckets
    return {bound: count - earlier.get(bound, 0.0) for bound, count in buckets.items()}


def _quantile(q: float, buckets: Mapping[float, float]) -> float | None:
    """Estimate a quantile from cumulative counts, as PromQL does; None without values."""
    bounds = sorted(buckets)
    if len(bounds) < 2 or not buckets[bounds[-1]]:
        return None
    histogram = Histogram(bounds[:-1])
    counts = [round(buckets[bound]) for bound in bounds]
    histogram.counts = [n - below for n, below in zip(counts, [0, *counts], strict=False)]
    return histogram.quantile(q)


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)
