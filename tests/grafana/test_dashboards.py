"""The boards are what is generated, and readable: the checks that need no PromQL."""

import re
from itertools import combinations
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from grafana import build
from grafana.kit import links, names, settings
from grafana.kit.promql import grouped
from tests.grafana.boards import BOARDS, NAMES, Json, on, shown, variables_in, walk

RATES = {"cpm", "cps", "ops", "reqps"}
"""Units of which Grafana itself chooses the decimals well."""
UNITS = {"bytes", "dtdurations", "none", "percentunit", "s", "short", *RATES}
"""Those of Grafana's that the boards have use for."""
PANELS = list(shown())

each_board = pytest.mark.parametrize("name", NAMES)


def test_all_files_are_as_they_would_be_generated() -> None:
    assert build.main(["--check"]) == 0


def test_the_same_is_generated_every_time() -> None:
    assert build.files() == build.files()


@each_board
def test_a_panel_asks_a_question_and_says_how_to_read_the_answer(name: str) -> None:
    for panel in on(name):
        question, mark, answer = panel["description"].partition("?")
        assert panel["title"]
        assert mark, question
        assert len(answer) > 20, question
        assert answer.endswith(".")
        assert "  " not in panel["description"]


@each_board
def test_a_panel_has_units_decimals_and_words_for_no_data(name: str) -> None:
    for panel in on(name):
        defaults = panel["fieldConfig"]["defaults"]
        assert {defaults["unit"], *_overridden(panel, "unit")} <= UNITS
        assert defaults["noValue"]
        if panel["type"] != "table" and defaults["unit"] not in RATES:
            assert "decimals" in defaults, panel["title"]


@each_board
def test_thresholds_rise_from_a_colour_for_all_below(name: str) -> None:
    for panel in on(name):
        default = panel["fieldConfig"]["defaults"]["thresholds"]
        for thresholds in [default, *_overridden(panel, "thresholds")]:
            first, *others = [step["value"] for step in thresholds["steps"]]
            assert first is None
            assert others == sorted(others)


def test_numbers_of_this_moment_have_a_threshold_and_are_asked_for_this_moment() -> None:
    for _, panel in PANELS:
        if panel["type"] == "stat" and panel["title"] != "Objective":
            assert len(panel["fieldConfig"]["defaults"]["thresholds"]["steps"]) > 1, panel["title"]
        if panel["type"] in ("stat", "table"):
            assert all(target["instant"] for target in panel["targets"])
        else:
            assert all(target["range"] for target in panel["targets"])


@each_board
def test_titles_and_ids_are_unique(name: str) -> None:
    rows = [panel for panel in BOARDS[name]["panels"] if panel["type"] == "row"]
    everything = [*rows, *on(name)]
    for key in ("id", "title"):
        found = [panel[key] for panel in everything]
        assert len(set(found)) == len(found)


@each_board
def test_no_panel_is_upon_another_or_too_small_for_a_laptop(name: str) -> None:
    top = [panel["gridPos"] for panel in BOARDS[name]["panels"]]
    folds = [
        [panel["gridPos"] for panel in row["panels"]]
        for row in BOARDS[name]["panels"]
        if row.get("panels")
    ]
    for places in (top, *folds):
        assert not [pair for pair in combinations(places, 2) if _overlap(*pair)]
    for place in [*top, *(place for places in folds for place in places)]:
        assert place["x"] + place["w"] <= 24
        assert place["w"] >= 6
        assert place["h"] in (1, 4, 6, 8, 12)


@each_board
def test_a_board_cannot_be_edited_and_has_what_grafana_needs(name: str) -> None:
    board = BOARDS[name]
    assert board["uid"] == f"pool-{name}"
    assert board["title"] == links.TITLES[board["uid"]]
    assert board["editable"] is False
    assert "id" not in board
    assert "__inputs" not in board
    assert board["schemaVersion"] == 42
    assert board["tags"] == ["pool", "generated"]
    assert board["graphTooltip"] == 1
    assert board["refresh"] == "30s"


@each_board
def test_every_datasource_is_chosen_by_a_variable(name: str) -> None:
    uids = {value for path, value in walk(BOARDS[name]) if path[-2:] == ("datasource", "uid")}
    assert uids == {"${datasource}"}
    for panel in on(name):
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@each_board
def test_variables_are_those_of_all_boards_in_their_order(name: str) -> None:
    order = ["datasource", "traces", "env", "job", "instance", "pool", "q"]
    variables = {each["name"]: each for each in BOARDS[name]["templating"]["list"]}
    assert list(variables) == [each for each in order if each in variables]
    assert {"datasource", "traces", "job"} <= variables.keys()
    assert variables["datasource"]["type"] == variables["traces"]["type"] == "datasource"
    assert (variables["datasource"]["query"], variables["traces"]["query"]) == (
        "prometheus",
        "tempo",
    )
    for each in variables.values():
        if each["type"] == "query":
            assert each["refresh"] == 2
            assert each["multi"]
            assert each["includeAll"]
            assert each["current"]["value"] == "$__all"
            assert each["allValue"] == (".*" if each["name"] == "env" else ".+")


