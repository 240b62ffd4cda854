import asyncio

import pytest
from prometheus_client.core import Metric as Family
from prometheus_client.samples import Sample

from poolscope import ConnectionPool, ConnectionPoolSettings, PoolClosedError
from poolscope.histogram import Exemplar, Histogram
from poolscope.reasons import CloseReason, FailureReason
from poolscope.telemetry import catalog
from tests.support import run
from tests.telemetry.series import Series, key, of_families, scrape, scrape_openmetrics
from tests.telemetry.traffic import (
    Clock,
    Connection,
    drive,
    expect,
    fail_to_connect,
    fake_source,
    make_pool,
    until,
    waiter,
)

POOL = "db_client_connection_pool_name"
ORDERS = {POOL: "orders"}
WAIT = "db_client_connection_wait_time_seconds"
USE = "db_client_connection_use_time_seconds"
CREATE = "db_client_connection_create_time_seconds"


def after_driving() -> tuple[Series, Series]:
    """What is shown when the pool has just opened, and after the known traffic."""

    async def main() -> tuple[Series, Series]:
        clock = Clock()
        async with make_pool("orders", clock, max_waiting=1) as pool:
            before = of_families(scrape())
            await drive(pool, clock)
            return before, of_families(scrape())

    return run(main())


# Levels and counts


def test_levels_are_those_of_the_pool() -> None:
    async def main() -> Series:
        async with (
            make_pool("orders", min_size=1, max_size=4, max_idle=3, acquire_timeout=60) as pool,
            pool.connection(),
            pool.connection(),
        ):
            return of_families(scrape())

    series = run(main())
    state = "db_client_connection_state"
    assert series[key("db_client_connection_count", **ORDERS, **{state: "used"})] == 2
    assert series[key("db_client_connection_count", **ORDERS, **{state: "idle"})] == 0
    assert series[key("db_client_connection_max", **ORDERS)] == 4
    assert series[key("db_client_connection_idle_max", **ORDERS)] == 3
    assert series[key("db_client_connection_idle_min", **ORDERS)] == 1
    assert series[key("db_client_connection_pending_requests", **ORDERS)] == 0
    assert series[key("poolscope_connection_opening", **ORDERS)] == 0
    assert series[key("poolscope_connection_used_peak", **ORDERS)] == 2
    assert series[key("poolscope_acquire_timeout_seconds", **ORDERS)] == 60


def test_each_number_is_that_of_its_own_pool() -> None:
    with fake_source("orders") as orders, fake_source("users") as users:
        orders.size, users.size = 10, 20
        orders.metrics.closed[CloseReason.IDLE] = 3
        users.metrics.failures[FailureReason.CANCELLED] = 4
        orders.metrics.failed_wait[FailureReason.CANCELLED] = Histogram(catalog.WAIT_BUCKETS)
        users.metrics.wait.record(1.0)
        series = of_families(scrape())
    shown = {
        (name, dict(labels)[POOL]): value
        for (name, labels), value in series.items()
        if value and name in ("poolscope_connection_closed_total", f"{WAIT}_count")
    }
    assert shown == {
        ("poolscope_connection_closed_total", "orders"): 3,
        (f"{WAIT}_count", "users"): 1,
    }
    cancelled = key("poolscope_acquire_failures_total", error_type="cancelled", **{POOL: "users"})
    assert series[cancelled] == 4
    state = "db_client_connection_state"
    assert {
        pool: series[key("db_client_connection_count", **{POOL: pool, state: "used"})]
        for pool in ("orders", "users")
    } == {"orders": 9, "users": 19}


def test_a_saturated_pool_says_for_how_long() -> None:
    async def main() -> Series:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            async with pool.connection():
                clock.now += 1.0
                task = await waiter(pool, clock)
                clock.now += 2.5
                series = of_families(scrape())
            await task
            return series

    series = run(main())
    assert series[key("poolscope_saturation_time_seconds_total", **ORDERS)] == 2.5
    assert series[key("poolscope_wait_oldest_seconds", **ORDERS)] == 2.5
    assert series[key("poolscope_use_oldest_seconds", **ORDERS)] == 3.5
    assert series[key("db_client_connection_pending_requests", **ORDERS)] == 1


