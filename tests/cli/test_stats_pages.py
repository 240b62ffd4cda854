"""What pages of others say to `poolscope stats`, and what it calls trouble."""

import pytest

from poolscope.cli import main
from poolscope.cli.stats.parse import parse
from tests.cli.pages import Capture, Pages, collector_page, page, rows, serving, shown, the_pool


def test_behind_a_collector_each_program_has_its_own_pools(capsys: Capture) -> None:
    with serving(Pages(collector_page())) as server:
        pools = shown(server.port, capsys=capsys)["pools"]
        assert main(["stats", str(server.port)]) == 0
    assert [(p["job"], p["instance"], p["pool"]) for p in pools] == [
        ("eu/shop", "a", "orders"),
        ("eu/shop", "b", "orders"),
    ]
    for pool in pools:
        assert (pool["used"], pool["idle"], pool["max"], pool["waiting"]) == (7, 3, 10, 0)
        # Failed and cancelled requests are requests; cancelled ones are no errors.
        assert (pool["requests"], pool["errors"], pool["timeouts"]) == (100, 3, 1)
        assert pool["saturated_seconds"] == 5.0
        # The series of "1" and of "1.0" are one bucket, in which the 99th of 100 is the last.
        assert pool["wait_p99_seconds"] == 1.0
    out = capsys.readouterr().out
    assert [row[:4] for row in rows(out)] == [
        ["eu/shop", "a", "orders", "7/10"],
        ["eu/shop", "b", "orders", "7/10"],
    ]
    assert out.splitlines()[2].split()[:3] == ["job", "instance", "pool"]


def test_openmetrics_with_exemplars_is_understood(capsys: Capture) -> None:
    name = "db_client_connection_wait_time_seconds"
    pool = 'db_client_connection_pool_name="orders"'
    text = (
        "# TYPE db_client_connection_max gauge\n"
        f"db_client_connection_max{{{pool}}} 4.0\n"
        f"# TYPE {name} histogram\n# UNIT {name} seconds\n"
        f'{name}_bucket{{{pool},le="1.0"}} 3.0 # {{trace_id="ab",span_id="cd"}} 0.5 1.5e9\n'
        f'{name}_bucket{{{pool},le="+Inf"}} 4.0\n'
        f"{name}_sum{{{pool}}} 9.0\n{name}_count{{{pool}}} 4.0\n# EOF\n"
    )
    kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    with serving(Pages(text, kind=kind)) as server:
        (shown_pool,) = shown(server.port, capsys=capsys)["pools"]
    assert (shown_pool["max"], shown_pool["requests"]) == (4, 4)
    assert shown_pool["wait_p99_seconds"] == 1.0


def test_what_another_library_does_not_tell_is_null_and_a_dash(capsys: Capture) -> None:
    with serving(Pages(page(used=3.0, max=8.0))) as server:
        (pool,) = shown(server.port, capsys=capsys)["pools"]
        assert main(["stats", str(server.port)]) == 0
    known = {"address", "pool", "trouble", "max", "used"}
    assert {key for key, value in pool.items() if value is not None} == known
    assert (pool["max"], pool["used"], pool["trouble"]) == (8, 3, [])
    (row,) = rows(capsys.readouterr().out)
    assert row[:3] == ["orders", "3/8", "-"]


def test_numbers_of_a_pool_that_closed_make_no_pool(capsys: Capture) -> None:
    with serving(Pages(page("gone", waits=5) + page("orders", max=1))) as server:
        assert [pool["pool"] for pool in shown(server.port, capsys=capsys)["pools"]] == ["orders"]


def test_series_that_differ_in_other_labels_are_one_pool() -> None:
    label = 'db_client_connection_pool_name="orders"'
    text = "".join(
        f'db_client_connection_max{{{label},pid="{pid}"}} 5\n'
        f'poolscope_use_oldest_seconds{{{label},pid="{pid}"}} {pid}\n'
        for pid in (1, 2)
    )
    (series,) = parse(text.encode(), openmetrics=False).values()
    assert series.numbers["db.client.connection.max"] == {"": 10}
    assert series.numbers["poolscope.use.oldest"] == {"": 2}


def test_the_sum_of_pools_beyond_the_limit_is_shown(capsys: Capture) -> None:
    text = 'db_client_connection_max{otel_metric_overflow="true"} 70\n'
    pool = the_pool(text, capsys)
    assert (pool["pool"], pool["max"]) == ("(others)", 70)


def test_a_number_that_is_none_is_left_out(capsys: Capture) -> None:
    pool = the_pool(page(max=4, used=float("nan"), oldest_wait=float("inf")), capsys)
    assert (pool["max"], pool["used"], pool["oldest_wait_seconds"]) == (4, None, None)


# Trouble


@pytest.mark.parametrize(
    ("numbers", "trouble"),
    [
        ({"used": 4, "waiting": 1}, ["saturated"]),
        ({"used": 4, "waiting": 0}, []),
        ({"used": 3, "waiting": 1}, []),
        ({"used": 3, "idle": 0, "waiting": 1, "connects_failed": 2}, ["connects_fail"]),
        ({"used": 3, "idle": 0, "waiting": 0, "connects_failed": 2}, []),
        ({"used": 4, "waiting": 1, "connects_failed": 2, "leaks": 1}, ["saturated", "leak"]),
        ({"used": 1, "waiting": 0, "leaks": 1}, ["leak"]),
    ],
)
def test_trouble_is_what_the_numbers_say(
    numbers: dict[str, float], trouble: list[str], capsys: Capture
) -> None:
    assert the_pool(page(max=4, **numbers), capsys)["trouble"] == trouble


def test_the_worst_comes_first(capsys: Capture) -> None:
    text = (
        page("busy", max=4, used=3, waiting=0)
        + page("calm", max=4, used=0, waiting=0)
        + page("leaking", max=4, used=1, waiting=0, leaks=1)
        + page("refused", max=4, used=0, waiting=9, connects_failed=5)
        + page("short", max=4, used=4, waiting=9, oldest_wait=0.1)
        + page("stuck", max=4, used=4, waiting=1, oldest_wait=9)
    )
    with serving(Pages(text)) as server:
        pools = shown(server.port, capsys=capsys)["pools"]
    assert [pool["pool"] for pool in pools] == [
        "stuck", "short", "refused", "leaking", "busy", "calm",
    ]  # fmt: skip
