"""One pool at one moment, as exporters read it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from operator import attrgetter

from poolscope.faults import where
from poolscope.registry import Counts, Source
from poolscope.stats import PoolStats
from poolscope.telemetry import catalog

logger = logging.getLogger("poolscope")

Attributes = dict[str, str]
Number = int | float

_all_of = attrgetter(*(name for name in vars(Counts) if not name.startswith("_")))


@dataclass(slots=True)
class Reading:
    """One pool: its levels in one consistent snapshot, and its counts."""

    attributes: Attributes
    """What tells it from the others: its name."""
    stats: PoolStats
    counts: Counts
    subscriber_errors: int
    events_dropped: int
    pools: int = 1
    """How many pools it is the sum of."""
    omits: frozenset[str] = frozenset()
    """Names of the metrics it cannot tell."""

    @property
    def serves(self) -> bool:
        """Tell whether the pool is open, or closing."""
        return self.stats.state in ("open", "closing")


def look_at(source: Source) -> Reading | None:
    """Read one pool, whatever its state; None if it cannot be read."""
    try:
        stats, counts, bus = source.stats(), source.metrics, source.bus
        _all_of(counts)  # whoever shows them later would fail over all pools at once
        attributes = {catalog.POOL_NAME: stats.pool}
        return Reading(attributes, stats, counts, bus.failures, bus.dropped, 1, source.omits)
    except Exception as error:
        logger.debug("a pool could not be read: %s", where(error))
        return None