def test_everything_that_happened_is_counted() -> None:
    _, series = after_driving()
    assert series[key("db_client_connection_timeouts_total", **ORDERS)] == 1
    failures = "poolscope_acquire_failures_total"
    assert {
        reason: series[key(failures, **ORDERS, error_type=reason)] for reason in FailureReason
    } == dict.fromkeys(FailureReason, 0) | {"timeout": 1, "queue_full": 1, "cancelled": 1}
    assert series[key(f"{WAIT}_count", **ORDERS)] == 4
    assert series[key(f"{WAIT}_sum", **ORDERS)] == pytest.approx(0.82)
    assert series[key(f"{WAIT}_count", **ORDERS, error_type="timeout")] == 1
    assert series[key(f"{WAIT}_count", **ORDERS, error_type="queue_full")] == 1
    assert series[key(f"{WAIT}_sum", **ORDERS, error_type="cancelled")] == pytest.approx(0.2)
    assert series[key(f"{USE}_count", **ORDERS)] == 4
    assert series[key(f"{USE}_sum", **ORDERS)] == pytest.approx(3.5)
    assert series[key(f"{CREATE}_count", **ORDERS)] == 1
    assert series[key(f"{CREATE}_sum", **ORDERS)] == pytest.approx(0.02)
    # Buckets are cumulative: two waits of 0 s, one of 0.02 s, one of 0.8 s.
    cumulative = {le: series[key(f"{WAIT}_bucket", **ORDERS, le=le)] for le in ("0.0005", "0.01")}
    assert cumulative == {"0.0005": 2, "0.01": 2}
    assert series[key(f"{WAIT}_bucket", **ORDERS, le="0.025")] == 3
    assert series[key(f"{WAIT}_bucket", **ORDERS, le="1.0")] == 4
    assert series[key(f"{WAIT}_bucket", **ORDERS, le="+Inf")] == 4


def test_every_reason_for_which_a_connection_ends_is_counted() -> None:
    with fake_source("orders") as source:
        for number, reason in enumerate(CloseReason):
            source.metrics.closed[reason] = number
        series = of_families(scrape())
    for number, reason in enumerate(CloseReason):
        assert series[key("poolscope_connection_closed_total", **ORDERS, reason=reason)] == number


def test_counters_and_histograms_exist_at_zero_when_the_pool_opens() -> None:
    before, after = after_driving()
    counters = {name for name, _ in before if name.endswith("_total")}
    assert len(counters) == [metric.kind for metric in catalog.METRICS].count("counter")
    for (name, _), value in before.items():
        if name in counters or name.startswith((WAIT, USE, CREATE)):
            assert value == 0
    born_later = {(name, dict(labels).get("error_type")) for name, labels in after.keys() - before}
    assert born_later == {
        (f"{WAIT}_{part}", reason)
        for part in ("bucket", "count", "sum")
        for reason in ("timeout", "cancelled", "queue_full")
    }


def test_a_request_that_got_a_connection_has_no_error_type_label() -> None:
    _, series = after_driving()
    assert not [labels for _, labels in series if ("error_type", "") in labels]


class WrongPassword(Exception):
    sqlstate = "28P01"


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (TimeoutError(), "timeout"),
        (ConnectionRefusedError(), "refused"),
        (WrongPassword(), "auth"),
        (RuntimeError(), "other"),
    ],
)
def test_a_failed_connect_is_counted_with_its_time_and_why(error: Exception, fault: str) -> None:
    async def main() -> Series:
        clock = Clock()
        async with make_pool("orders", clock, error=error) as pool:
            await fail_to_connect(pool)
            return of_families(scrape())

    series = run(main())
    assert series[key(f"{WAIT}_count", **ORDERS, error_type="connect_failed")] == 1
    assert series[key(f"{CREATE}_count", **ORDERS)] == 0
    assert series[key(f"{CREATE}_count", **ORDERS, error_type=fault)] == 1
    assert series[key(f"{CREATE}_sum", **ORDERS, error_type=fault)] == pytest.approx(0.02)
    failed = {
        dict(labels)["error_type"]: value
        for (name, labels), value in series.items()
        if name == "poolscope_connect_failures_total"
    }
    assert failed == {"timeout": 0, "refused": 0, "auth": 0, "other": 0} | {fault: 1}


