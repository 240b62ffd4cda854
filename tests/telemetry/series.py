"""Both roads in one shape: what Prometheus would store, by name and labels."""

from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    Sum,
)
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics import exposition
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as parse_text

from poolscope.telemetry.prometheus import PoolCollector

# Neither has types.
_write_openmetrics: Any = exposition.generate_latest
parse_openmetrics: Any = openmetrics_parser.text_string_to_metric_families

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def of_families(families: Iterable[Family]) -> Series:
    return {key(s.name, **s.labels): s.value for family in families for s in family.samples}


def pools_registry() -> CollectorRegistry:
    """A registry that shows the pools, and nothing else."""
    registry = CollectorRegistry()
    registry.register(PoolCollector())
    return registry


def scrape(registry: CollectorRegistry | None = None) -> list[Family]:
    """What a scrape for plain text reads."""
    return list(parse_text(generate_latest(registry or pools_registry()).decode()))


def scrape_openmetrics(registry: CollectorRegistry | None = None) -> list[Family]:
    """What a scrape for OpenMetrics reads."""
    text: bytes = _write_openmetrics(registry or pools_registry())
    return list(parse_openmetrics(text.decode()))


def collected(reader: InMemoryMetricReader) -> dict[str, Metric]:
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: metric
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def of_otel(reader: InMemoryMetricReader) -> Series:
    """Translate as the Prometheus exporter of an OpenTelemetry Collector does."""
    series: Series = {}
    for metric in collected(reader).values():
        name = metric.name.replace(".", "_")
        if metric.unit == "s":
            name += "_seconds"
        if isinstance(metric.data, Sum) and metric.data.is_monotonic:
            name += "_total"
        for point in metric.data.data_points:
            labels = {k.replace(".", "_"): v for k, v in (point.attributes or {}).items()}
            series |= _point(name, labels, point)
    return series


def _point(name: str, labels: dict[str, Any], point: Any) -> Series:
    if not isinstance(point, HistogramDataPoint):
        return {key(name, **labels): point.value}
    bounds = [*map(str, point.explicit_bounds), "+Inf"]
    counts = accumulate(point.bucket_counts)
    return {
        key(f"{name}_count", **labels): point.count,
        key(f"{name}_sum", **labels): point.sum,
        **{
            key(f"{name}_bucket", **labels, le=bound): count
            for bound, count in zip(bounds, counts, strict=True)
        },
    }
