"""What the boards ask is PromQL that means something: matchers, rates, exemplars."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from grafana.kit import names, settings
from grafana.kit.detail_around import OPERATION
from grafana.kit.lint import REASONS, matched, reason
from grafana.kit.promql import grouped, selectors
from poolscope.telemetry import catalog
from tests.grafana.boards import BOARDS, FOLDER, NAMES, ROOT, Asked, asked, filled, folded, shown
from tests.stack.tools import find_tool

QUERIES = list(asked())
COUNTERS = ("_total", "_bucket", "_sum", "_count", "_cpu_seconds")
PLAIN = re.compile(r"otelcol_(receiver|exporter)_\w+_(spans|metric_points|log_records)$")
"""Counters of the Collector that have no suffix where it is scraped."""
GAUGES = {names.COUNT}
"""They end like counters and are none."""
RISES = ("rate", "increase", "resets")
WINDOWS = {
    "$__rate_interval": "suits the width of a panel",
    "$__range": "the time range of the board",
    settings.load().alerts[names.STUCK].window: "the alert looks at it, and it is called so",
    "1h": "the column is called so",
}


def test_every_query_and_annotation_is_promql(tmp_path: Path) -> None:
    promtool = find_tool("promtool")
    queries = [filled(each.expr, each.board) for each in QUERIES]
    for name, board in BOARDS.items():
        queries += [filled(each["expr"], name) for each in board["annotations"]["list"]]
        queries += [
            filled(each["query"]["query"], name).removeprefix("label_values(").rpartition(",")[0]
            for each in board["templating"]["list"]
            if each["type"] == "query"
        ]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    # JSON is YAML.
    file = tmp_path / "queries.yaml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    result = subprocess.run(
        [promtool, "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", NAMES)
def test_dashboard_linter_finds_nothing(name: str) -> None:
    linter = ROOT / os.environ.get("POOLSCOPE_TOOLS", ".tools") / "dashboard-linter"
    if not linter.is_file():
        pytest.skip("dashboard-linter has not been built")
    result = subprocess.run(
        [linter, "lint", "--strict", FOLDER / f"{name}.json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


def test_a_query_is_limited_to_what_is_chosen_or_has_a_reason() -> None:
    for query in QUERIES:
        for label in ("job", "instance"):
            assert matched(query.expr, label) or reason(query.expr, label, BOARDS[query.board])


def test_series_of_pools_are_limited_by_every_variable_of_their_board() -> None:
    own = {metric.prometheus_name for metric in catalog.METRICS}
    for query in QUERIES:
        if query.board == "collector":
            continue
        known = {each["name"] for each in BOARDS[query.board]["templating"]["list"]}
        for selector in selectors(query.expr):
            if any(selector.name.startswith(name) for name in own):
                found = {value for how, value in selector.matchers.values() if how == "=~"}
                wanted = known & {"env", "job", "instance", "pool"}
                if selector.name == names.POOLS:
                    wanted -= {"pool"}
                assert {f"${each}" for each in wanted} <= found, query.place


def test_reasons_are_those_that_are_needed() -> None:
    given = {
        reason(query.expr, label, BOARDS[query.board])
        for query in QUERIES
        for label in ("job", "instance")
        if not matched(query.expr, label)
    }
    assert set(REASONS.values()) <= given


def test_counters_are_asked_how_they_rise_and_gauges_are_not() -> None:
    for query in QUERIES:
        for selector in selectors(query.expr):
            name = selector.name
            recorded = ":" in name or not name
            counts = name.endswith(COUNTERS) or PLAIN.match(name)
            if counts and not recorded and name not in GAUGES:
                assert selector.call in RISES, (query.place, name)
            else:
                assert selector.call not in RISES, (query.place, name)


def test_windows_fit_the_panel_or_are_named_in_it() -> None:
    for query in QUERIES:
        for selector in selectors(query.expr):
            assert not selector.window or selector.window in WINDOWS, query.place
            assert selector.call != "rate" or selector.window == "$__rate_interval", query.place
            if selector.window == "1h":
                assert "Timeouts 1 h" in json.dumps(query.panel), query.place


def test_quantiles_are_of_sums_and_have_exemplars_that_lead_to_traces() -> None:
    seen = set()
    for query in QUERIES:
        if "histogram_quantile(" in query.expr:
            assert re.search(r"histogram_quantile\([\d.$q]+, sum by \([^)]*le\) \(", query.expr)
        if query.panel["type"] == "heatmap":
            assert query.target["format"] == "heatmap"
            assert grouped(query.expr) == {"le"}
        elif "histogram_quantile(" not in query.expr or query.panel["type"] != "timeseries":
            continue
        assert query.target["exemplar"], query.place
        if query.board != "collector":
            assert "/explore?" in json.dumps(query.panel["fieldConfig"]), query.place
            seen |= {each.name for each in selectors(query.expr)}
    ours = {names.series(metric, "bucket") for metric in names.DURATIONS}
    assert seen == {*ours, f"{OPERATION}_bucket"}


def test_only_plain_numbers_show_0_where_nothing_is_known() -> None:
    for query in QUERIES:
        if "vector(0)" in query.expr:
            assert query.panel["type"] == "stat", query.place


def test_queries_of_a_table_are_joined_by_the_same_labels() -> None:
    for name, panel in shown():
        if panel["type"] == "table":
            kinds = [each["id"] for each in panel["transformations"]]
            assert kinds == ["merge", "organize"]
            renamed = panel["transformations"][1]["options"]["renameByName"]
            labels = {each for each in renamed if not each.startswith("Value")} - {"why"}
            for target in panel["targets"]:
                query = Asked(name, panel, target)
                told = grouped(query.expr) | _recorded(query.expr)
                assert labels <= told, query.place
            sorts = {each["displayName"] for each in panel["options"]["sortBy"]}
            assert sorts <= set(renamed.values())


def test_what_only_some_have_is_folded_away() -> None:
    # Instrumentations of database clients are not ours.
    open_panels = [
        query.place
        for query in QUERIES
        if OPERATION in query.expr and query.panel not in folded(query.board)
    ]
    assert not open_panels
    assert folded("detail")[0]["title"] == "Queries"


def _recorded(query: str) -> set[str]:
    found = [each.name for each in selectors(query)]
    labels = set(names.GROUP) if any(each.startswith("job_pool:") for each in found) else set()
    return labels | ({names.SERVER} if any(each.startswith("server:") for each in found) else set())
