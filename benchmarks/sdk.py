"""The OpenTelemetry SDK as an application sets it up, with proof of what went through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric, MetricsData
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

DISTRIBUTIONS = (
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-sqlalchemy",
    "prometheus-client",
)


class Drop(SpanExporter):
    """Counts spans by name, and drops them."""

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.names.update(span.name for span in spans)
        return SpanExportResult.SUCCESS


@dataclass(frozen=True, slots=True)
class Tracing:
    """A tracer provider with a batch processor."""

    provider: TracerProvider
    dropped: Drop

    def made(self) -> Counter[str]:
        """Return how many spans of each name were made since this was asked last."""
        self.provider.force_flush()
        made, self.dropped.names = self.dropped.names, Counter()
        return made


@contextmanager
def tracing(sampler: Sampler = ALWAYS_ON) -> Iterator[Tracing]:
    provider = TracerProvider(sampler, shutdown_on_exit=False)
    dropped = Drop()
    provider.add_span_processor(BatchSpanProcessor(dropped))
    try:
        yield Tracing(provider, dropped)
    finally:
        provider.shutdown()


@dataclass(frozen=True, slots=True)
class Metering:
    """A meter provider, read when asked."""

    provider: MeterProvider
    reader: InMemoryMetricReader = field(repr=False)

    def collect(self) -> dict[str, Metric]:
        """Return what there is of each metric."""
        return by_name(self.reader.get_metrics_data())

    def recorded(self, name: str) -> int:
        """Return how many values a histogram has been given."""
        metric = self.collect().get(name)
        points: Sequence[Any] = metric.data.data_points if metric else ()
        return sum(point.count for point in points)


def by_name(data: MetricsData | None) -> dict[str, Metric]:
    """Return each metric of all scopes."""
    resources = data.resource_metrics if data else []
    scopes = [scope for resource in resources for scope in resource.scope_metrics]
    return {metric.name: metric for scope in scopes for metric in scope.metrics}


@contextmanager
def metering() -> Iterator[Metering]:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    try:
        yield Metering(provider, reader)
    finally:
        provider.shutdown()
