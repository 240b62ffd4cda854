"""A day of two services in fast motion: what boards and alerts tell of it, and whom."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from grafana import asked as boards
from grafana.kit import rules, settings
from grafana.kit.names import ENVIRONMENT, POOL, WATCHDOG
from stack.topology import ENVIRONMENT as LOCAL
from stack.topology import PUSHED, SCRAPED, Stack
from stack.webhook import HEARTBEAT
from tests.stack.day import (
    EMPTY,
    EMPTY_SCRAPED,
    FIRES,
    OUTLIVES,
    QUIET,
    SILENCED,
    SILENT,
    SPEED,
    Day,
    sign,
)
from tests.stack.tools import find_tool
from tests.stack.traced import SPANS

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(600)]

ROADS = pytest.mark.parametrize("job", [PUSHED, SCRAPED])
STEP = 5
"""Seconds between the points of a board."""


def written(name: str) -> list[dict[str, Any]]:
    groups = rules.build(settings.load())[name]["groups"]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = written("alerts.yaml")
RECORDS = [rule["record"] for rule in written("recording.yaml")]


@pytest.fixture(scope="module")
def day() -> Iterator[Day]:
    for name in ("collector", "prometheus", "alertmanager"):
        find_tool(name)

    def say(who: str, what: str) -> None:
        print(f"{who}: {what}")

    with Stack("day", SPEED, say) as stack:
        day = Day(stack)
        day.live()
        yield day


def test_every_alert_is_expected_to_fire_or_not() -> None:
    expected = {name for name, _ in {**FIRES, **OUTLIVES}} | QUIET.keys() | {WATCHDOG}
    assert {rule["alert"] for rule in ALERTS} == expected
    assert {*map(sign, map(known_labels, ALERTS))} >= {*FIRES, *OUTLIVES}


def known_labels(rule: dict[str, Any]) -> dict[str, str]:
    return {"alertname": rule["alert"], **rule["labels"]}


def test_alerts_begin_to_fire_in_the_phases_that_call_for_them_and_no_other_does(day: Day) -> None:
    starts = {(*sign(labels), phase) for labels, phase in day.starts()}
    allowed = {(*who, phase) for who, phases in FIRES.items() for phase in phases}
    wrong = {start for start in starts - allowed if start[:2] not in OUTLIVES}
    assert not wrong


@ROADS
def test_each_alert_that_should_reaches_the_webhook_and_is_resolved(day: Day, job: str) -> None:
    fired = {sign(told.labels): told for told in day.told("firing", job)}
    assert {name for name in FIRES if name[0] not in SILENCED} <= fired.keys()
    by_sign = {sign(labels): labels for labels in map(known_labels, ALERTS)}
    where = {"job": job, ENVIRONMENT: LOCAL, POOL: "orders"}
    for who, told in fired.items():
        assert told.receiver == ("pager" if told.labels["severity"] == "critical" else "tickets")
        assert {label: told.labels.get(label) for label in (*by_sign[who], *where)} == {
            **by_sign[who],
            **where,
        }
    assert not day.unresolved(job)


@ROADS
def test_alerts_that_another_explains_are_held_back(day: Day, job: str) -> None:
    assert {(name, job) for name in SILENCED} <= day.silenced


def test_who_watches_over_alerts_hears_a_heartbeat_all_day(day: Day) -> None:
    beats = [told for told in day.stack.webhook.told if told.receiver == HEARTBEAT]
    assert {told.name for told in beats} == {WATCHDOG}
    times = [day.began, *(told.time for told in beats), day.ended]
    assert max(later - earlier for earlier, later in pairwise(times)) < 15


def test_every_rule_is_evaluated_without_error(day: Day) -> None:
    groups = day.stack.prometheus.ask("rules")["groups"]
    evaluated = [rule for group in groups for rule in group["rules"]]
    assert len(evaluated) == len(ALERTS) + len(RECORDS)
    assert not [rule for rule in evaluated if rule["health"] != "ok" or rule.get("lastError")]


def test_every_recording_rule_records_by_both_roads(day: Day) -> None:
    for record in RECORDS:
        jobs = {series["metric"].get("job") for series in day.ask(record)}
        assert jobs in ({PUSHED, SCRAPED}, {None}), record


def test_what_alerts_ask_for_is_there(day: Day) -> None:
    """An alert that never fires returns nothing; but what it looks at must be something."""
    asked = {
        selector
        for rule in ALERTS
        for selector in selectors(day.stack.prometheus.ask("parse_query", query=rule["expr"]))
    }
    missing = {each for each in asked if not day.ask(f"count({each})", 5)}
    unknown = {each for each in missing if not any(name in each for name in SILENT)}
    assert not unknown
    assert all(any(name in each for each in asked) for name in SILENT)


def selectors(node: Any) -> Iterator[str]:
    """Yield the selectors in an expression as Prometheus has parsed it."""
    match node:
        case {"type": "vectorSelector" | "matrixSelector", "matchers": matchers}:
            parts = (f"{m['name']}{m['type']}{json.dumps(m['value'])}" for m in matchers)
            yield f"{{{', '.join(parts)}}}"
        case dict():
            for each in node.values():
                yield from selectors(each)
        case list():
            for each in node:
                yield from selectors(each)


@pytest.mark.parametrize("board", ["detail", "fleet", "slo", "collector"])
@ROADS
def test_every_query_of_every_board_is_answered(day: Day, board: str, job: str) -> None:
    expected = EMPTY | (EMPTY_SCRAPED if job == SCRAPED else {})
    assert {
        place for place, query in board_queries(day, board, job) if not has_numbers(day, query)
    } == {place for place in expected if place.startswith(f"{board}:")}


def board_queries(day: Day, name: str, job: str) -> Iterator[tuple[str, str]]:
    """Yield all that a board asks with its variables filled in, and where it asks it."""
    board = boards.load(name)
    span = boards.Span(day.began, day.ended, STEP, 0.5)
    chosen = {} if name == "collector" else {"job": job}
    variables = boards.choices(board, **chosen) | span.variables()
    asking = [
        (f"{panel['title']}, {query['refId']}", query["expr"])
        for panel in boards.panels(board)
        for query in boards.queries(panel)
    ]
    notes = [(note["name"], note["expr"]) for note in board["annotations"]["list"]]
    for place, expr in asking + notes:
        yield f"{name}: {place}", boards.fill(boards.paced(expr, SPEED), variables)


def has_numbers(day: Day, query: str) -> bool:
    return any(value != "NaN" for series in day.ask(query, STEP) for _, value in series["values"])


@ROADS
@pytest.mark.parametrize("name", SPANS)
def test_exemplars_lead_to_traces_that_the_collector_handed_on(
    day: Day, name: str, job: str
) -> None:
    found = day.stack.prometheus.exemplars(f'{name}_bucket{{job="{job}"}}')
    traces = {each["labels"]["trace_id"] for series in found for each in series["exemplars"]}
    assert traces
    lost = {trace for trace in traces if SPANS[name] not in day.stack.traces.spans(trace)}
    assert not lost
