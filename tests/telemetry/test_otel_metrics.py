import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, NoOpMeter, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from poolscope import PoolTimeoutError, bus
from poolscope.events import AcquireTimedOut, ConnectionReleased
from poolscope.telemetry import catalog
from poolscope.telemetry.otel_metrics import observe_pools
from poolscope.telemetry.otel_spans import PoolTracer
from poolscope.telemetry.prometheus import PoolCollector
from tests.support import run
from tests.telemetry.outbox import assert_catalogue, without_empty_histograms
from tests.telemetry.series import Series, collected, key, of_families, of_otel
from tests.telemetry.traffic import (
    Clock,
    drive,
    expect,
    fail_to_connect,
    fake_source,
    hold,
    make_pool,
    until,
    waiter,
)

POOL = "db_client_connection_pool_name"
COUNT = "db_client_connection_count"


def durations(reader: InMemoryMetricReader) -> dict[tuple[str, str | None], HistogramDataPoint]:
    """The histograms, by name and error type."""
    return {
        (name.split(".")[-1], (point.attributes or {}).get("error.type")): point
        for name, metric in collected(reader).items()
        for point in metric.data.data_points
        if isinstance(point, HistogramDataPoint)
    }


class CallableMeter(NoOpMeter):
    """Lets a test call the callbacks in any order."""

    def __init__(self) -> None:
        super().__init__("callable")
        self.callbacks: dict[str, Any] = {}

    def create_observable_up_down_counter(
        self, name: str, callbacks: Any = None, *_: Any, **__: Any
    ) -> Any:
        (self.callbacks[name],) = callbacks


class CallableProvider(NoOpMeterProvider):
    def __init__(self, meter: CallableMeter) -> None:
        self.meter = meter

    def get_meter(self, *_: Any, **__: Any) -> CallableMeter:
        return self.meter


def test_every_metric_of_the_catalogue_has_its_instrument_unit_and_buckets(
    reader: InMemoryMetricReader,
) -> None:
    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock, max_waiting=1) as pool:
            await drive(pool, clock)
            metrics = collected(reader)
        assert_catalogue(metrics)

    run(main())


def test_prometheus_and_opentelemetry_give_the_same_series(reader: InMemoryMetricReader) -> None:
    registry = CollectorRegistry()
    registry.register(PoolCollector())

    async def main() -> tuple[Series, Series]:
        clock = Clock()
        async with (
            make_pool("orders", clock, max_waiting=1) as orders,
            make_pool("users", clock, error=ConnectionRefusedError()) as users,
        ):
            await drive(orders, clock)
            await fail_to_connect(users)
            async with orders.connection():
                task = await waiter(orders, clock)
                both = of_families(registry.collect()), of_otel(reader)
            await task
            return both

    prometheus, otel = run(main())
    assert prometheus[key("db_client_connection_pending_requests", **{POOL: "orders"})] == 1
    # The API cannot say that a histogram is empty: there a series begins with its first value.
    assert otel == pytest.approx(without_empty_histograms(prometheus))


def test_a_lost_connection_counts_as_used_until_it_is_taken_back(
    reader: InMemoryMetricReader,
) -> None:
    async def main() -> Series:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            await pool.connection().__aenter__()
            clock.now += 3.0
            gc.collect()
            await until(lambda: pool.stats().in_use == 0)
            return of_otel(reader)

    series = run(main())
    assert series[key("db_client_connection_use_time_seconds_sum", **{POOL: "orders"})] == 3.0


def test_the_numbers_of_one_collection_fit_each_other(reader: InMemoryMetricReader) -> None:
    looked_at = {"idle.max", "idle.min", "max", "pending_requests", "connection.used.peak"}
    with fake_source() as source:
        for collection in (1, 2, 3):
            series = of_otel(reader)
            assert source.looks == collection
            levels = [
                value
                for (name, _), value in series.items()
                if name.endswith(tuple(each.replace(".", "_") for each in looked_at))
            ]
            assert levels == [collection] * len(looked_at)
            assert sum(v for (name, _), v in series.items() if name == COUNT) == source.size


