"""The instrumentor in code: what it reports through, and that it leaves everything as it was."""

import logging
import math
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
from opentelemetry.instrumentation.dependencies import get_dist_dependency_conflicts
from opentelemetry.instrumentation.environment_variables import (
    OTEL_PYTHON_DISABLED_INSTRUMENTATIONS,
)
from opentelemetry.sdk.metrics import Counter, MeterProvider, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    InMemoryMetricReader,
    MetricExporter,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from poolscope import SyncConnectionPool
from poolscope.events import ConnectionAcquired
from poolscope.instrument import libraries
from poolscope.instrument.entry_point import PoolscopeInstrumentor
from poolscope.telemetry import catalog
from poolscope.telemetry.otel_export import PoolExporter
from poolscope.telemetry.otel_metrics import observe_pools
from tests.telemetry.outbox import Outbox, metrics_of
from tests.telemetry.series import collected

ALL = {metric.name for metric in catalog.METRICS}
OURS_ALONE = ",".join(f"poolscope-{name}" for name in libraries.NAMES)


class Service:
    """Providers as a service sets them up, with exporters that keep what they are to send."""

    def __init__(self, *outboxes: MetricExporter) -> None:
        self.readers = [PeriodicExportingMetricReader(each, math.inf) for each in outboxes]
        self.meters = MeterProvider(self.readers, shutdown_on_exit=False)
        self.spans = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.providers: Any = {"meter_provider": self.meters, "tracer_provider": self.tracers}

    def use_a_pool(self) -> int:
        """Use one under a traced caller; return how many hear of each acquire."""
        with SyncConnectionPool(object) as pool:
            request = self.tracers.get_tracer("app").start_as_current_span("request")
            with request, pool.connection():
                pass
            self.meters.force_flush()
            return len(pool.bus.hooks[ConnectionAcquired])

    def span_names(self) -> set[str]:
        return {span.name for span in self.spans.get_finished_spans()}

    def close(self) -> None:
        self.meters.shutdown()
        self.tracers.shutdown()


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def service(outbox: Outbox) -> Iterator[Service]:
    service = Service(outbox)
    yield service
    service.close()


@pytest.fixture
def instrumentor(monkeypatch: pytest.MonkeyPatch) -> Iterator[PoolscopeInstrumentor]:
    """That of this process, which leaves other libraries alone."""
    monkeypatch.setenv(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS, OURS_ALONE)
    instrumentor = PoolscopeInstrumentor()
    yield instrumentor
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()


def last(outbox: Outbox) -> set[str]:
    return set(metrics_of(outbox.sent[-1])) if outbox.sent else set()


def test_the_loader_finds_it_and_sees_no_reason_to_skip_it() -> None:
    (found,) = entry_points(group="opentelemetry_instrumentor", name="poolscope")
    assert found.load() is PoolscopeInstrumentor
    assert found.dist is not None
    assert get_dist_dependency_conflicts(found.dist) is None
    assert PoolscopeInstrumentor().instrumentation_dependencies() == ()


