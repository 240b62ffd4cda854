import asyncio
import gc
import itertools
import json
import math
import subprocess
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    MeterProvider,
    ObservableCounter,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    InMemoryMetricReader,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    PeriodicExportingMetricReader,
    ResourceMetrics,
)
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from poolscope import ConnectFailedError, ConnectionPoolMetrics, bus
from poolscope import registry as pools
from poolscope.events import PoolClosed
from poolscope.histogram import Exemplar
from poolscope.reasons import CloseReason
from poolscope.stats import PoolStats
from poolscope.telemetry import catalog
from poolscope.telemetry.export.closed import MOST_CLOSED
from poolscope.telemetry.otel_export import (
    PoolExporter,
    aggregation_preference,
    temporality_preference,
)
from poolscope.telemetry.otel_metrics import observe_pools
from poolscope.telemetry.otel_spans import PoolTracer
from tests.support import run
from tests.telemetry.outbox import (
    CUMULATIVE,
    DELTA,
    Outbox,
    Preferred,
    Road,
    assert_catalogue,
    metrics_of,
    road,
    series_now,
    series_of,
    summed,
    without_empty_histograms,
)
from tests.telemetry.series import (
    Series,
    key,
    of_families,
    of_otel,
    scrape,
    scrape_openmetrics,
)
from tests.telemetry.traffic import (
    Clock,
    FakeSource,
    drive,
    fail_to_connect,
    fake_source,
    hold,
    make_pool,
    waiter,
)

POOL = "db_client_connection_pool_name"
STATE = "db_client_connection_state"
ORDERS = {POOL: "orders"}
USE = "db_client_connection_use_time_seconds"
FAILURES = "poolscope_acquire_failures_total"
CLOSED = "poolscope_connection_closed_total"
POOLS = key("poolscope_pools")
TIMEOUTS = key("db_client_connection_timeouts_total", **ORDERS)
EMPTY = MetricsData([ResourceMetrics(Resource.get_empty(), [], "")])
SUCCESS, FAILURE = MetricExportResult.SUCCESS, MetricExportResult.FAILURE


@pytest.fixture
def way() -> Iterator[Road]:
    """A program whose exporter is wrapped, and observed."""
    with road(CUMULATIVE) as made:
        yield made


@pytest.fixture
def deltas() -> Iterator[Road]:
    with road(DELTA) as made:
        yield made


def points(data: MetricsData | None, metric: catalog.Metric, **more: str) -> list[Any]:
    """The points of a metric, with these attributes besides the name of the pool."""
    found = metrics_of(data).get(metric.name)
    wanted = {name.replace("_", "."): value for name, value in more.items()}
    return [
        point
        for point in (found.data.data_points if found else ())
        if {k: v for k, v in (point.attributes or {}).items() if k != catalog.POOL_NAME} == wanted
    ]


def exemplars(data: MetricsData | None) -> list[tuple[str, str | None, Any]]:
    """All exemplars, with the name and the error type of the histogram."""
    return [
        (metric.prometheus_name, (point.attributes or {}).get(catalog.ERROR_TYPE), exemplar)
        for metric in catalog.METRICS
        if metric.kind == "histogram"
        for point in metrics_of(data)[metric.name].data.data_points
        for exemplar in point.exemplars
    ]


def shown(series: Series) -> set[str]:
    return {pool for _, labels in series if (pool := dict(labels).get(POOL))}


def close(source: FakeSource) -> None:
    """What a pool does at its end."""
    source.state = "closed"
    bus.ROOT.publish(PoolClosed, source.name, 0.0, 1)
    pools.release(source.name, source)


# The same as on the other roads


def test_every_metric_of_the_catalogue_is_sent_as_it_says(way: Road) -> None:
    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock, max_waiting=1) as pool:
            await drive(pool, clock)
            assert_catalogue(metrics_of(way.get_metrics_data()))

    run(main())


def test_all_roads_give_the_same_series(
    reader: InMemoryMetricReader, way: Road, deltas: Road
) -> None:
    async def main() -> dict[str, Series]:
        clock = Clock()
        async with (
            make_pool("orders", clock, max_waiting=1) as orders,
            make_pool("users", clock, error=ConnectionRefusedError()) as users,
        ):
            deltas.get_metrics_data()
            await drive(orders, clock)
            deltas.outbox.answer = lambda: FAILURE
            assert deltas.get_metrics_data() is None
            await fail_to_connect(users)
            deltas.outbox.answer = lambda: SUCCESS
            deltas.get_metrics_data()
            async with orders.connection():
                task = await waiter(orders, clock)
                clock.now += 1.5
                deltas.get_metrics_data()
                found = {
                    "prometheus": of_families(scrape()),
                    "cumulative": series_now(way),
                    "delta": summed(deltas.outbox.sent),
                    "api": of_otel(reader),
                }
            await task
            return found

    found = run(main())
    assert len(found["prometheus"]) > 200
    assert found["cumulative"] == pytest.approx(found["prometheus"])
    assert found["delta"] == pytest.approx(found["prometheus"])
    assert found["api"] == pytest.approx(without_empty_histograms(found["prometheus"]))


