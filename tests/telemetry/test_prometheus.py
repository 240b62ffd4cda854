import gc
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.samples import Sample

from poolscope import registry as pools
from poolscope.reasons import CloseReason, FailureReason
from poolscope.stats import PoolState
from poolscope.telemetry import catalog
from poolscope.telemetry.prometheus import PoolCollector
from tests.support import run
from tests.telemetry.series import (
    Series,
    key,
    of_families,
    pools_registry,
    scrape,
    scrape_openmetrics,
)
from tests.telemetry.traffic import Clock, drive, fake_source, make_pool

POOL = "db_client_connection_pool_name"
WAIT = "db_client_connection_wait_time_seconds"

NAMES = {
    "db_client_connection_count": "gauge",
    "db_client_connection_idle_max": "gauge",
    "db_client_connection_idle_min": "gauge",
    "db_client_connection_max": "gauge",
    "db_client_connection_pending_requests": "gauge",
    "db_client_connection_timeouts": "counter",
    "db_client_connection_create_time_seconds": "histogram",
    "db_client_connection_wait_time_seconds": "histogram",
    "db_client_connection_use_time_seconds": "histogram",
    "poolscope_pools": "gauge",
    "poolscope_acquire_failures": "counter",
    "poolscope_connect_failures": "counter",
    "poolscope_connection_closed": "counter",
    "poolscope_connection_opening": "gauge",
    "poolscope_connection_leaks": "counter",
    "poolscope_connection_used_peak": "gauge",
    "poolscope_use_oldest_seconds": "gauge",
    "poolscope_wait_oldest_seconds": "gauge",
    "poolscope_acquire_timeout_seconds": "gauge",
    "poolscope_saturation_time_seconds": "counter",
    "poolscope_subscriber_errors": "counter",
    "poolscope_events_dropped": "counter",
}


def pools_in(series: Series) -> set[str]:
    return {pool for _, labels in series if (pool := dict(labels).get(POOL))}


# Names, types, units


def test_every_metric_of_the_catalogue_has_its_prometheus_name_and_type() -> None:
    assert len(NAMES) == len(catalog.METRICS)
    assert {family.name: family.type for family in scrape()} == NAMES


