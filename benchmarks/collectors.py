"""Everything that collects metrics, and how many pools it showed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
)
from prometheus_client import CollectorRegistry, Metric, generate_latest

from benchmarks.sdk import by_name
from poolscope.telemetry import catalog
from poolscope.telemetry.otel_export import PoolExporter
from poolscope.telemetry.otel_metrics import observe_pools
from poolscope.telemetry.prometheus import PoolCollector

COLLECTOR = "PoolCollector.collect()"
SAMPLES = "PoolCollector, all samples read"
TEXT = "PoolCollector, text for Prometheus"
EXPORTER = "PoolExporter.export()"
POINTS = "PoolExporter, all points read"
MESSAGE = "PoolExporter, message for OTLP"
FOREIGN = "a foreign provider, all points"


@dataclass(frozen=True, slots=True)
class Collector:
    """Something that collects."""

    name: str
    collect: Callable[[], Any]
    count: Callable[[Any], int]
    """Returns how many pools are in what was collected."""


@contextmanager
def reading() -> Iterator[list[Collector]]:
    """Open those that read what the pools count anyway."""
    with _exporting() as exporters:
        yield [
            Collector(COLLECTOR, PoolCollector().collect, _in_families),
            Collector(SAMPLES, _read_samples, _in_families),
            Collector(TEXT, _text(), _in_text),
            *exporters,
        ]


@contextmanager
def recording() -> Iterator[list[Collector]]:
    """Open what hears of every acquire and release; pools must come later."""
    reader = InMemoryMetricReader()
    with _observing(reader):
        yield [Collector(FOREIGN, reader.get_metrics_data, _in_points)]


def _in_families(families: Iterable[Metric]) -> int:
    named = {family.name: family for family in families}
    return len(named[catalog.MAX.prometheus_name].samples)


def _read_samples() -> Iterable[Metric]:
    families = PoolCollector().collect()
    for family in families:
        for _sample in family.samples:
            pass
    return families


def _text() -> Callable[[], bytes]:
    registry = CollectorRegistry()
    registry.register(PoolCollector())
    return lambda: generate_latest(registry)


def _in_text(text: bytes) -> int:
    return text.count(f"\n{catalog.MAX.prometheus_name}{{".encode())


def _ignore(data: MetricsData) -> None:
    """Do nothing."""


def _read_points(data: MetricsData) -> None:
    for metric in by_name(data).values():
        for _point in metric.data.data_points:
            pass


def _encode(data: MetricsData) -> None:
    encode_metrics(data).SerializeToString()


class _Nowhere(MetricExporter):
    """Uses what it is to send, and does not send it."""

    def __init__(self) -> None:
        super().__init__()
        self.use: Callable[[MetricsData], None] = _ignore
        self.pools = 0

    def export(self, metrics_data: MetricsData, *_: Any, **__: Any) -> MetricExportResult:
        self.use(metrics_data)
        self.pools = _in_points(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 0) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 0, **_: Any) -> None:
        """Do nothing."""


@contextmanager
def _exporting() -> Iterator[list[Collector]]:
    nowhere = _Nowhere()
    exporter = PoolExporter(nowhere)
    reader = PeriodicExportingMetricReader(exporter, math.inf)

    def collect(use: Callable[[MetricsData], None]) -> int:
        nowhere.use = use
        reader.collect()
        return nowhere.pools

    uses = {EXPORTER: _ignore, POINTS: _read_points, MESSAGE: _encode}
    with _observing(reader, exporter):
        yield [Collector(name, partial(collect, use), int) for name, use in uses.items()]


@contextmanager
def _observing(reader: MetricReader, exporter: PoolExporter | None = None) -> Iterator[None]:
    provider = MeterProvider([reader], shutdown_on_exit=False)
    observer = observe_pools(provider, exporter)
    try:
        yield
    finally:
        observer.close()
        provider.shutdown()


def _in_points(data: MetricsData) -> int:
    """Count pools by a histogram, which is on each road the last to come."""
    return len(by_name(data)[catalog.WAIT_TIME.name].data.data_points)
