"""How many series a pool has, counted from the catalogue."""

from __future__ import annotations

from collections.abc import Iterator

from poolscope.reasons import ConnectFault, FailureReason
from poolscope.telemetry import catalog, readings
from poolscope.telemetry.catalog import Metric

_NOT_OF_POOLS = 2
"""`poolscope_pools` and `target_info`."""


def histogram_series(metric: Metric) -> int:
    """Return the series of one histogram: the buckets, that of all values, the count, the sum."""
    return len(metric.buckets) + 3


def series_by_metric() -> Iterator[tuple[Metric, int]]:
    """Yield each metric with the series a pool has of it from the moment it opens."""
    for metric in catalog.METRICS:
        if metric.kind == "histogram":
            yield metric, histogram_series(metric)
        elif metric is not catalog.POOLS:
            yield metric, len(readings.NUMBERS[metric.name])


def series_per_pool() -> int:
    """Return the series a pool has from the moment it opens."""
    return sum(series for _, series in series_by_metric())


def most_series_per_pool() -> int:
    """Return the series of a pool in which all has failed that can: a histogram of each failure."""
    waits = len(FailureReason) * histogram_series(catalog.WAIT_TIME)
    creates = len(ConnectFault) * histogram_series(catalog.CREATE_TIME)
    return series_per_pool() + waits + creates


def series_per_instance(pools: int) -> int:
    """Return the series of a process in which nothing has failed."""
    return pools * series_per_pool() + _NOT_OF_POOLS