def test_what_a_pool_cannot_tell_has_no_series_on_any_road(
    reader: InMemoryMetricReader, way: Road, deltas: Road
) -> None:
    silent, _other = FakeSource("silent"), FakeSource("other")
    silent.omits = frozenset({catalog.MAX.name, catalog.FAILURES.name, catalog.WAIT_TIME.name})
    roads = {
        "prometheus": of_families(scrape()),
        "cumulative": series_now(way),
        "delta": series_now(deltas),
        "api": of_otel(reader),
    }
    for way_there, series in roads.items():
        names = {
            pool: {name for name, labels in series if dict(labels).get(POOL) == pool}
            for pool in ("silent", "other")
        }
        missing = names["other"] - names["silent"]
        wanted = {"db_client_connection_max", "poolscope_acquire_failures_total"}
        if way_there != "api":  # which has no histogram before its first value
            name = "db_client_connection_wait_time_seconds"
            wanted |= {f"{name}_bucket", f"{name}_count", f"{name}_sum"}
        assert missing == wanted, way_there
        assert not names["silent"] - names["other"], way_there


def test_all_roads_lead_to_the_same_spans(
    reader: InMemoryMetricReader,
    way: Road,
    deltas: Road,
    tracer: PoolTracer,
    provider: TracerProvider,
) -> None:
    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock, max_waiting=1) as pool:
            with provider.get_tracer("app").start_as_current_span("request"):
                await drive(pool, clock)
            roads = [road.get_metrics_data() for road in (reader, way, deltas)]
            led = {
                (family.name, sample.labels.get("error_type"), int(exemplar.labels["span_id"], 16))
                for family in scrape_openmetrics()
                for sample in family.samples
                if (exemplar := sample.exemplar)
            }
        assert len(led) >= 7
        for data in roads:
            assert {(name, error, e.span_id) for name, error, e in exemplars(data)} == led
        assert values(roads[0]) == values(roads[1]) == values(roads[2])

    def values(data: MetricsData | None) -> set[tuple[int | None, int | None, float]]:
        return {(each.trace_id, each.span_id, each.value) for _, _, each in exemplars(data)}

    run(main())


def test_what_is_sent_can_be_encoded(way: Road) -> None:
    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock, max_waiting=1) as pool:
            await drive(pool, clock)
            pool.get_metrics().wait.exemplify(Exemplar(0.02, 1, 2, 3))
            way.get_metrics_data()

    run(main())
    (data,) = way.outbox.sent
    encoded = encode_metrics(data).resource_metrics[0].scope_metrics[0]
    assert len(encoded.metrics) == len(catalog.METRICS)
    by_name = {metric.name: metric for metric in encoded.metrics}
    wait = by_name[catalog.WAIT_TIME.name].histogram.data_points[0]
    assert (wait.count, wait.sum) == (4, pytest.approx(0.82))
    assert not wait.HasField("min")
    assert [exemplar.as_double for exemplar in wait.exemplars] == [0.02]
    assert by_name[catalog.MAX.name].sum.data_points[0].as_int == 1
    assert by_name[catalog.ACQUIRE_TIMEOUT.name].gauge.data_points[0].as_double == 10.0
    read = json.loads(data.to_json())
    assert len(read["resource_metrics"][0]["scope_metrics"][0]["metrics"]) == len(catalog.METRICS)


def test_points_are_those_of_the_sdk_and_can_be_counted_and_picked(way: Road) -> None:
    with fake_source("orders"):
        closed = metrics_of(way.get_metrics_data())[catalog.CLOSED.name].data.data_points
    assert len(closed) == len(CloseReason)
    first = closed[0]
    assert isinstance(first, NumberDataPoint)
    assert first == NumberDataPoint(
        {catalog.POOL_NAME: "orders", catalog.REASON: "idle"},
        first.start_time_unix_nano, first.time_unix_nano, 0, (),
    )  # fmt: skip
    assert closed[-2:] == list(closed)[-2:]


# What a provider and its exporter give together


