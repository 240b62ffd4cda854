import gzip
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.openmetrics import exposition
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as parse_text

from poolscope import registry as pools
from poolscope.stats import PoolState
from poolscope.telemetry import catalog
from poolscope.telemetry.prometheus import PoolCollector, start_metrics_server
from tests.support import run
from tests.telemetry.series import Series, key, of_families
from tests.telemetry.traffic import Clock, drive, fail_to_connect, fake_source, make_pool

# Neither has types.
generate_openmetrics: Any = exposition.generate_latest
parse_openmetrics: Any = openmetrics_parser.text_string_to_metric_families

POOL = "db_client_connection_pool_name"


def scrape(registry: CollectorRegistry | None = None) -> list[Family]:
    if registry is None:
        registry = CollectorRegistry()
        registry.register(PoolCollector())
    return list(parse_text(generate_latest(registry).decode()))


def after_driving() -> tuple[Series, Series]:
    """What is shown when the pool has just opened, and after the known traffic."""

    async def main() -> tuple[Series, Series]:
        clock = Clock()
        async with make_pool("orders", clock, max_waiting=1) as pool:
            before = of_families(scrape())
            await drive(pool, clock)
            return before, of_families(scrape())

    return run(main())


# The collector


def test_every_metric_of_the_catalogue_has_its_prometheus_name_and_type() -> None:
    assert {(family.name, family.type) for family in scrape()} == {
        ("db_client_connection_count", "gauge"),
        ("db_client_connection_idle_max", "gauge"),
        ("db_client_connection_idle_min", "gauge"),
        ("db_client_connection_max", "gauge"),
        ("db_client_connection_pending_requests", "gauge"),
        ("db_client_connection_timeouts", "counter"),
        ("db_client_connection_create_time_seconds", "histogram"),
        ("db_client_connection_wait_time_seconds", "histogram"),
        ("db_client_connection_use_time_seconds", "histogram"),
    }


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
    assert series[key("db_client_connection_count", **{POOL: "orders", state: "used"})] == 2
    assert series[key("db_client_connection_count", **{POOL: "orders", state: "idle"})] == 0
    assert series[key("db_client_connection_max", **{POOL: "orders"})] == 4
    assert series[key("db_client_connection_idle_max", **{POOL: "orders"})] == 3
    assert series[key("db_client_connection_idle_min", **{POOL: "orders"})] == 1
    assert series[key("db_client_connection_pending_requests", **{POOL: "orders"})] == 0


def test_everything_that_happened_is_counted() -> None:
    _, series = after_driving()
    wait, use = "db_client_connection_wait_time_seconds", "db_client_connection_use_time_seconds"
    create = "db_client_connection_create_time_seconds"
    orders = {POOL: "orders"}
    assert series[key("db_client_connection_timeouts_total", **orders)] == 1
    assert series[key(f"{wait}_count", **orders)] == 4
    assert series[key(f"{wait}_sum", **orders)] == pytest.approx(0.82)
    assert series[key(f"{wait}_count", **orders, error_type="timeout")] == 1
    assert series[key(f"{wait}_count", **orders, error_type="queue_full")] == 1
    assert series[key(f"{wait}_sum", **orders, error_type="cancelled")] == pytest.approx(0.2)
    assert series[key(f"{use}_count", **orders)] == 4
    assert series[key(f"{use}_sum", **orders)] == pytest.approx(3.5)
    assert series[key(f"{create}_count", **orders)] == 1
    assert series[key(f"{create}_sum", **orders)] == pytest.approx(0.02)
    # Buckets are cumulative: two waits of 0 s, one of 0.02 s, one of 0.8 s.
    cumulative = {le: series[key(f"{wait}_bucket", **orders, le=le)] for le in ("0.0005", "0.01")}
    assert cumulative == {"0.0005": 2, "0.01": 2}
    assert series[key(f"{wait}_bucket", **orders, le="0.025")] == 3
    assert series[key(f"{wait}_bucket", **orders, le="1.0")] == 4
    assert series[key(f"{wait}_bucket", **orders, le="+Inf")] == 4


def test_counters_and_histograms_exist_at_zero_when_the_pool_opens() -> None:
    before, after = after_driving()
    for name in ("wait_time_seconds", "use_time_seconds", "create_time_seconds"):
        assert before[key(f"db_client_connection_{name}_count", **{POOL: "orders"})] == 0
    assert before[key("db_client_connection_timeouts_total", **{POOL: "orders"})] == 0
    born_later = {dict(labels).get("error_type") for _, labels in after.keys() - before.keys()}
    assert born_later == {"timeout", "cancelled", "queue_full"}


def test_a_request_that_got_a_connection_has_no_error_type_label() -> None:
    _, series = after_driving()
    assert not [labels for _, labels in series if ("error_type", "") in labels]


def test_buckets_are_those_of_the_catalogue() -> None:
    _, series = after_driving()
    for metric in (catalog.WAIT_TIME, catalog.USE_TIME, catalog.CREATE_TIME):
        bounds = {
            float(dict(labels)["le"])
            for name, labels in series
            if name == f"{metric.prometheus_name}_bucket"
        }
        assert bounds == {*metric.buckets, float("inf")}


def test_a_failed_connect_is_counted_with_its_time() -> None:
    async def main() -> Series:
        clock = Clock()
        async with make_pool("orders", clock, error=ConnectionRefusedError()) as pool:
            await fail_to_connect(pool)
            return of_families(scrape())

    series = run(main())
    failed = {POOL: "orders", "error_type": "connect_failed"}
    assert series[key("db_client_connection_wait_time_seconds_count", **failed)] == 1
    created = key("db_client_connection_create_time_seconds_sum", **{POOL: "orders"})
    assert series[created] == pytest.approx(0.02)


