"""Programs that send their pools to a real Collector, by each of the ways there are."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter

from poolscope.telemetry.otel_export import PoolExporter
from poolscope.telemetry.otel_metrics import observe_pools
from poolscope.telemetry.otel_spans import trace_pools
from tests.stack.collector import Collector

JOB, INSTANCE = "shop", "one"
RESOURCE = Resource({"service.name": JOB, "service.instance.id": INSTANCE})
PROTOCOLS = ("grpc", "http")

Flush = Callable[[], object]


def metrics_to(collector: Collector, protocol: str = "grpc", **options: object) -> MetricExporter:
    if protocol == "grpc":
        return GrpcMetrics(collector.grpc_endpoint, insecure=True, **options)  # type: ignore[arg-type]
    return HttpMetrics(f"{collector.http_endpoint}/v1/metrics", **options)  # type: ignore[arg-type]


def spans_to(collector: Collector, protocol: str = "grpc") -> SpanExporter:
    if protocol == "grpc":
        return GrpcSpans(collector.grpc_endpoint, insecure=True)
    return HttpSpans(f"{collector.http_endpoint}/v1/traces")


@contextmanager
def pools_sent(exporter: MetricExporter) -> Iterator[Flush]:
    """Add all pools to what an exporter sends; yields what sends it."""
    ours = PoolExporter(exporter)
    with meter_provider(ours) as provider:
        observer = observe_pools(provider, ours)

        def flush() -> None:
            provider.force_flush()
            assert ours.exports > ours.failed == 0

        try:
            yield flush
        finally:
            observer.close()


@contextmanager
def pools_recorded(exporter: MetricExporter) -> Iterator[Flush]:
    """Report all pools through the API, as to a provider whose exporter is not ours to wrap."""
    with meter_provider(exporter) as provider:
        observer = observe_pools(provider)
        try:
            yield provider.force_flush
        finally:
            observer.close()


@contextmanager
def meter_provider(exporter: MetricExporter) -> Iterator[MeterProvider]:
    """A provider that exports when it is told to, and at its end."""
    reader = PeriodicExportingMetricReader(exporter, math.inf)
    provider = MeterProvider([reader], RESOURCE, shutdown_on_exit=False)
    try:
        yield provider
    finally:
        provider.shutdown()


@contextmanager
def pools_traced(exporter: SpanExporter) -> Iterator[TracerProvider]:
    """Trace all pools; each span is sent when it ends."""
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = trace_pools(provider, mode="all")
    try:
        yield provider
    finally:
        tracer.close()
        provider.shutdown()
