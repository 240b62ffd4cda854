"""The pools as they are at one moment: what every exporter shows, read in one place.

An exporter asks for `readings()` once per collection, and then for the points of each metric of
the catalogue. Both roads, OpenTelemetry and Prometheus, come through here, so they cannot differ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from poolscope import registry
from poolscope.histogram import Histogram
from poolscope.registry import Counts, Source
from poolscope.stats import PoolStats
from poolscope.telemetry import catalog
from poolscope.telemetry.catalog import Metric

logger = logging.getLogger("poolscope")

Attributes = dict[str, str]


@dataclass(slots=True)
class Reading:
    """One pool: its levels in one consistent snapshot, and its counts."""

    pool: str
    stats: PoolStats
    counts: Counts


def readings() -> list[Reading]:
    """Read every pool that is open or closing, by name. Safe from any thread.

    A pool that cannot be read is left out: one bad source must not hide the others.
    """
    return [reading for source in registry.live() if (reading := _read(source))]


def _read(source: Source) -> Reading | None:
    try:
        stats = source.stats()
        counts = source.metrics
    except Exception:
        logger.debug("a pool could not be read", exc_info=True)
        return None
    if stats.state in ("new", "closed"):
        return None
    return Reading(stats.pool, stats, counts)


_NUMBERS: Mapping[str, tuple[tuple[Attributes, Callable[[Reading], int]], ...]] = {
    catalog.COUNT.name: (
        ({catalog.STATE: catalog.STATE_IDLE}, lambda reading: reading.stats.idle),
        ({catalog.STATE: catalog.STATE_USED}, lambda reading: reading.stats.in_use),
    ),
    catalog.IDLE_MAX.name: (({}, lambda reading: reading.stats.max_idle),),
    catalog.IDLE_MIN.name: (({}, lambda reading: reading.stats.min_size),),
    catalog.MAX.name: (({}, lambda reading: reading.stats.max_size),),
    catalog.PENDING_REQUESTS.name: (({}, lambda reading: reading.stats.waiting),),
    catalog.TIMEOUTS.name: (({}, lambda reading: reading.counts.connection_timeouts),),
}


def numbers(metric: Metric, reading: Reading) -> list[tuple[Attributes, int]]:
    """Return the points of a level or a counter; attributes in the order of the catalogue."""
    name = {catalog.POOL_NAME: reading.pool}
    return [(name | attributes, read(reading)) for attributes, read in _NUMBERS[metric.name]]


def histograms(metric: Metric, reading: Reading) -> list[tuple[Attributes, Histogram]]:
    """Return the histograms of a metric; attributes in the order of the catalogue."""
    counts = reading.counts
    name = {catalog.POOL_NAME: reading.pool}
    if metric is catalog.CREATE_TIME:
        return [(name, counts.create)]
    if metric is catalog.USE_TIME:
        return [(name, counts.use)]
    assert metric is catalog.WAIT_TIME
    # Another thread may add a reason meanwhile; the copy is taken in one step.
    failed = list(counts.failed_wait.items())
    failures = [(name | {catalog.ERROR_TYPE: reason.value}, waits) for reason, waits in failed]
    return [(name, counts.wait), *failures]