def test_a_receiver_sees_one_resource_one_scope_and_every_metric_once(way: Road) -> None:
    way.provider.get_meter("app").create_counter("sold").add(3)
    with fake_source("orders"):
        data = way.get_metrics_data()
    assert data is not None
    (resource,) = data.resource_metrics
    assert resource.resource.attributes["telemetry.sdk.name"] == "opentelemetry"
    names = {scope.scope.name: [m.name for m in scope.metrics] for scope in resource.scope_metrics}
    assert names["app"] == ["sold"]
    assert sorted(names[catalog.SCOPE]) == sorted(metric.name for metric in catalog.METRICS)


def test_other_readers_of_the_provider_see_how_many_pools_there_are() -> None:
    exporter = PoolExporter(Outbox())
    provider = MeterProvider([other := InMemoryMetricReader()], shutdown_on_exit=False)
    observer = observe_pools(provider, exporter)
    with fake_source("orders"):
        assert of_otel(other) == {POOLS: 1}
    assert of_otel(other) == {POOLS: 0}
    observer.close()
    provider.shutdown()


def test_without_pools_there_is_nothing_but_their_number(way: Road) -> None:
    assert series_now(way) == {POOLS: 0}


def test_data_of_a_program_that_is_not_observed_is_passed_on_as_it_is() -> None:
    exporter = PoolExporter(outbox := Outbox())
    with fake_source("orders"):
        assert exporter.export(EMPTY) is SUCCESS
    assert outbox.sent[0] is EMPTY


def test_what_comes_without_our_scope_gets_one() -> None:
    exporter = PoolExporter(outbox := Outbox())
    exporter.open()
    with fake_source("orders"):
        exporter.export(EMPTY)
        exporter.export(nothing := MetricsData([]))
    exporter.close()
    assert shown(series_of(outbox.sent[0])) == {"orders"}
    assert outbox.sent[1] is nothing


def test_a_closed_observer_silences_its_exporter_until_it_is_opened_again(way: Road) -> None:
    hooks = dict(bus.ROOT.hooks)
    with fake_source("orders"):
        way.observer.close()
        way.observer.close()
        assert all(not hook for hook in bus.ROOT.hooks.values())
        assert way.get_metrics_data() is None
        observe_pools(way.provider)
        assert bus.ROOT.hooks.keys() == hooks.keys()
        assert shown(series_now(way)) == {"orders"}


def test_observing_again_changes_nothing(way: Road) -> None:
    again = observe_pools(way.provider)
    assert again is way.observer
    assert observe_pools(way.provider, way.exporter) is again

    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            await hold(pool, clock, 1.0)
            data = way.get_metrics_data()
            (point,) = points(data, catalog.USE_TIME)
            assert point.count == 1
            assert data is not None
            (scope,) = data.resource_metrics[0].scope_metrics
            assert len(scope.metrics) == len(catalog.METRICS)

    run(main())


def test_an_exporter_that_comes_later_takes_over_from_the_api(way: Road) -> None:
    exporter = PoolExporter(outbox := Outbox(), CUMULATIVE)
    provider = MeterProvider(
        [PeriodicExportingMetricReader(exporter, math.inf)], shutdown_on_exit=False
    )
    observer = observe_pools(provider)

    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            await hold(pool, clock, 1.0)
            provider.force_flush()
            observe_pools(provider, exporter)
            await hold(pool, clock, 1.0)
            provider.force_flush()

    run(main())
    before, after = (metrics_of(data) for data in outbox.sent)
    assert before.keys() == after.keys() == {metric.name for metric in catalog.METRICS}
    assert [point.count for point in points(outbox.sent[0], catalog.USE_TIME)] == [1]
    assert [point.count for point in points(outbox.sent[1], catalog.USE_TIME)] == [2]
    assert outbox.sent[1] is not None
    (scope,) = outbox.sent[1].resource_metrics[0].scope_metrics
    assert len(scope.metrics) == len(catalog.METRICS)
    observer.close()
    provider.shutdown()


def test_the_exporter_is_not_kept_alive_by_its_observer() -> None:
    provider = MeterProvider(shutdown_on_exit=False)
    exporter = PoolExporter(Outbox())
    observer = observe_pools(provider, exporter)
    alive = weakref.ref(exporter)
    observer.close()
    del exporter
    gc.collect()
    assert alive() is None
    provider.shutdown()


# Temporality