def test_readers_that_collect_at_the_same_time_do_not_mix_their_numbers() -> None:
    meter = CallableMeter()
    observer = observe_pools(provider := CallableProvider(meter))

    def read(metric: catalog.Metric) -> float:
        (observation,) = meter.callbacks[metric.name](CallbackOptions())
        return float(observation.value)

    with fake_source():
        assert read(catalog.MAX) == 1
        others: list[float] = []
        thread = threading.Thread(
            target=lambda: others.extend([read(catalog.MAX), read(catalog.IDLE_MIN)])
        )
        thread.start()
        thread.join()
        assert others == [2, 2]
        assert read(catalog.IDLE_MIN) == 1
    observer.close()
    del provider  # nobody else keeps it


def test_a_source_that_cannot_be_read_does_not_hide_the_others(
    reader: InMemoryMetricReader,
) -> None:
    with fake_source("broken") as broken, fake_source("fine"):
        broken.size = 0  # to divide by
        series = of_otel(reader)
    assert {dict(labels)[POOL] for name, labels in series if name == COUNT} == {"fine"}


def test_a_pool_is_shown_while_it_is_open(reader: InMemoryMetricReader) -> None:
    def names() -> set[str]:
        return {dict(labels)[POOL] for name, labels in of_otel(reader) if name == COUNT}

    async def main() -> None:
        unused = make_pool("unused")
        assert names() == set()
        async with make_pool("orders"):
            assert names() == {"orders"}
        assert names() == set()
        await unused.close()

    run(main())


def test_timeouts_are_zero_when_the_pool_opens(reader: InMemoryMetricReader) -> None:
    async def main() -> Series:
        async with make_pool("orders"):
            return of_otel(reader)

    timeouts = key("db_client_connection_timeouts_total", **{POOL: "orders"})
    assert run(main())[timeouts] == 0


def test_observing_twice_counts_once(reader: InMemoryMetricReader) -> None:
    provider = MeterProvider([other := InMemoryMetricReader()], shutdown_on_exit=False)
    first, second = observe_pools(provider), observe_pools(provider)
    assert first is second

    async def main() -> tuple[Series, Series]:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            await hold(pool, clock, 1.0)
            return of_otel(reader), of_otel(other)

    once, twice = run(main())
    first.close()
    provider.shutdown()
    assert twice == once


def test_a_closed_observer_reports_nothing_and_listens_to_nothing() -> None:
    provider = MeterProvider([reader := InMemoryMetricReader()], shutdown_on_exit=False)
    hooks = dict(bus.ROOT.hooks)
    observer = observe_pools(provider)
    assert bus.ROOT.hooks != hooks

    async def main() -> Series:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            observer.close()
            observer.close()
            await hold(pool, clock, 1.0)
            return of_otel(reader)

    assert run(main()) == {}
    assert bus.ROOT.hooks == hooks
    provider.shutdown()


def test_a_closed_observer_can_be_opened_again() -> None:
    provider = MeterProvider([reader := InMemoryMetricReader()], shutdown_on_exit=False)
    observe_pools(provider).close()
    observer = observe_pools(provider)

    async def main() -> Series:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            await hold(pool, clock, 1.0)
            return of_otel(reader)

    series = run(main())
    observer.close()
    provider.shutdown()
    assert series[key("db_client_connection_max", **{POOL: "orders"})] == 1
    assert series[key("db_client_connection_use_time_seconds_count", **{POOL: "orders"})] == 1


def test_an_observer_keeps_no_meter_provider_alive() -> None:
    provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    alive = weakref.ref(provider)
    observe_pools(provider).close()
    provider.shutdown()
    del provider
    gc.collect()
    assert alive() is None


