"""The boards ask for what live pools export, and show all of it."""

from collections.abc import Iterator

import pytest

from grafana.kit import detail_around, names, settings
from grafana.kit.pace import Pace
from grafana.kit.promql import Selector, grouped, selectors
from grafana.kit.recording import groups
from poolscope.testing import run_virtual
from tests.grafana.boards import BOARDS, asked
from tests.stack.exposition import exposition, read
from tests.stack.scene import every_state

FOREIGN = {
    "otelcol_": "the Collector's own",
    "http_client_request_duration": "the Collector's own",
    "prometheus_": "Prometheus' own",
    "postgresql_": "of the Collector's receiver for PostgreSQL",
    "ALERTS": "Prometheus' own",
    detail_around.OPERATION: "of instrumentations of database clients",
}
"""Why series are on boards that no pool exports."""
ADDED = {
    names.JOB: "of whoever asks or sends",
    names.INSTANCE: "of whoever asks or sends",
    names.ENVIRONMENT: "of the resource, which Prometheus promotes",
    names.SERVER: "of the resource, which Prometheus promotes",
    "le": "of every histogram",
}
"""Why labels are asked for that no pool exports."""
NOT_SHOWN = {
    names.CREATE_SUM: "a mean of connects hides the slow ones, and the quantile is shown",
}
"""Why a series of pools is on no board."""

Series = dict[str, dict[str, set[str]]]


@pytest.fixture(scope="module")
def exported() -> Series:
    """The values of each label of each series of pools in every state there is."""

    async def main() -> str:
        async with every_state():
            return exposition(openmetrics=False)

    found: Series = {}
    for family in read(run_virtual(main())).values():
        for name, labels in family.samples:
            values = found.setdefault(name, {})
            for label, value in labels:
                values.setdefault(label, set()).add(value)
    return found


@pytest.fixture(scope="module")
def recorded() -> set[str]:
    """The names of the recording rules."""
    made = groups(settings.load(), Pace())
    return {rule["record"] for group in made for rule in group["rules"]}


def test_each_series_is_exported_recorded_or_somebody_elses(
    exported: Series, recorded: set[str]
) -> None:
    for place, selector in _selectors():
        name = selector.name
        if not name:
            assert "__name__" in selector.matchers, place
        elif not name.startswith(tuple(FOREIGN)):
            assert name in exported or name in recorded, (place, name)


def test_each_matcher_is_on_a_label_that_is_exported(exported: Series) -> None:
    for place, selector in _selectors():
        if selector.name in exported:
            known = exported[selector.name].keys() | ADDED.keys()
            assert selector.matchers.keys() <= known, (place, selector.name)


def test_each_value_that_is_asked_for_is_exported(exported: Series) -> None:
    for place, selector in _selectors():
        for label, (_, value) in selector.matchers.items():
            if selector.name in exported and value and not value.startswith("$"):
                values = exported[selector.name][label]
                assert set(value.split("|")) <= values, (place, selector.name, label)


def test_each_label_that_is_summed_by_is_exported(exported: Series) -> None:
    labels = {label for values in exported.values() for label in values} | ADDED.keys()
    for query in asked():
        found = [each.name for each in selectors(query.expr)]
        if found and all(name in exported for name in found):
            assert grouped(query.expr) <= labels, query.place


def test_everything_that_is_exported_is_on_a_board_or_has_a_reason(exported: Series) -> None:
    shown = {selector.name for _, selector in _selectors()}
    left = exported.keys() - shown
    # Whoever names the buckets gets the number of all from them.
    counts = {name for name in left if name.removesuffix("_count") + "_bucket" in shown}
    assert left - counts == NOT_SHOWN.keys()


def _selectors() -> Iterator[tuple[str, Selector]]:
    for query in asked():
        yield from ((query.place, selector) for selector in selectors(query.expr))
    for name, board in BOARDS.items():
        for mark in board["annotations"]["list"]:
            yield from ((f"{name}: {mark['name']}", each) for each in selectors(mark["expr"]))
