"""An endpoint for metrics that keeps what it is sent, and fails when it is told to."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.sdk.metrics import Histogram as HistogramInstrument
from opentelemetry.sdk.metrics import MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
    Sum,
)

from poolscope.telemetry import catalog
from poolscope.telemetry.otel_export import PoolExporter
from poolscope.telemetry.otel_metrics import observe_pools
from tests.telemetry.series import Series, collected, of_otel

COUNT = catalog.COUNT.prometheus_name

Preferred = dict[type, AggregationTemporality]
CUMULATIVE: Preferred = {}
DELTA: Preferred = {
    ObservableCounter: AggregationTemporality.DELTA,
    HistogramInstrument: AggregationTemporality.DELTA,
}


class Outbox(MetricExporter):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[MetricsData] = []
        self.answer: Callable[[], MetricExportResult] = lambda: MetricExportResult.SUCCESS
        self.calls: list[tuple[str, float]] = []
        """What was called, with its deadline in ms."""

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: Any
    ) -> MetricExportResult:
        self.calls.append(("export", timeout_millis))
        result = self.answer()
        if result is MetricExportResult.SUCCESS:
            self.sent.append(metrics_data)
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        self.calls.append(("force_flush", timeout_millis))
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: Any) -> None:
        self.calls.append(("shutdown", timeout_millis))


class Road:
    """A provider of an application, whose only exporter is wrapped."""

    def __init__(self, preferred: Preferred | None = None) -> None:
        self.outbox = Outbox()
        self.exporter = PoolExporter(self.outbox, preferred)
        # One that exports only when it is told to.
        self.reader = PeriodicExportingMetricReader(self.exporter, math.inf)
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.observer = observe_pools(self.provider, self.exporter)

    def get_metrics_data(self) -> MetricsData | None:
        """Export, as a reader that keeps data in memory does; None when nothing was sent."""
        before = len(self.outbox.sent)
        self.provider.force_flush()
        return self.outbox.sent[-1] if len(self.outbox.sent) > before else None

    def close(self) -> None:
        self.observer.close()
        self.provider.shutdown()


@dataclass
class Kept:
    """Reads like a reader, again and again, from what it once gave."""

    data: MetricsData | None

    def get_metrics_data(self) -> MetricsData | None:
        return self.data


def series_of(data: MetricsData | None) -> Series:
    return of_otel(Kept(data))  # type: ignore[arg-type]


def metrics_of(data: MetricsData | None) -> dict[str, Metric]:
    return collected(Kept(data))  # type: ignore[arg-type]


def summed(exports: Iterable[MetricsData]) -> Series:
    """What a receiver of deltas makes of them: it adds what is counted, and keeps the levels."""
    total: Series = {}
    for data in exports:
        for (name, labels), value in series_of(data).items():
            counted = name.endswith(("_total", "_bucket", "_count", "_sum")) and name != COUNT
            before = total.get((name, labels), 0.0) if counted else 0.0
            total[name, labels] = before + value
    return total


def assert_catalogue(metrics: Mapping[str, Metric]) -> None:
    """Compare metrics, by name, with the catalogue."""
    kinds = {"counter": Sum, "updowncounter": Sum, "gauge": Gauge, "histogram": Histogram}
    assert metrics.keys() == {metric.name for metric in catalog.METRICS}
    for metric in catalog.METRICS:
        made = metrics[metric.name]
        assert (made.unit, made.description) == (metric.unit, metric.help)
        assert type(made.data) is kinds[metric.kind]
        if isinstance(made.data, Sum):
            assert made.data.is_monotonic == (metric.kind == "counter")
        assert len(made.data.data_points) > 0
        for point in made.data.data_points:
            needed = {*metric.attributes} - {catalog.ERROR_TYPE}
            assert needed <= (point.attributes or {}).keys() <= {*metric.attributes}
            if isinstance(point, HistogramDataPoint):
                assert tuple(point.explicit_bounds) == metric.buckets


def series_now(road: "Road") -> Series:
    return series_of(road.get_metrics_data())


def without_empty_histograms(series: Series) -> Series:
    """Leave out the series of histograms that have counted nothing."""
    suffixes = ("_bucket", "_count", "_sum")
    names = [metric.prometheus_name for metric in catalog.METRICS if metric.kind == "histogram"]
    parts = {f"{name}{suffix}": f"{name}_count" for name in names for suffix in suffixes}

    def owner(labels: frozenset[tuple[str, str]]) -> frozenset[tuple[str, str]]:
        return frozenset((label, value) for label, value in labels if label != "le")

    return {
        (name, labels): value
        for (name, labels), value in series.items()
        if name not in parts or series[parts[name], owner(labels)]
    }


@contextmanager
def road(preferred: Preferred | None = None) -> Iterator[Road]:
    made = Road(preferred)
    try:
        yield made
    finally:
        made.close()