def test_a_global_provider_set_later_is_found_and_used_once() -> None:
    program = """
import asyncio
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from poolscope.telemetry.otel_metrics import observe_pools
from poolscope.telemetry.otel_spans import PoolTracer
from tests.telemetry.series import of_otel
from tests.telemetry.traffic import Clock, hold, make_pool

early = observe_pools()
provider = MeterProvider([reader := InMemoryMetricReader()])
metrics.set_meter_provider(provider)
assert observe_pools() is early
assert observe_pools(provider) is early

async def main():
    async with make_pool("orders", clock := Clock()) as pool:
        await hold(pool, clock, 1.0)
        return of_otel(reader)

for (name, labels), value in asyncio.run(main()).items():
    if not name.endswith("bucket"):
        print(name, value)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert "db_client_connection_use_time_seconds_count 1" in lines
    assert "db_client_connection_max 1" in lines


def test_concurrent_tasks_are_recorded_one_by_one(reader: InMemoryMetricReader) -> None:
    async def main() -> Series:
        clock = Clock()
        async with make_pool("orders", clock, max_size=3) as pool:
            await asyncio.gather(*(hold(pool, clock, 0.0) for _ in range(50)))
            return of_otel(reader)

    series = run(main())
    assert series[key("db_client_connection_wait_time_seconds_count", **{POOL: "orders"})] == 50
    assert series[key("db_client_connection_use_time_seconds_count", **{POOL: "orders"})] == 50


# Where exemplars lead


def test_an_exemplar_leads_to_the_pools_own_span(
    reader: InMemoryMetricReader,
    tracer: PoolTracer,
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
) -> None:
    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            with provider.get_tracer("app").start_as_current_span("request"):
                await hold(pool, clock, 1.0)

    run(main())
    spans = {span.name: span.context for span in exporter.get_finished_spans()}
    led = {
        name: [(e.trace_id, e.span_id) for e in point.exemplars]
        for (name, _), point in durations(reader).items()
    }
    for histogram, name in (("wait", "acquire"), ("use", "use"), ("create", "connect")):
        context = spans[f"pool.{name}"]
        assert context is not None
        assert led[f"{histogram}_time"] == [(context.trace_id, context.span_id)]


def test_a_value_without_a_span_of_its_own_leads_nowhere(
    reader: InMemoryMetricReader, provider: TracerProvider
) -> None:
    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            with provider.get_tracer("app").start_as_current_span("unrelated"):
                await hold(pool, clock, 1.0)
                async with pool.connection():
                    await expect(PoolTimeoutError, pool)

    run(main())
    points = durations(reader)
    assert points.keys() == {
        ("wait_time", None), ("wait_time", "timeout"), ("use_time", None), ("create_time", None)
    }  # fmt: skip
    assert not [point for point in points.values() if point.exemplars]


# How many pools have series of their own


def test_pools_beyond_the_limit_share_one_series_for_ever(
    reader: InMemoryMetricReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "MOST_POOLS", 2)
    for pool in ("a", "b", "c", "d", "a"):
        bus.ROOT.publish(ConnectionReleased, pool, 0.0, 1, 1, "1", 0.5, 0.0)
        bus.ROOT.publish(AcquireTimedOut, pool, 0.0, 2, 2, 0.5, None, None)
    metrics = collected(reader)
    counted = {
        (name.split(".")[-1], tuple(sorted((point.attributes or {}).items()))): point.count
        for name, metric in metrics.items()
        for point in metric.data.data_points
        if isinstance(point, HistogramDataPoint)
    }
    name, timeout = catalog.POOL_NAME, (catalog.ERROR_TYPE, "timeout")
    assert counted == {
        ("use_time", ((name, "a"),)): 2,
        ("use_time", ((name, "b"),)): 1,
        ("use_time", ((catalog.OVERFLOW, True),)): 2,
        ("wait_time", ((name, "a"), timeout)): 2,
        ("wait_time", ((name, "b"), timeout)): 1,
        ("wait_time", (timeout, (catalog.OVERFLOW, True))): 2,
    }