def test_samples_are_named_as_a_collector_names_them() -> None:
    with fake_source():
        names = {name for name, _ in of_families(scrape())}
    suffixes = {"gauge": [""], "counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
    assert names == {name + suffix for name, kind in NAMES.items() for suffix in suffixes[kind]}


def test_labels_are_the_attributes_of_the_catalogue() -> None:
    with fake_source():
        series = of_families(scrape())
    shown = {name: dict(labels).keys() for name, labels in series}
    assert shown["poolscope_pools"] == set()
    assert shown["db_client_connection_count"] == {POOL, "db_client_connection_state"}
    assert shown["poolscope_connection_closed_total"] == {POOL, "reason"}
    assert shown["poolscope_acquire_failures_total"] == {POOL, "error_type"}
    assert shown["poolscope_connect_failures_total"] == {POOL, "error_type"}
    assert shown["poolscope_use_oldest_seconds"] == {POOL}


def test_buckets_are_those_of_the_catalogue() -> None:
    with fake_source():
        series = of_families(scrape())
    for metric in (catalog.WAIT_TIME, catalog.USE_TIME, catalog.CREATE_TIME):
        bounds = {
            float(dict(labels)["le"])
            for name, labels in series
            if name == f"{metric.prometheus_name}_bucket"
        }
        assert bounds == {*metric.buckets, float("inf")}


def test_openmetrics_is_well_formed_and_names_the_units() -> None:
    async def main() -> list[Family]:
        clock = Clock()
        async with make_pool("orders", clock, max_waiting=1) as pool:
            await drive(pool, clock)
            return scrape_openmetrics()

    families = run(main())
    assert {family.name: family.type for family in families} == NAMES
    assert {f.name for f in families if f.unit == "seconds"} == {
        metric.prometheus_name for metric in catalog.METRICS if metric.unit == "s"
    }
    assert {family.unit for family in families} == {"", "seconds"}


# Which pools, and when


def test_one_collector_shows_many_pools_while_they_are_open() -> None:
    def names() -> set[str]:
        series = of_families(scrape())
        shown = pools_in(series)
        assert series[key("poolscope_pools")] == len(shown)
        return shown

    async def main() -> None:
        unused = make_pool("unused")
        async with make_pool("orders"):
            async with make_pool("users"):
                assert names() == {"orders", "users"}
            assert names() == {"orders"}
        assert names() == set()
        await unused.close()

    run(main())


def test_a_pool_that_closes_leaves_no_series() -> None:
    async def main() -> Series:
        clock = Clock()
        async with make_pool("orders", clock, max_waiting=1) as pool:
            await drive(pool, clock)
        return of_families(scrape())

    assert run(main()) == {key("poolscope_pools"): 0}


@pytest.mark.parametrize(
    ("state", "shown"), [("new", False), ("open", True), ("closing", True), ("closed", False)]
)
def test_a_source_is_shown_while_it_serves(state: PoolState, shown: bool) -> None:
    with fake_source() as source:
        source.state = state
        assert bool(pools_in(of_families(scrape()))) == shown


def test_each_pool_is_read_once_per_scrape() -> None:
    with fake_source() as source:
        series = of_families(scrape())
    assert source.looks == 1
    levels = [v for (name, _), v in series.items() if name == "db_client_connection_count"]
    assert sum(levels) == source.size


def test_what_was_collected_stays_as_it_was() -> None:
    with fake_source() as source:
        families = list(PoolCollector().collect())
        before = of_families(families)
        source.metrics.failures[FailureReason.TIMEOUT] += 1
        source.metrics.wait.record(1.0)
    assert of_families(families) == before


def test_samples_can_be_counted_picked_and_cut() -> None:
    with fake_source("orders"):
        families = {family.name: family.samples for family in PoolCollector().collect()}
    closed = families["poolscope_connection_closed"]
    assert len(closed) == len(CloseReason)
    assert closed[0] == Sample(
        "poolscope_connection_closed_total", {POOL: "orders", "reason": "idle"}, 0, None, None
    )
    assert closed[-2:] == list(closed)[-2:]


def test_a_registry_can_be_asked_for_some_metrics_only() -> None:
    with fake_source():
        text = generate_latest(pools_registry().restricted_registry([f"{WAIT}_count"]))
    assert [line.split("{")[0] for line in text.decode().splitlines() if line[0] != "#"] == [
        f"{WAIT}_count"
    ]


def test_reading_many_pools_sets_off_no_garbage_collection_for_their_samples() -> None:
    rounds = 0

    def count(phase: str, _: object) -> None:
        nonlocal rounds
        rounds += phase == "start"

    with ExitStack() as stack:
        for number in range(100):
            stack.enter_context(fake_source(f"orders-{number}"))
        collector = PoolCollector()
        gc.callbacks.append(count)
        stack.callback(gc.callbacks.remove, count)
        samples = sum(1 for family in collector.collect() for _ in family.samples)
    assert samples == 95 * 100 + 1
    # To keep them all would take more than ten.
    assert rounds <= 3


# Registries


def test_registering_reads_no_pool() -> None:
    with fake_source() as source:
        CollectorRegistry(auto_describe=True).register(PoolCollector())
    assert source.looks == 0


def test_a_registry_refuses_a_second_collector() -> None:
    registry = pools_registry()
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(PoolCollector())


def test_a_source_that_cannot_be_read_does_not_hide_the_others() -> None:
    class Broken:
        name = "broken"
        bus = metrics = None

        def stats(self) -> None:
            raise RuntimeError("broken")

    broken = Broken()
    pools.register(broken)  # type: ignore[arg-type]
    try:
        with fake_source("fine"):
            shown = pools_in(of_families(scrape()))
    finally:
        pools.release("broken", broken)  # type: ignore[arg-type]
    assert shown == {"fine"}
