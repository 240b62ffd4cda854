"""A page of metrics as series by pool: of the names in the catalogue, whoever shows them.

Labels that a Collector adds make no difference, but `job` and `instance`, which tell the pools of
one process from those of another.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as parse_text

from poolscope.telemetry import catalog
from poolscope.telemetry.catalog import Metric, prometheus_label

OTHERS = "(others)"
"""The name of what sums up the pools beyond the limit of the exporter."""

parse_openmetrics: Any = openmetrics_parser.text_string_to_metric_families  # it has no types

_POOL = prometheus_label(catalog.POOL_NAME)
_OVERFLOW = prometheus_label(catalog.OVERFLOW)
_SUFFIXES = {"counter": "_total", "histogram": "_bucket"}
_SAMPLES = {
    metric.prometheus_name + _SUFFIXES.get(metric.kind, ""): metric
    for metric in catalog.METRICS
    if catalog.POOL_NAME in metric.attributes
}


@dataclass(frozen=True, slots=True)
class PoolKey:
    """What tells a pool from the others of a page."""

    job: str | None
    instance: str | None
    pool: str


@dataclass(slots=True)
class PoolSeries:
    """The last value of every series of a pool."""

    numbers: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))
    """By name of the metric, then by the attribute it has besides the pool, "" if none."""
    buckets: dict[str, dict[float, float]] = field(default_factory=lambda: defaultdict(dict))
    """By name of the histogram, then by bound: how many were not longer, however they ended."""

    def total(self, metric: Metric, without: str | None = None) -> float | None:
        """Return the sum over a metric's attribute, less one value; None if it is not shown."""
        numbers = self.numbers.get(metric.name)
        if not numbers:
            return None
        return sum(number for attribute, number in numbers.items() if attribute != without)

    @property
    def is_open(self) -> bool:
        """Whether there are levels: counts and histograms may outlive their pool."""
        return catalog.COUNT.name in self.numbers or catalog.MAX.name in self.numbers

    def add(self, metric: Metric, labels: Mapping[str, str], value: float) -> None:
        """Add a sample. Of samples that differ in other labels levels add up, gauges do not."""
        if metric.kind == "histogram":
            buckets, bound = self.buckets[metric.name], float(labels["le"])
            buckets[bound] = buckets.get(bound, 0.0) + value
            return
        attribute = "".join(labels.get(prometheus_label(a), "") for a in metric.attributes[1:])
        numbers = self.numbers[metric.name]
        if metric.kind == "gauge":
            numbers[attribute] = max(value, numbers.get(attribute, value))
        else:
            numbers[attribute] = value + numbers.get(attribute, 0.0)


def parse(body: bytes, openmetrics: bool) -> dict[PoolKey, PoolSeries]:
    """Find the open pools of a page.

    Raises:
        ValueError: it is no text of metrics.
    """
    pools: dict[PoolKey, PoolSeries] = defaultdict(PoolSeries)
    text = body.decode()
    families: Iterable[Family] = parse_openmetrics(text) if openmetrics else parse_text(text)
    try:
        for family in families:
            for name, labels, value, *_ in family.samples:
                metric, key = _SAMPLES.get(name), _key(labels)
                if metric is not None and key is not None and math.isfinite(value):
                    pools[key].add(metric, labels, float(value))
    except (IndexError, KeyError) as error:  # the parsers stumble over some texts
        raise ValueError("not a text of metrics") from error
    return {key: series for key, series in pools.items() if series.is_open}


def _key(labels: Mapping[str, str]) -> PoolKey | None:
    pool = labels.get(_POOL) or (OTHERS if labels.get(_OVERFLOW) == "true" else None)
    if pool is None:
        return None
    return PoolKey(labels.get("job") or None, labels.get("instance") or None, pool)
