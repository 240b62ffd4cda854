"""The roads by which telemetry leaves a program, each read to its end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData

from poolscope.telemetry.prometheus import start_metrics_server
from tests.stack.collector import Collector
from tests.stack.exposition import read
from tests.stack.sending import metrics_to, pools_sent
from tests.stack.server import get
from tests.stack.tools import find_tool
from tests.telemetry.series import Series, key

Road = Callable[[], Series]
"""Returns what has arrived of this moment."""


@contextmanager
def scraped() -> Iterator[Road]:
    """By HTTP, from our own endpoint."""
    with start_metrics_server(port=0) as server:
        yield lambda: series_of(get(server.url, Accept="application/openmetrics-text"))


@contextmanager
def encoded() -> Iterator[Road]:
    """By OTLP: encoded, and decoded again."""
    wire = Wire()
    with pools_sent(wire) as flush:

        def look() -> Series:
            flush()
            return wire.series()

        yield look


@contextmanager
def collected() -> Iterator[Road]:
    """By OTLP, and through a real Collector."""
    with (
        Collector(find_tool("collector")) as collector,
        pools_sent(metrics_to(collector)) as flush,
    ):

        def look() -> Series:
            flush()
            return series_of(collector.scrape())

        yield look


def series_of(exposition: str) -> Series:
    families = read(exposition).values()
    return {key: value for family in families for key, value in family.samples.items()}


class Wire(MetricExporter):
    """Keeps what an export would bring to its receiver: encoded, and decoded again."""

    def __init__(self) -> None:
        super().__init__()
        self.received = ExportMetricsServiceRequest()

    def export(self, metrics_data: MetricsData, *_: Any, **__: Any) -> MetricExportResult:
        self.received.ParseFromString(encode_metrics(metrics_data).SerializeToString())
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        pass

    def series(self) -> Series:
        """Return what was received last, as Prometheus names it."""
        series: Series = {}
        for resource in self.received.resource_metrics:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    series |= _of_metric(metric)
        return series


def _of_metric(metric: Any) -> Series:
    name = metric.name.replace(".", "_") + ("_seconds" if metric.unit == "s" else "")
    kind = metric.WhichOneof("data")
    if kind == "sum" and metric.sum.is_monotonic:
        name += "_total"
    series: Series = {}
    for point in getattr(metric, kind).data_points:
        labels = {each.key.replace(".", "_"): each.value.string_value for each in point.attributes}
        if kind == "histogram":
            series |= _of_histogram(name, labels, point)
        else:
            series[key(name, **labels)] = getattr(point, point.WhichOneof("value"))
    return series


def _of_histogram(name: str, labels: dict[str, str], point: Any) -> Series:
    edges = [*map(str, point.explicit_bounds), "+Inf"]
    buckets = zip(edges, accumulate(point.bucket_counts), strict=True)
    return {
        key(f"{name}_count", **labels): point.count,
        key(f"{name}_sum", **labels): point.sum,
        **{key(f"{name}_bucket", **labels, le=edge): count for edge, count in buckets},
    }
