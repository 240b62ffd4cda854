"""The ways metrics leave the process: two by OTLP, and the one of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader

from benchmarks.backend import Backend
from poolscope.telemetry.otel_export import PoolExporter
from poolscope.telemetry.otel_metrics import observe_pools
from poolscope.telemetry.prometheus import start_metrics_server

Road = Callable[[Backend, float], AbstractContextManager[None]]
"""Is open meanwhile, and used at once and then every so many seconds."""


@contextmanager
def export(backend: Backend, period: float) -> Iterator[None]:
    """Let the exporter add the histograms: what `setup_telemetry` does."""
    exporter = PoolExporter(_otlp(backend))
    with _exporting(exporter, period) as provider:
        observer = observe_pools(provider, exporter)
        try:
            provider.force_flush()
            yield
        finally:
            observer.close()


@contextmanager
def foreign(backend: Backend, period: float) -> Iterator[None]:
    """Record every duration through the API: what is left with a provider of somebody else."""
    with _exporting(_otlp(backend), period) as provider:
        observer = observe_pools(provider)
        try:
            provider.force_flush()
            yield
        finally:
            observer.close()


@contextmanager
def prometheus(backend: Backend, period: float) -> Iterator[None]:
    """Serve `/metrics`, and have it scraped."""
    with start_metrics_server(port=0) as server, backend.scraping(server.url, period):
        yield


def _otlp(backend: Backend) -> MetricExporter:
    return OTLPMetricExporter(backend.endpoint, compression=Compression.NoCompression)


@contextmanager
def _exporting(exporter: MetricExporter, period: float) -> Iterator[MeterProvider]:
    reader = PeriodicExportingMetricReader(exporter, period * 1000)
    provider = MeterProvider([reader], shutdown_on_exit=False)
    try:
        yield provider
    finally:
        provider.shutdown()
