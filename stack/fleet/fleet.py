"""Many processes with pools, which send their metrics as real ones do: each on its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random
from uuid import UUID

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from poolscope._version import __version__
from poolscope.telemetry import catalog
from poolscope.telemetry.export.baseline import Baseline
from poolscope.telemetry.export.points import metrics_of
from poolscope.telemetry.export.samples import Sample
from stack.fleet.pool import Pool

NAMESPACE = "fleet"
PER_SERVICE = 25
"""Instances of one service."""
_SCOPE = InstrumentationScope(catalog.SCOPE, __version__)


class Instance:
    """One process: a resource, and pools with the numbers of which it makes an export."""

    def __init__(self, number: int, pools: int, started: float) -> None:
        """Begin at a time, in seconds since 1970. The same number draws the same."""
        random = Random(number)
        service = f"service-{number // PER_SERVICE:02}"
        self._resource = Resource.create(
            {
                "service.namespace": NAMESPACE,
                "service.name": service,
                "service.instance.id": str(UUID(int=random.getrandbits(128), version=4)),
                "service.version": "1.0.0",
                "deployment.environment.name": "production",
                "server.address": f"{service}.db.example.org",
            }
        )
        self._pools = [Pool(f"database-{n}", started, random) for n in range(1, pools + 1)]
        self._time = started

    def export(self, at: float) -> MetricsData:
        """Go on until then, and return all metrics as `PoolExporter` sends them."""
        elapsed, self._time = at - self._time, at
        for pool in self._pools:
            pool.advance(elapsed)
        now = int(at * 1e9)
        samples = [Sample(pool.reading(), now) for pool in self._pools]
        metrics = [_pools(len(samples), now), *metrics_of(Baseline().compare(samples), {})]
        scope = ScopeMetrics(_SCOPE, metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])


def _pools(count: int, now: int) -> Metric:
    """Return the one metric that is not of a pool."""
    point = NumberDataPoint({}, now, now, count)
    data = Sum([point], AggregationTemporality.CUMULATIVE, is_monotonic=False)
    return Metric(catalog.POOLS.name, catalog.POOLS.help, catalog.POOLS.unit, data)


class Fleet:
    """All the processes, in one of ours."""

    def __init__(self, instances: int, pools: int, started: float) -> None:
        """Begin at a time, in seconds since 1970, with nothing sent."""
        self.instances: Sequence[Instance] = [
            Instance(number, pools, started) for number in range(instances)
        ]
        self.size = instances
        self.exports = self.failed = 0
        self.late = 0.0
        """By how many seconds an export was later than it should have been, at most."""

    def catch_up(self, exporter: MetricExporter, begin: float, end: float, interval: float) -> None:
        """Send what would have been sent between two times, as fast as it is taken."""
        for turn in range(int((end - begin) / interval)):
            for instance in self.instances:
                self._send(exporter, instance, begin + turn * interval)

    def run(self, exporter: MetricExporter, seconds: float, interval: float) -> None:
        """Send for so long as processes do that export at an interval, each at its own moment."""
        start, count = time.time(), self.size
        for turn in range(max(1, round(seconds / interval))):
            for number, instance in enumerate(self.instances):
                due = start + (turn + number / count) * interval
                left = due - time.time()
                self.late = max(self.late, -left)
                time.sleep(max(0.0, left))
                self._send(exporter, instance, due)

    def _send(self, exporter: MetricExporter, instance: Instance, at: float) -> None:
        result = exporter.export(instance.export(at))
        self.exports += 1
        self.failed += result is not MetricExportResult.SUCCESS