def test_one_collector_shows_many_pools_while_they_are_open() -> None:
    def names() -> set[str]:
        return {dict(labels)[POOL] for _, labels in of_families(scrape())}

    async def main() -> None:
        unused = make_pool("unused")
        async with make_pool("orders"):
            async with make_pool("users"):
                assert names() == {"orders", "users"}
            assert names() == {"orders"}
        assert names() == set()
        await unused.close()

    run(main())


@pytest.mark.parametrize(
    ("state", "shown"), [("new", False), ("open", True), ("closing", True), ("closed", False)]
)
def test_a_source_is_shown_while_it_serves(state: PoolState, shown: bool) -> None:
    with fake_source() as source:
        source.state = state
        assert bool(of_families(scrape())) == shown


def test_openmetrics_is_well_formed_and_names_the_unit() -> None:
    async def main() -> bytes:
        clock = Clock()
        registry = CollectorRegistry()
        registry.register(PoolCollector())
        async with make_pool("orders", clock, max_waiting=1) as pool:
            await drive(pool, clock)
            return bytes(generate_openmetrics(registry))

    text = run(main()).decode()
    families = {family.name: family for family in parse_openmetrics(text)}
    assert families["db_client_connection_wait_time_seconds"].unit == "seconds"
    assert families["db_client_connection_count"].unit == ""


def test_each_pool_is_read_once_per_scrape() -> None:
    with fake_source() as source:
        series = of_families(scrape())
    assert source.looks == 1
    levels = [v for (name, labels), v in series.items() if name == "db_client_connection_count"]
    assert sum(levels) == source.size


def test_registering_reads_no_pool() -> None:
    with fake_source() as source:
        CollectorRegistry(auto_describe=True).register(PoolCollector())
    assert source.looks == 0


def test_a_registry_refuses_a_second_collector() -> None:
    registry = CollectorRegistry()
    registry.register(PoolCollector())
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
            shown = {dict(labels)[POOL] for _, labels in of_families(scrape())}
    finally:
        pools.release("broken", broken)  # type: ignore[arg-type]
    assert shown == {"fine"}


# The server


@pytest.fixture
def url() -> Iterator[str]:
    with fake_source("orders"), start_metrics_server(port=0) as server:
        yield server.url


def get(url: str, **headers: str) -> tuple[str, bytes]:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as reply:
        return reply.headers["Content-Type"], reply.read()


def test_plain_text_is_served_where_the_handle_says(url: str) -> None:
    kind, body = get(url)
    assert kind.startswith("text/plain")
    assert {dict(labels)[POOL] for _, labels in of_families(parse_text(body.decode()))} == {
        "orders"
    }


def test_openmetrics_is_served_to_those_who_ask_for_it(url: str) -> None:
    kind, body = get(url, Accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert list(parse_openmetrics(body.decode()))
    assert body.endswith(b"# EOF\n")


def test_compressed_text_is_served_to_those_who_ask_for_it(url: str) -> None:
    _, body = get(url, **{"Accept-Encoding": "gzip"})
    assert b"db_client_connection_max" in gzip.decompress(body)


def test_by_default_it_listens_on_this_machine_only() -> None:
    with start_metrics_server(port=0) as server:
        assert server.url == f"http://127.0.0.1:{server.port}/metrics"


def test_after_close_nothing_is_left_and_the_port_is_free() -> None:
    before = set(threading.enumerate())
    server = start_metrics_server(port=0)
    get(server.url)
    server.close()
    server.close()
    for thread in set(threading.enumerate()) - before:
        # One that has just answered may need a moment.
        thread.join(1)
    assert set(threading.enumerate()) == before
    with pytest.raises(urllib.error.URLError):
        get(server.url)
    start_metrics_server(port=server.port).close()


def test_a_silent_client_does_not_delay_close() -> None:
    server = start_metrics_server(port=0)
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        get(server.url)  # so that the server has seen the other one
        server.close()
        assert client.recv(1) == b""


def test_a_port_in_use_is_named_and_nothing_is_left() -> None:
    registry = CollectorRegistry()
    with start_metrics_server(port=0) as server:
        place = f"127.0.0.1 port {server.port}: Address already in use"
        with pytest.raises(OSError, match=place):
            start_metrics_server(port=server.port, registry=registry)
    registry.register(PoolCollector())


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 65535: got {port}"):
        start_metrics_server(port=port)


def test_a_given_registry_gets_a_collector_for_as_long_as_it_is_served() -> None:
    registry = CollectorRegistry()
    with start_metrics_server(port=0, registry=registry) as server:
        assert b"db_client_connection_max" in get(server.url)[1]
    assert scrape(registry) == []


def test_a_registry_that_has_a_collector_keeps_it() -> None:
    registry = CollectorRegistry()
    registry.register(PoolCollector())
    with start_metrics_server(port=0, registry=registry) as server:
        assert get(server.url)[1].count(b"# TYPE db_client_connection_max ") == 1
    assert len(scrape(registry)) == 9


def test_a_collector_of_the_application_that_raises_gives_a_server_error() -> None:
    class Broken:
        def describe(self) -> list[Family]:
            return []

        def collect(self) -> Iterator[Family]:
            raise RuntimeError("broken")

    registry = CollectorRegistry()
    registry.register(Broken())
    with start_metrics_server(port=0, registry=registry) as server:
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(server.url)
        caught.value.close()
    assert caught.value.code == 500
