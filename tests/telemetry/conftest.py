from collections.abc import Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from poolscope.telemetry.otel_metrics import observe_pools
from poolscope.telemetry.otel_spans import PoolTracer, trace_pools
from tests.behaviour.bench import Driver, for_drivers

BOTH_DRIVERS = {"test_exemplars", "test_otel_spans", "test_span_links"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in BOTH_DRIVERS:
        for_drivers(metafunc)


@pytest.fixture(autouse=True)
def driver_name(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which driver the pools of a test have, asyncio unless it is tried with both."""
    with Driver.named(getattr(request, "param", "asyncio")) as name:
        yield name


@pytest.fixture
def reader() -> Iterator[InMemoryMetricReader]:
    """What a meter provider that all pools report to has collected."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    observer = observe_pools(provider)
    yield reader
    observer.close()
    provider.shutdown()


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> Iterator[TracerProvider]:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


@pytest.fixture
def tracer(provider: TracerProvider) -> Iterator[PoolTracer]:
    tracer = trace_pools(provider)
    yield tracer
    tracer.close()