@pytest.mark.parametrize(
    ("word", "counter", "histogram", "observable"),
    [
        ("", "CUMULATIVE", "CUMULATIVE", "CUMULATIVE"),
        ("cumulative", "CUMULATIVE", "CUMULATIVE", "CUMULATIVE"),
        (" Delta ", "DELTA", "DELTA", "DELTA"),
        ("LOWMEMORY", "DELTA", "DELTA", "CUMULATIVE"),
        ("unknown", "CUMULATIVE", "CUMULATIVE", "CUMULATIVE"),
    ],
)
def test_the_temporality_is_the_one_the_environment_asks_for(
    monkeypatch: pytest.MonkeyPatch, word: str, counter: str, histogram: str, observable: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", word)
    names = {kind: temporality.name for kind, temporality in temporality_preference().items()}
    assert names[Counter] == counter
    assert names[Histogram] == histogram
    assert names[ObservableCounter] == observable
    assert names[UpDownCounter] == names[ObservableUpDownCounter] == "CUMULATIVE"
    with fake_source("orders"), road(None) as way:
        way.provider.get_meter("app").create_counter("sold").add(1)
        sent = metrics_of(way.get_metrics_data())
    assert sent["sold"].data.aggregation_temporality.name == counter
    assert sent[catalog.TIMEOUTS.name].data.aggregation_temporality.name == observable
    assert sent[catalog.USE_TIME.name].data.aggregation_temporality.name == histogram
    assert sent[catalog.MAX.name].data.aggregation_temporality.name == "CUMULATIVE"


def test_histograms_of_the_application_are_what_the_environment_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variable = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
    assert aggregation_preference() == {}
    monkeypatch.setenv(variable, "base2_exponential_bucket_histogram")
    assert isinstance(aggregation_preference()[Histogram], ExponentialBucketHistogramAggregation)
    with fake_source("orders"), road(None) as way:
        way.provider.get_meter("app").create_histogram("price").record(1.0)
        sent = metrics_of(way.get_metrics_data())
    assert type(sent["price"].data).__name__ == "ExponentialHistogram"
    assert isinstance(sent[catalog.USE_TIME.name].data.data_points[0], HistogramDataPoint)


def test_totals_count_from_the_beginning_of_the_pool(way: Road) -> None:
    with fake_source("orders") as source:
        began = int(source.metrics.start_time * 1e9)
        for _ in range(2):
            source.metrics.leaks += 1
            (leaks,) = points(way.get_metrics_data(), catalog.LEAKS)
            assert leaks.start_time_unix_nano == began <= leaks.time_unix_nano
        assert leaks.value == 2


def test_a_series_never_ends_before_it_began(way: Road, deltas: Road) -> None:
    with fake_source("orders") as source:
        source.metrics.start_time += 3600  # the clock was set meanwhile
        for data in (way.get_metrics_data(), deltas.get_metrics_data(), deltas.get_metrics_data()):
            (leaks,) = points(data, catalog.LEAKS)
            assert leaks.start_time_unix_nano <= leaks.time_unix_nano


def test_deltas_follow_each_other_without_a_gap(deltas: Road) -> None:
    with fake_source("orders") as source:
        ends, found = [int(source.metrics.start_time * 1e9)], []
        for number in (3, 0, 2):
            source.metrics.leaks += number
            source.metrics.use.record(1.0)
            data = deltas.get_metrics_data()
            (leaks,), (use,) = points(data, catalog.LEAKS), points(data, catalog.USE_TIME)
            assert leaks.start_time_unix_nano == use.start_time_unix_nano == ends[-1]
            assert (use.count, use.sum, sum(use.bucket_counts)) == (1, 1.0, 1)
            ends.append(leaks.time_unix_nano)
            found.append(leaks.value)
    assert found == [3, 0, 2]
    assert sorted(ends) == ends


def test_an_export_that_fails_loses_nothing(deltas: Road) -> None:
    def broken() -> MetricExportResult:
        raise ConnectionError

    with fake_source("orders") as source:
        for answer in (lambda: SUCCESS, lambda: FAILURE, broken, lambda: SUCCESS):
            source.metrics.leaks += 1
            source.metrics.wait.record(0.02)
            source.metrics.wait.exemplify(Exemplar(0.02, source.metrics.leaks, 2, 3))
            deltas.outbox.answer = answer
            deltas.get_metrics_data()
    leaks = [points(data, catalog.LEAKS)[0] for data in deltas.outbox.sent]
    assert [point.value for point in leaks] == [1, 3]
    assert leaks[1].start_time_unix_nano == leaks[0].time_unix_nano
    assert [p.count for d in deltas.outbox.sent for p in points(d, catalog.WAIT_TIME)] == [1, 3]
    assert [e.time_unix_nano for d in deltas.outbox.sent for _, _, e in exemplars(d)] == [1, 4]
    assert (deltas.exporter.exports, deltas.exporter.failed) == (4, 2)


@pytest.mark.parametrize("preferred", [CUMULATIVE, DELTA], ids=["cumulative", "delta"])
def test_an_exemplar_is_sent_once(preferred: Preferred) -> None:
    with fake_source("orders") as source, road(preferred) as way:
        wait = source.metrics.wait
        wait.record(0.02)
        wait.exemplify(Exemplar(0.02, 1, 2, 3))
        (first,) = exemplars(way.get_metrics_data())
        wait.exemplify(Exemplar(0.7, 2, 4, 5))
        (second,) = exemplars(way.get_metrics_data())
        assert exemplars(way.get_metrics_data()) == []
    assert (first[2].trace_id, first[2].span_id, first[2].value) == (2, 3, 0.02)
    assert (second[2].trace_id, second[2].span_id, second[2].value) == (4, 5, 0.7)


def test_levels_can_be_sent_as_deltas_too() -> None:
    levels: Preferred = {ObservableUpDownCounter: AggregationTemporality.DELTA}
    with road(levels) as way:
        source = FakeSource("orders", size=4)  # looked at twice each time: 2, 0, 2, 0 are idle
        idle = [
            points(way.get_metrics_data(), catalog.COUNT, db_client_connection_state="idle")
            for _ in range(4)
        ]
        close(source)
        data = way.get_metrics_data()
    assert [point.value for (point,) in idle] == [2, -2, 2, -2]
    # Whoever adds them up ends with nothing.
    states = ("idle", "used")
    ends = [points(data, catalog.COUNT, db_client_connection_state=state) for state in states]
    assert [point.value for (point,) in ends] == [0, -4]
    sent = [point.value for each in way.outbox.sent for point in points(each, catalog.MAX)]
    assert (len(sent), sum(sent)) == (5, 0)


def test_metrics_that_were_reset_begin_a_new_series(deltas: Road, way: Road) -> None:
    with fake_source("orders") as source:
        source.metrics.leaks = 5
        source.metrics.use.record(1.0)
        source.bus.failures = 7
        deltas.get_metrics_data()
        way.get_metrics_data()
        began = int(source.metrics.start_time * 1e9)
        source.metrics.reset()
        source.metrics.leaks = 2
        source.bus.failures += 1
        data, total = deltas.get_metrics_data(), way.get_metrics_data()
        again = int(source.metrics.start_time * 1e9)
    for each in (data, total):
        (leaks,), (use,) = points(each, catalog.LEAKS), points(each, catalog.USE_TIME)
        assert (leaks.value, use.count) == (2, 0)
        assert leaks.start_time_unix_nano == use.start_time_unix_nano == again
    # A reset does not touch what the pool does not count in its metrics.
    (errors,) = points(data, catalog.SUBSCRIBER_ERRORS)
    assert (errors.value, errors.start_time_unix_nano < again) == (1, True)
    (errors,) = points(total, catalog.SUBSCRIBER_ERRORS)
    assert (errors.value, errors.start_time_unix_nano) == (8, began)


def test_a_delta_is_never_negative(deltas: Road) -> None:
    with fake_source("orders") as source:
        for leaks, uses in ((5, 3), (2, 1), (3, 1)):
            source.metrics.leaks = leaks
            source.metrics.use.counts[0] = uses
            deltas.get_metrics_data()
    leaks_sent = [points(data, catalog.LEAKS)[0].value for data in deltas.outbox.sent]
    uses_sent = [points(data, catalog.USE_TIME)[0].count for data in deltas.outbox.sent]
    assert leaks_sent == [5, 0, 1]
    assert uses_sent == [3, 1, 0]


def test_two_exporters_of_one_provider_count_apart() -> None:
    boxes = [Outbox(), Outbox()]
    exporters = [PoolExporter(box, DELTA) for box in boxes]
    readers = [PeriodicExportingMetricReader(exporter, math.inf) for exporter in exporters]
    provider = MeterProvider(readers, shutdown_on_exit=False)
    for exporter in exporters:
        observer = observe_pools(provider, exporter)
    with fake_source("orders") as source:
        for _ in range(2):
            source.metrics.leaks += 2
            readers[0].collect()
        readers[1].collect()
    observer.close()
    provider.shutdown()
    sent = [[points(data, catalog.LEAKS)[0].value for data in box.sent[:2]] for box in boxes]
    assert sent == [[2, 2], [4, 0]] or sent == [[2, 2], [4]]


# Pools that close


@pytest.mark.parametrize("preferred", [CUMULATIVE, DELTA], ids=["cumulative", "delta"])
def test_a_pool_that_lives_shorter_than_the_interval_shows_up_once(preferred: Preferred) -> None:
    async def main() -> Series:
        clock = Clock()
        async with make_pool("orders", clock, max_waiting=1) as pool:
            await drive(pool, clock)
            return of_families(scrape())

    with road(preferred) as way:
        before = run(main())
        series = series_now(way)
        assert series_now(way) == {POOLS: 0}
    levels = {metric.prometheus_name for metric in catalog.METRICS if metric.kind != "counter"}
    assert series.keys() == before.keys()
    for (name, labels), value in series.items():
        if name.endswith(("_total", "_bucket", "_count", "_sum")) and name not in levels:
            closed = (CLOSED, frozenset({(POOL, "orders"), ("reason", "pool_closed")}))
            assert value == pytest.approx(before[name, labels]) or (name, labels) == closed
        elif not name.startswith("poolscope_acquire_timeout") and "used_peak" not in name:
            assert value == 0


def test_what_a_pool_did_after_the_last_export_is_sent_when_it_has_closed(deltas: Road) -> None:
    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            await hold(pool, clock, 1.0)
            deltas.get_metrics_data()
            await hold(pool, clock, 1.0)
            await hold(pool, clock, 1.0)
        deltas.outbox.answer = lambda: FAILURE
        deltas.get_metrics_data()
        deltas.outbox.answer = lambda: SUCCESS
        deltas.get_metrics_data()

    run(main())
    uses = [point for data in deltas.outbox.sent for point in points(data, catalog.USE_TIME)]
    assert [point.count for point in uses] == [1, 2]
    assert uses[1].start_time_unix_nano == uses[0].time_unix_nano
    closed = [
        point.value
        for data in deltas.outbox.sent
        for point in points(data, catalog.CLOSED, reason="pool_closed")
    ]
    assert closed == [0, 1]


@pytest.mark.parametrize("preferred", [CUMULATIVE, DELTA], ids=["cumulative", "delta"])
def test_pools_of_one_name_after_the_other_are_series_after_series(preferred: Preferred) -> None:
    with road(preferred) as way:
        for leaks in (1, 2, 4):
            source = FakeSource("orders")
            source.metrics.leaks = source.bus.failures = leaks
            if leaks == 1:
                way.get_metrics_data()
            if leaks != 4:
                close(source)
        data = way.get_metrics_data()
        pools.release("orders", source)
    for metric in (catalog.LEAKS, catalog.SUBSCRIBER_ERRORS):
        found = points(data, metric)
        assert [point.value for point in found] == [0 if preferred is DELTA else 1, 2, 4]
        for earlier, later in itertools.pairwise(found):
            assert earlier.time_unix_nano <= later.start_time_unix_nano <= later.time_unix_nano


def test_a_pool_that_begins_again_goes_on_counting(deltas: Road) -> None:
    async def main() -> None:
        clock = Clock()
        pool = make_pool("orders", clock, error=ConnectionRefusedError(), min_size=1)
        for _ in range(2):
            for _ in range(2):
                with pytest.raises(ConnectFailedError):
                    await pool.initialize()
            deltas.get_metrics_data()
        await pool.close()
        deltas.get_metrics_data()

    run(main())
    refused = [
        [point.value for point in points(data, catalog.CONNECT_FAILURES, error_type="refused")]
        for data in deltas.outbox.sent
    ]
    assert refused[:2] == [[2], [2]]
    assert sum(map(sum, refused)) == 4


def test_a_pool_that_has_begun_again_is_not_sent_as_closed(deltas: Road) -> None:
    with fake_source("orders") as source:
        source.metrics.leaks = 1
        source.state = "closed"
        bus.ROOT.publish(PoolClosed, "orders", 0.0, 1)
        source.state = "open"
        source.metrics.leaks = 2
        for _ in range(2):
            deltas.exporter.export(EMPTY)
    leaks = [[p.value for p in points(data, catalog.LEAKS)] for data in deltas.outbox.sent]
    limits = [[p.value for p in points(data, catalog.MAX)] for data in deltas.outbox.sent]
    assert leaks == [[2], [0]]
    assert limits == [[source.looks - 1], [source.looks]]


def test_what_closes_too_late_for_an_export_is_for_the_next(deltas: Road) -> None:
    def close_meanwhile() -> MetricExportResult:
        close(source)
        return SUCCESS

    source = FakeSource("orders")
    source.metrics.leaks = 1
    deltas.get_metrics_data()
    source.metrics.leaks = 3
    source.state = "closed"  # nobody was told yet
    deltas.outbox.answer = close_meanwhile
    deltas.get_metrics_data()
    deltas.outbox.answer = lambda: SUCCESS
    deltas.get_metrics_data()
    leaks = [[p.value for p in points(data, catalog.LEAKS)] for data in deltas.outbox.sent]
    assert leaks == [[1], [], [2]]


def test_a_pool_that_closes_while_others_are_read_is_sent_as_closed(deltas: Road) -> None:
    class Last(FakeSource):
        def stats(self) -> PoolStats:
            if source.metrics.leaks == 2:
                source.metrics.leaks = 3
                close(source)
            return super().stats()

    source, last = FakeSource("orders"), Last("users")
    for leaks in (1, 2):
        source.metrics.leaks = leaks
        # Read by hand, as the provider would read it once more.
        deltas.exporter.export(EMPTY)
    deltas.exporter.export(EMPTY)
    pools.release("users", last)
    values = [
        [
            p.value
            for p in points(data, catalog.LEAKS)
            if p.attributes[catalog.POOL_NAME] == "orders"
        ]
        for data in deltas.outbox.sent
    ]
    assert values == [[1], [2], []]
    limits = [point.value for point in points(deltas.outbox.sent[1], catalog.MAX)]
    assert limits == [0, last.looks - 1]


def test_of_too_many_that_closed_the_oldest_are_lost_and_counted(way: Road) -> None:
    for number in range(MOST_CLOSED + 3):
        close(FakeSource(f"job-{number}"))
    assert way.exporter.lost == 3
    names = shown(series_now(way))
    assert len(names) == MOST_CLOSED
    assert "job-2" not in names
    assert "job-3" in names
    way.observer.close()
    assert way.exporter.lost == 3


def test_ten_thousand_pools_leave_nothing_behind(way: Road) -> None:
    def live_and_die(count: int) -> list[weakref.ref[ConnectionPoolMetrics]]:
        gone = []
        for number in range(count):
            source = FakeSource(f"job-{number}")
            source.metrics.wait.record(0.1)
            gone.append(weakref.ref(source.metrics))
            if number % 100 == 0:
                way.get_metrics_data()
            close(source)
        del source
        way.get_metrics_data()
        way.get_metrics_data()
        way.outbox.sent.clear()
        way.outbox.calls.clear()
        return gone

    live_and_die(200)
    gc.collect()
    tracemalloc.start()
    gone = live_and_die(10_000)
    assert not any(each() for each in gone)
    gone.clear()
    gc.collect()
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert left < 100_000


def test_a_pool_that_waits_to_be_sent_is_not_kept_alive(way: Road) -> None:
    async def main() -> weakref.ref[Any]:
        async with make_pool("orders") as pool, pool.connection():
            pass
        return weakref.ref(pool)

    pool = run(main())
    gc.collect()
    assert pool() is None
    assert shown(series_now(way)) == {"orders"}


# Harm


class Poisoned(ConnectionPoolMetrics):
    """What cannot be read."""

    @property
    def failed_wait(self) -> Any:
        raise RuntimeError

    @failed_wait.setter
    def failed_wait(self, _: object) -> None:
        pass


@pytest.mark.parametrize("preferred", [CUMULATIVE, DELTA], ids=["cumulative", "delta"])
def test_pools_that_cannot_be_read_do_not_hide_the_others(preferred: Preferred) -> None:
    with (
        fake_source("fine"),
        fake_source("levels") as levels,
        fake_source("counts") as counts,
        fake_source("words") as words,
        road(preferred) as way,
    ):
        levels.size = 0
        counts.metrics = Poisoned()
        words.metrics.leaks = "many"  # type: ignore[assignment]
        for _ in range(2):
            data = way.get_metrics_data()
            assert shown(series_of(data)) == {"fine"}
            assert data is not None
            encode_metrics(data)
        for source in (levels, counts, words):
            source.state = "closed"
            for _ in range(20):
                bus.ROOT.publish(PoolClosed, source.name, 0.0, 1)
        close(FakeSource("job"))
        assert shown(series_now(way)) == {"fine", "job"}


def test_what_the_application_reports_goes_out_even_if_no_pool_can_be_read(
    way: Road, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "live", None)
    assert way.exporter.export(EMPTY) is SUCCESS
    assert way.outbox.sent[0] is EMPTY


def test_an_endpoint_that_hangs_costs_others_no_more_than_their_deadline(way: Road) -> None:
    hanging, released = threading.Event(), threading.Event()

    def hang() -> MetricExportResult:
        hanging.set()
        released.wait(10)
        return SUCCESS

    way.outbox.answer = hang
    data = MetricsData([])
    first = threading.Thread(target=way.exporter.export, args=(data,))
    first.start()
    hanging.wait(10)
    assert way.exporter.export(data, timeout_millis=1) is FAILURE
    released.set()
    first.join()
    way.outbox.answer = lambda: SUCCESS
    assert way.exporter.export(data) is SUCCESS
    assert (way.exporter.exports, way.exporter.failed) == (3, 1)


def test_deadlines_are_passed_on() -> None:
    exporter = PoolExporter(outbox := Outbox())
    exporter.export(MetricsData([]), timeout_millis=5000)
    assert exporter.force_flush(700)
    exporter.shutdown(300)
    exporter.shutdown(200)
    (name, left), *others = outbox.calls
    assert (name, left) == ("export", pytest.approx(5000, abs=500))
    assert others == [("force_flush", 700), ("shutdown", 300)]


def test_a_provider_that_shuts_down_leaves_its_exporter_the_time_it_has_left() -> None:
    way = Road()
    way.provider.shutdown(timeout_millis=400)
    ((_, left),) = [call for call in way.outbox.calls if call[0] == "shutdown"]
    assert 0 < left <= 400
    way.observer.close()


def test_after_shutdown_nothing_is_heard_or_added() -> None:
    with fake_source("orders"), road(CUMULATIVE) as way:
        way.exporter.shutdown()
        assert not bus.ROOT.hooks[PoolClosed]
        observe_pools(way.provider)
        assert not bus.ROOT.hooks[PoolClosed]
        assert series_now(way) == {POOLS: 1}


def test_pools_may_open_and_close_while_others_export_and_scrape(way: Road, deltas: Road) -> None:
    ended = threading.Event()
    failures: list[BaseException] = []

    def look(read: Any) -> None:
        try:
            while not ended.is_set():
                read()
        except BaseException as error:
            failures.append(error)

    async def work(name: str) -> None:
        for _ in range(40):
            async with make_pool(name) as pool, pool.connection():
                pass

    reads = (way.get_metrics_data, deltas.get_metrics_data, scrape)
    threads = [threading.Thread(target=look, args=(read,)) for read in reads]
    workers = [
        threading.Thread(target=asyncio.run, args=(work(f"job-{number}"),)) for number in range(3)
    ]
    for thread in threads + workers:
        thread.start()
    for thread in workers:
        thread.join()
    ended.set()
    for thread in threads:
        thread.join()
    deltas.get_metrics_data()
    assert failures == []
    assert (way.exporter.failed, deltas.exporter.failed) == (0, 0)
    total: dict[str, int] = {}
    for data in deltas.outbox.sent:
        for point in points(data, catalog.USE_TIME):
            name = point.attributes[catalog.POOL_NAME]
            total[name] = total.get(name, 0) + point.count
    assert total == {f"job-{number}": 40 for number in range(3)}


CROWD = """
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from poolscope import registry
from poolscope.telemetry import catalog
from poolscope.telemetry.otel_metrics import observe_pools
from tests.telemetry.outbox import metrics_of, road
from tests.telemetry.test_otel_export import close
from tests.telemetry.traffic import FakeSource

registry.MOST_POOLS = 1
sources = [FakeSource(name) for name in "abc"]
for number, source in enumerate(sources):
    source.metrics.leaks = 2**number
provider = MeterProvider([reader := InMemoryMetricReader()])
observe_pools(provider)
with road() as way:
    close(sources[1])
    for data in (reader.get_metrics_data(), way.get_metrics_data()):
        leaks = metrics_of(data)[catalog.LEAKS.name].data.data_points
        print([(*pair, p.value) for p in leaks for pair in p.attributes.items()])
"""


def test_pools_beyond_the_limit_are_one_series_marked_as_opentelemetry_marks_it() -> None:
    done = subprocess.run([sys.executable, "-c", CROWD], capture_output=True, text=True)
    assert done.stderr == ""
    name, overflow = (catalog.POOL_NAME, "a", 1), (catalog.OVERFLOW, True, 6)
    assert done.stdout.splitlines() == [str([name, overflow])] * 2


FORKS = """
import os
from opentelemetry.sdk.metrics.export import MetricsData
from poolscope.telemetry import catalog
from tests.telemetry.outbox import DELTA, Road, series_of
from tests.telemetry.traffic import FakeSource
from tests.telemetry.test_otel_export import close

way = Road(DELTA)
close(FakeSource("job"))
way.outbox.answer = lambda: way.exporter.failed  # no success
way.get_metrics_data()
orders = FakeSource("orders")
orders.metrics.leaks = 3
way.exporter._exporting.acquire()  # as if another thread were exporting
if os.fork():
    os.wait()
else:
    from tests.telemetry.outbox import metrics_of
    from opentelemetry.sdk.metrics.export import MetricExportResult
    way.outbox.answer = lambda: MetricExportResult.SUCCESS
    orders.metrics.reset()
    orders.metrics.leaks = 1
    data = way.get_metrics_data()
    found = metrics_of(data)[catalog.LEAKS.name].data.data_points
    print([(p.attributes[catalog.POOL_NAME], p.value) for p in found])
    print(way.exporter.exports, way.exporter.failed, flush=True)
    os._exit(0)
"""


def test_a_forked_child_sends_only_what_is_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["[('orders', 1)]", "1 0"]
