"""What arrives through a real Collector is what a scrape of ours shows, series by series."""

from dataclasses import replace

import pytest

from poolscope._version import __version__
from poolscope.bus import ROOT
from poolscope.events import PoolOpened
from poolscope.reasons import CloseReason, ConnectFault, FailureReason
from poolscope.telemetry import catalog, readings
from poolscope.testing import run_virtual
from tests.stack.collector import Collector
from tests.stack.exposition import ADDED, TARGET, Family, Key, exposition, read
from tests.stack.scene import STRANGE, every_state
from tests.stack.sending import (
    INSTANCE,
    JOB,
    PROTOCOLS,
    Flush,
    metrics_to,
    pools_recorded,
    pools_sent,
)
from tests.telemetry.series import parse_openmetrics

pytestmark = pytest.mark.servers

Families = dict[str, Family]


def both(collector: Collector, flush: Flush, openmetrics: bool) -> tuple[Families, Families]:
    """Return what we show and what the Collector shows of one moment, with pools in every state.

    It is not the first time that they are sent: it was done whenever a pool opened.
    """

    async def main() -> tuple[str, str]:
        with ROOT.subscribe(lambda _: flush(), PoolOpened):
            async with every_state():
                flush()
                return exposition(openmetrics=openmetrics), collector.scrape(
                    openmetrics=openmetrics
                )

    shown, arrived = map(read, run_virtual(main()))
    return shown, arrived


@pytest.mark.parametrize("openmetrics", [False, True], ids=["plain", "openmetrics"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pool_exporter_brings_the_series_of_a_scrape(
    collector: Collector, protocol: str, openmetrics: bool
) -> None:
    with pools_sent(metrics_to(collector, protocol)) as flush:
        shown, arrived = both(collector, flush, openmetrics)
    assert shown.keys() == {metric.prometheus_name for metric in catalog.METRICS}
    assert arrived == without_units(shown)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_api_alone_brings_the_same_series_from_their_first_value_on(
    collector: Collector, protocol: str
) -> None:
    with pools_recorded(metrics_to(collector, protocol)) as flush:
        shown, arrived = both(collector, flush, openmetrics=True)
    assert arrived == without_units(without_unborn(shown))
    assert arrived != without_units(shown)


def test_deltas_add_up_to_the_same_series(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
    with pools_sent(metrics_to(collector)) as flush:
        shown, arrived = both(collector, flush, openmetrics=True)
    assert arrived.keys() == shown.keys()
    for name, family in shown.items():
        assert arrived[name].samples == pytest.approx(family.samples)


def test_the_moment_at_which_they_are_compared_has_everything_there_is() -> None:
    async def main() -> str:
        async with every_state():
            return exposition(openmetrics=True)

    seen: dict[str, set[str]] = {}
    for family in read(run_virtual(main())).values():
        for (name, labels), value in family.samples.items():
            if value:
                seen.setdefault(name, set()).update(value for _, value in labels)
    suffixes = {"counter": "_total", "histogram": "_sum"}
    names = {m.prometheus_name + suffixes.get(m.kind, "") for m in catalog.METRICS}
    assert names <= seen.keys()
    assert seen["poolscope_acquire_failures_total"] >= set(FailureReason)
    assert seen["poolscope_connect_failures_total"] >= set(readings.CONNECT_FAULTS)
    assert seen["poolscope_connection_closed_total"] >= set(CloseReason)
    assert seen["db_client_connection_wait_time_seconds_count"] >= set(FailureReason)
    assert seen["db_client_connection_create_time_seconds_count"] >= set(ConnectFault)
    assert STRANGE in seen["poolscope_acquire_timeout_seconds"]


def test_the_collector_adds_nothing_but_who_sent_it(collector: Collector) -> None:
    """So that leaving that out hides no difference."""

    async def main() -> str:
        async with every_state():
            flush()
            return collector.scrape(openmetrics=True)

    with pools_sent(metrics_to(collector)) as flush:
        families = list(parse_openmetrics(run_virtual(main())))
    (target,) = [family for family in families if family.name == TARGET]
    assert [sample.labels for sample in target.samples] == [{"job": JOB, "instance": INSTANCE}]
    added = {
        frozenset((label, sample.labels[label]) for label in ADDED)
        for family in families
        for sample in family.samples
        if family is not target
    }
    scope = {"name": "poolscope", "version": __version__, "schema_url": ""}
    labels = {"job": JOB, "instance": INSTANCE} | {f"otel_scope_{k}": v for k, v in scope.items()}
    assert added == {frozenset(labels.items())}


def without_units(families: Families) -> Families:
    """A Collector writes no units: there, they are part of the names only."""
    assert {family.unit for family in families.values()} <= {"", "seconds"}
    return {name: replace(family, unit="") for name, family in families.items()}


def without_unborn(families: Families) -> Families:
    """The API cannot say that a histogram is empty: there a series begins with its first value."""

    def born(name: str, family: Family, key: Key) -> bool:
        labels = frozenset(label for label in key[1] if label[0] != "le")
        return family.kind != "histogram" or family.samples[f"{name}_count", labels] > 0

    return {
        name: replace(
            family, samples={k: v for k, v in family.samples.items() if born(name, family, k)}
        )
        for name, family in families.items()
    }