def test_pools_report_by_the_exporters_that_are_there_and_nothing_hears_of_an_acquire(
    instrumentor: PoolscopeInstrumentor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POOLSCOPE_SPANS", "off")
    boxes = Outbox(), Outbox()
    service = Service(*boxes)
    nobody = service.use_a_pool()
    instrumentor.instrument(**service.providers)
    assert service.use_a_pool() == nobody
    assert [last(box) for box in boxes] == [ALL, ALL]
    service.close()


def test_pools_report_their_spans(instrumentor: PoolscopeInstrumentor, service: Service) -> None:
    instrumentor.instrument(**service.providers)
    service.use_a_pool()
    assert service.span_names() == {"request", "pool.acquire", "pool.use"}


def test_afterwards_everything_is_as_before(
    instrumentor: PoolscopeInstrumentor, service: Service, outbox: Outbox
) -> None:
    (reader,) = service.readers
    lock, nobody = reader._export_lock, service.use_a_pool()
    for _ in range(2):
        instrumentor.instrument(**service.providers)
        service.use_a_pool()
        assert last(outbox) == ALL
        instrumentor.uninstrument()
        assert reader._exporter is outbox
        assert reader._export_lock is lock
        outbox.sent.clear()
        service.spans.clear()
        assert service.use_a_pool() == nobody
        assert last(outbox) == set()
        assert service.span_names() == {"request"}


def test_an_exporter_that_somebody_wrapped_meanwhile_stays_wrapped(
    instrumentor: PoolscopeInstrumentor, service: Service, outbox: Outbox
) -> None:
    (reader,) = service.readers
    instrumentor.instrument(**service.providers)
    theirs = PoolExporter(reader._exporter)
    reader._exporter = theirs
    instrumentor.uninstrument()
    assert reader._exporter is theirs
    service.meters.get_meter("app").create_counter("orders").add(1)
    service.use_a_pool()
    assert last(outbox) == {"orders"}


def test_to_instrument_again_changes_nothing(
    instrumentor: PoolscopeInstrumentor, service: Service, outbox: Outbox
) -> None:
    instrumentor.instrument(**service.providers)
    hearers = service.use_a_pool()
    (reader,) = service.readers
    ours = reader._exporter
    instrumentor.instrument(**service.providers)
    assert PoolscopeInstrumentor() is instrumentor
    assert reader._exporter is ours
    assert service.use_a_pool() == hearers
    instrumentor.uninstrument()
    instrumentor.uninstrument()
    assert reader._exporter is outbox


def test_pools_have_the_temporality_that_the_exporter_prefers(
    instrumentor: PoolscopeInstrumentor,
) -> None:
    class Deltas(Outbox):
        def __init__(self) -> None:
            super().__init__()
            delta = AggregationTemporality.DELTA
            self._preferred_temporality = {Counter: delta, ObservableCounter: delta}

    outbox = Deltas()
    service = Service(outbox)
    instrumentor.instrument(**service.providers)
    service.use_a_pool()
    data: Any = metrics_of(outbox.sent[-1])[catalog.CLOSED.name].data
    assert data.aggregation_temporality is AggregationTemporality.DELTA
    service.close()


def test_where_a_reader_has_no_exporter_all_is_reported_through_the_api(
    instrumentor: PoolscopeInstrumentor, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "poolscope")
    service, asked = Service(outbox), InMemoryMetricReader()
    service.meters.add_metric_reader(asked)
    instrumentor.instrument(**service.providers)
    with SyncConnectionPool(object) as pool:
        with pool.connection():
            pass
        service.meters.force_flush()
        assert last(outbox) == set(collected(asked)) == ALL
    (line,) = [each.getMessage() for each in caplog.records if each.name == "poolscope"]
    assert line == "pools report through the API: there is no exporter in InMemoryMetricReader"
    service.close()


def test_an_sdk_that_is_not_known_costs_one_line_in_the_log(
    instrumentor: PoolscopeInstrumentor,
    service: Service,
    outbox: Outbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (reader,) = service.readers
    monkeypatch.delattr(reader, "_export_lock")
    instrumentor.instrument(**service.providers)
    monkeypatch.undo()  # or it could not export
    service.use_a_pool()
    assert last(outbox) == ALL
    (line,) = caplog.messages
    assert line.startswith("pools report through the API, which costs more: OpenTelemetry SDK ")


def test_who_has_an_exporter_of_pools_already_keeps_it(
    instrumentor: PoolscopeInstrumentor, outbox: Outbox
) -> None:
    theirs = PoolExporter(outbox)
    service = Service(theirs)
    observer = observe_pools(service.meters, theirs)
    instrumentor.instrument(**service.providers)
    (reader,) = service.readers
    assert reader._exporter is theirs
    service.use_a_pool()
    instrumentor.uninstrument()
    service.use_a_pool()
    assert [len(metrics_of(sent)) for sent in outbox.sent] == [len(ALL), len(ALL)]
    observer.close()
    service.close()


def test_without_a_reader_nothing_is_recorded(
    instrumentor: PoolscopeInstrumentor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POOLSCOPE_SPANS", "off")
    service = Service()
    nobody = service.use_a_pool()
    instrumentor.instrument(**service.providers)
    assert service.use_a_pool() == nobody
    service.close()


def test_a_disabled_sdk_is_left_alone(
    instrumentor: PoolscopeInstrumentor,
    service: Service,
    outbox: Outbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    nobody = service.use_a_pool()
    instrumentor.instrument(**service.providers)
    (reader,) = service.readers
    assert reader._exporter is outbox
    assert service.use_a_pool() == nobody


def test_a_wrong_variable_costs_the_spans_and_one_line_in_the_log(
    instrumentor: PoolscopeInstrumentor,
    service: Service,
    outbox: Outbox,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("POOLSCOPE_SPANS", "sometimes")
    instrumentor.instrument(**service.providers)
    service.use_a_pool()
    assert service.span_names() == {"request"}
    assert last(outbox) == ALL
    (line,) = caplog.messages
    assert line.startswith("pools have no spans: POOLSCOPE_SPANS, or mode, must be one of")


def test_what_fails_harms_no_other_instrumentation(
    instrumentor: PoolscopeInstrumentor, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(MeterProvider):
        @property
        def _measurement_consumer(self) -> Any:
            raise RuntimeError("postgresql://user:secret@db/shop")

        @_measurement_consumer.setter
        def _measurement_consumer(self, _: Any) -> None:
            pass

    broken = Broken(shutdown_on_exit=False)
    instrumentor.instrument(meter_provider=broken, tracer_provider=service.tracers)
    service.use_a_pool()
    assert "pool.acquire" in service.span_names()
    (line,) = caplog.messages
    assert line.startswith("pools are not reported in full, the service goes on.")
    assert "secret" not in line
