"""The pools as they are at one moment: what every exporter shows, read in one place.

An exporter asks for `readings()` once per collection, and then for the points of each metric of
the catalogue. All roads, OpenTelemetry and Prometheus, come through here, so they cannot differ.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from poolscope import registry
from poolscope.histogram import Histogram
from poolscope.reasons import CloseReason, ConnectFault, FailureReason
from poolscope.registry import Counts
from poolscope.telemetry import catalog
from poolscope.telemetry.catalog import Metric
from poolscope.telemetry.overflow import Overflow
from poolscope.telemetry.reading import Attributes as Attributes
from poolscope.telemetry.reading import Number as Number
from poolscope.telemetry.reading import Reading as Reading
from poolscope.telemetry.reading import look_at

_overflow = Overflow()


def readings() -> list[Reading]:
    """Read every pool that is open or closing, by name. Safe from any thread.

    A pool that cannot be read is left out: one bad source must not hide the others. Those beyond
    `catalog.MOST_POOLS` are summed up, last.
    """
    found = (look_at(source) for source in registry.own())
    own = [reading for reading in found if reading is not None and reading.serves]
    rest = _overflow.reading()
    return own if rest is None else [*own, rest]


def forget() -> None:
    """Begin the sum of those beyond the limit anew, as a forked child does."""
    _overflow.forget()


Point = tuple[Attributes, Callable[[Reading], Number]]
"""What a pool shows of a metric: attributes besides its name, and how to read the number."""


def _one(read: Callable[[Reading], Number]) -> tuple[Point, ...]:
    return (({}, read),)


def _failures(reason: FailureReason) -> Callable[[Reading], Number]:
    return lambda pool: pool.counts.failures.get(reason, 0)


def _connect_faults(fault: ConnectFault) -> Callable[[Reading], Number]:
    return lambda pool: pool.counts.connect_faults.get(fault, 0)


def _closed(reason: CloseReason) -> Callable[[Reading], Number]:
    return lambda pool: pool.counts.closed.get(reason, 0)


CONNECT_FAULTS = tuple(fault for fault in ConnectFault if fault is not ConnectFault.ABANDONED)

NUMBERS: Mapping[str, tuple[Point, ...]] = {
    catalog.COUNT.name: (
        ({catalog.STATE: catalog.STATE_IDLE}, lambda pool: pool.stats.idle),
        ({catalog.STATE: catalog.STATE_USED}, lambda pool: pool.stats.in_use),
    ),
    catalog.IDLE_MAX.name: _one(lambda pool: pool.stats.max_idle),
    catalog.IDLE_MIN.name: _one(lambda pool: pool.stats.min_size),
    catalog.MAX.name: _one(lambda pool: pool.stats.max_size),
    catalog.PENDING_REQUESTS.name: _one(lambda pool: pool.stats.waiting),
    catalog.TIMEOUTS.name: _one(_failures(FailureReason.TIMEOUT)),
    catalog.FAILURES.name: tuple(
        ({catalog.ERROR_TYPE: reason.value}, _failures(reason)) for reason in FailureReason
    ),
    catalog.CONNECT_FAILURES.name: tuple(
        ({catalog.ERROR_TYPE: fault.value}, _connect_faults(fault)) for fault in CONNECT_FAULTS
    ),
    catalog.CLOSED.name: tuple(
        ({catalog.REASON: reason.value}, _closed(reason)) for reason in CloseReason
    ),
    catalog.OPENING.name: _one(lambda pool: pool.stats.connecting),
    catalog.LEAKS.name: _one(lambda pool: pool.counts.leaks),
    catalog.USED_PEAK.name: _one(lambda pool: pool.stats.used_peak),
    catalog.USE_OLDEST.name: _one(lambda pool: pool.stats.oldest_use),
    catalog.WAIT_OLDEST.name: _one(lambda pool: pool.stats.oldest_wait),
    catalog.ACQUIRE_TIMEOUT.name: _one(lambda pool: pool.stats.acquire_timeout),
    catalog.SATURATION_TIME.name: _one(lambda pool: pool.stats.saturation_time),
    catalog.SUBSCRIBER_ERRORS.name: _one(lambda pool: pool.subscriber_errors),
    catalog.EVENTS_DROPPED.name: _one(lambda pool: pool.events_dropped),
}
"""What each pool shows of each level and counter."""


def telling(metric: Metric, pools: Sequence[Reading]) -> Sequence[Reading]:
    """Return those of the pools that can tell a metric."""
    return [pool for pool in pools if metric.name not in pool.omits]


def numbers(metric: Metric, pools: Sequence[Reading]) -> Iterator[tuple[Attributes, Number]]:
    """Yield the points of a level or a counter; attributes in the order of the catalogue."""
    if metric is catalog.POOLS:
        yield {}, sum(pool.pools for pool in pools)
        return
    points = NUMBERS[metric.name]
    for pool in telling(metric, pools):
        for attributes, read in points:
            yield pool.attributes | attributes, read(pool)


def histograms(metric: Metric, pools: Sequence[Reading]) -> Iterator[tuple[Attributes, Histogram]]:
    """Yield the histograms of a metric; attributes in the order of the catalogue.

    The one of what went well is there from the beginning, the others from the first failure.
    """
    for pool in telling(metric, pools):
        well, failed = durations(metric, pool.counts)
        yield pool.attributes, well
        # Another thread may add a reason meanwhile; the copy is taken in one step.
        for reason, histogram in dict(failed).items():
            yield pool.attributes | {catalog.ERROR_TYPE: reason.value}, histogram


def durations(metric: Metric, counts: Counts) -> tuple[Histogram, Mapping[Any, Histogram]]:
    """Return the histogram of what went well, and those of what failed by why."""
    if metric is catalog.WAIT_TIME:
        return counts.wait, counts.failed_wait
    if metric is catalog.CREATE_TIME:
        return counts.create, counts.failed_create
    assert metric is catalog.USE_TIME
    return counts.use, {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)