@each_board
def test_a_variable_is_narrowed_by_those_before_it(name: str) -> None:
    before: set[str] = set()
    for each in BOARDS[name]["templating"]["list"]:
        if each["type"] == "query":
            assert variables_in(each["query"]["query"]) == before
            before.add(each["name"])


@each_board
def test_all_variables_that_are_used_exist(name: str) -> None:
    board = BOARDS[name]
    known = {each["name"] for each in board["templating"]["list"]}
    texts = [value for _, value in walk(board) if isinstance(value, str)]
    assert {each for text in texts for each in variables_in(unquote(text))} <= known


@each_board
def test_links_lead_to_all_other_boards_and_keep_what_is_chosen(name: str) -> None:
    given = BOARDS[name]["links"]
    uids = [urlsplit(link["url"]).path.removeprefix("/d/") for link in given if link["url"]]
    assert sorted([*uids, f"pool-{name}"]) == sorted(links.TITLES)
    for link in given:
        assert link["keepTime"]
        if link["url"]:
            assert link["includeVars"] or "${datasource:queryparam}" in link["url"]
    assert {"postgresql"} == {tag for link in given for tag in link["tags"]}


def test_links_of_panels_lead_to_the_section_of_an_alert() -> None:
    alerts = {alert.lower(): alert for alert in [names.BURN, *settings.load().alerts]}
    found = set()
    for _, panel in PANELS:
        for link in panel["links"]:
            anchor = urlsplit(link["url"]).fragment
            assert link["title"] == f"What to do: {alerts[anchor]}"
            found.add(alerts[anchor])
    # It says that all is well.
    assert found == set(alerts.values()) - {names.WATCHDOG}


def test_links_of_values_keep_the_time_and_lead_to_a_board_or_to_traces() -> None:
    for _, panel in PANELS:
        for link in _value_links(panel):
            page = urlsplit(link["url"])
            if page.path == "/explore":
                assert "${__from}" in link["url"]
                assert "${traces}" in link["url"]
            elif page.path.startswith("/d/"):
                assert page.path.removeprefix("/d/") in links.TITLES
                assert "${__url_time_range}" in link["url"]
                assert "${datasource:queryparam}" in link["url"]
            else:
                assert page.path.endswith("runbook.md")


@each_board
def test_a_link_names_labels_that_its_series_have(name: str) -> None:
    for panel in on(name):
        for link in _value_links(panel):
            labels = set(re.findall(r"__field\.labels\.(\w+)", link["url"]))
            queries = [target["expr"] for target in panel["targets"]]
            # Recording rules have no instance, but all other labels of a pool.
            assert any(
                labels <= grouped(query) or (labels <= set(names.GROUP) and "job_pool:" in query)
                for query in queries
            ), panel["title"]


def test_boards_about_pools_mark_alerts_and_restarts() -> None:
    marks = {name: [each["name"] for each in BOARDS[name]["annotations"]["list"]] for name in NAMES}
    assert marks == {
        "detail": ["Alerts", "Restarts"],
        "fleet": ["Alerts"],
        "slo": ["Alerts"],
        "collector": [],
    }


def test_a_line_ends_where_samples_end() -> None:
    graphs = [panel for _, panel in PANELS if panel["type"] == "timeseries"]
    for panel in graphs:
        custom = panel["fieldConfig"]["defaults"]["custom"]
        assert custom["spanNulls"] is False
        assert custom["lineInterpolation"] == "linear"
        assert panel["options"]["legend"]["calcs"] == ["lastNotNull", "max"]


def test_axes_of_graphs_have_one_unit() -> None:
    for _, panel in PANELS:
        if panel["type"] == "timeseries":
            assert not _overridden(panel, "unit")


def _overlap(one: Json, other: Json) -> bool:
    apart = (
        one["x"] + one["w"] <= other["x"]
        or other["x"] + other["w"] <= one["x"]
        or one["y"] + one["h"] <= other["y"]
        or other["y"] + other["h"] <= one["y"]
    )
    return not apart


def _overridden(panel: Json, key: str) -> list[Any]:
    return [
        each["value"]
        for override in panel["fieldConfig"]["overrides"]
        for each in override["properties"]
        if each["id"] == key
    ]


def _value_links(panel: Json) -> list[Json]:
    linked = [link for each in _overridden(panel, "links") for link in each]
    return [*panel["fieldConfig"]["defaults"].get("links", ()), *linked]