def test_a_connect_the_pool_gave_up_took_time_but_is_no_failure_of_the_server() -> None:
    async def main() -> Series:
        hanging = asyncio.Event()

        async def connect() -> Connection:
            if pool.stats().in_use:
                hanging.set()
                await asyncio.Future()
            return Connection()

        clock = Clock()
        settings = ConnectionPoolSettings(name="orders")
        pool: ConnectionPool[Connection] = ConnectionPool(connect, settings, clock=clock)
        async with pool, pool.connection():
            request = asyncio.create_task(expect(PoolClosedError, pool))
            await hanging.wait()
            clock.now += 0.5
            closing = asyncio.create_task(pool.close())
            await request
            await until(lambda: pool.stats().connecting == 0)
            series = of_families(scrape())
        await closing
        return series

    series = run(main())
    assert series[key(f"{CREATE}_sum", **ORDERS, error_type="abandoned")] == 0.5
    assert key("poolscope_connect_failures_total", **ORDERS, error_type="abandoned") not in series


def test_failures_of_subscribers_and_lost_events_are_counted() -> None:
    with fake_source("orders") as source:
        source.bus.failures, source.bus.dropped, source.metrics.leaks = 3, 5, 7
        series = of_families(scrape())
    assert series[key("poolscope_subscriber_errors_total", **ORDERS)] == 3
    assert series[key("poolscope_events_dropped_total", **ORDERS)] == 5
    assert series[key("poolscope_connection_leaks_total", **ORDERS)] == 7


# Exemplars

SPAN = {"trace_id": f"{0xABC:032x}", "span_id": f"{0xDEF:016x}"}


def exemplify(histogram: Histogram, value: float) -> None:
    histogram.record(value)
    histogram.exemplify(Exemplar(value, 1_700_000_000_250_000_000, 0xABC, 0xDEF))


def exemplified(families: list[Family]) -> dict[tuple[str, str | None, str], Sample]:
    return {
        (sample.name, sample.labels.get("error_type"), sample.labels["le"]): sample
        for family in families
        for sample in family.samples
        if sample.exemplar is not None
    }


def test_openmetrics_leads_from_a_bucket_to_the_span_it_was_measured_in() -> None:
    async def main() -> list[Family]:
        async with make_pool("orders") as pool:
            metrics = pool.get_metrics()
            exemplify(metrics.wait, 0.03)
            exemplify(metrics.wait, 99.0)
            exemplify(metrics.use, 400.0)
            failed = metrics.failed_wait[FailureReason.TIMEOUT] = Histogram(catalog.WAIT_BUCKETS)
            exemplify(failed, 5.0)
            return scrape_openmetrics()

    shown = exemplified(run(main()))
    assert {place: sample.exemplar.value for place, sample in shown.items() if sample.exemplar} == {
        (f"{WAIT}_bucket", None, "0.05"): 0.03,
        (f"{WAIT}_bucket", None, "+Inf"): 99.0,
        (f"{USE}_bucket", None, "600.0"): 400.0,
        (f"{WAIT}_bucket", "timeout", "5.0"): 5.0,
    }
    for sample in shown.values():
        assert sample.exemplar is not None
        assert sample.exemplar.labels == SPAN
        assert float(sample.exemplar.timestamp or 0) == pytest.approx(1_700_000_000.25, abs=1e-6)


def test_an_exemplar_belongs_to_the_pool_it_was_measured_at() -> None:
    with fake_source("orders"), fake_source("users") as users:
        exemplify(users.metrics.wait, 0.03)
        (sample,) = exemplified(scrape_openmetrics()).values()
    assert sample.labels == {POOL: "users", "le": "0.05"}


def test_plain_text_is_the_same_with_and_without_exemplars() -> None:
    with fake_source() as source:
        source.metrics.wait.record(0.03)
        without = of_families(scrape())
        source.looks = 0
        source.metrics.wait.exemplify(Exemplar(0.03, 0, 1, 2))
        assert of_families(scrape()) == without
