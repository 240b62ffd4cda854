"""A day of two services in fast motion: what boards and alerts tell of it, and whom."""

from collections.abc import Iterator

import pytest

from grafana.kit import rules, settings
from grafana.kit.names import ENVIRONMENT, POOL, WATCHDOG
from stack.topology import ENVIRONMENT as LOCAL
from stack.topology import PUSHED, SCRAPED, Stack
from tests.stack.day import FIRES, OUTLIVES, QUIET, SILENCED, SPEED, Day, sign
from tests.stack.tools import find_tool

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(600)]

ROADS = pytest.mark.parametrize("job", [PUSHED, SCRAPED])
ALERTS = [
    rule
    for group in rules.build(settings.load())["alerts.yaml"]["groups"]
    for rule in group["rules"]
]


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


def known_labels(rule: dict[str, object]) -> dict[str, str]:
    labels = rule["labels"]
    assert isinstance(labels, dict)
    return {"alertname": str(rule["alert"]), **labels}


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
        assert {label: told.labels.get(label) for label in (*by_sign[who], *where)} == {
            **by_sign[who],
            **where,
        }
    resolved = {sign(told.labels) for told in day.told("resolved", job)}
    assert fired.keys() - OUTLIVES.keys() <= resolved
