"""The simulated fleet is like a real one, and what it is for can be measured."""

import re
import time
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

from poolscope.testing import run_virtual
from stack.collector import Collector
from stack.fleet import budget
from stack.fleet.fleet import Fleet
from stack.fleet.questions import BOARDS, RECORDED
from stack.fleet.servers import servers
from stack.fleet.trial import Plan, table, tried
from tests.stack.scene import every_state
from tests.telemetry.series import of_families, scrape
from tests.telemetry.traffic import make_pool

POOL = "db_client_connection_pool_name"
SCALING = Path(__file__).parents[2] / "docs" / "scaling.md"
INSTANCES, POOLS = 5, 4


def shapes() -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """The series of pools, whatever pool they are of."""
    series = [(name, dict(labels)) for name, labels in of_families(scrape())]
    return {
        (name, frozenset((k, v) for k, v in labels.items() if k != POOL))
        for name, labels in series
        if POOL in labels
    }


def test_a_pool_has_the_series_that_the_budget_counts() -> None:
    async def main() -> int:
        async with make_pool():
            return len(shapes())

    assert run_virtual(main()) == budget.series_per_pool()


def test_no_pool_has_more_than_the_budget_says() -> None:
    async def main() -> int:
        async with every_state():
            return len(shapes())

    assert run_virtual(main()) == budget.most_series_per_pool()


def test_the_page_on_scaling_has_the_numbers_of_the_budget() -> None:
    page = SCALING.read_text()
    pool, instance = budget.series_per_pool(), budget.series_per_instance(4)
    for metric, series in budget.series_by_metric():
        assert f"| `{metric.name}` | {series} |" in page
    for number in (pool, budget.most_series_per_pool(), instance, instance * 500):
        assert f"{number:,} series" in page


def test_the_same_fleet_sends_the_same_again() -> None:
    first, second = (
        [each.export(1060).to_json() for each in Fleet(2, 2, 1000).instances] for _ in range(2)
    )
    assert first == second
    assert first[0] != first[1]


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.usefixtures("collector_binary", "prometheus_binary")
def test_a_fleet_is_pushed_through_a_collector_and_measured() -> None:
    plan = Plan(POOLS, minutes=0.2, history=2, interval=1, speed=10)
    measured = dict(tried(INSTANCES, plan))
    print(table([("", measured)]))

    assert measured["exports that failed"].startswith("0 of ")
    series = int(measured["series of the fleet"].replace(",", ""))
    begun = INSTANCES * budget.series_per_instance(POOLS)
    failed, rest = divmod(series - begun, 18)
    assert rest == 0
    assert 0 < failed <= INSTANCES * POOLS
    assert "nan" not in " ".join(measured.values())
    for board in BOARDS:
        assert any(name.startswith(f"board {board}: ") for name in measured)
    for name in RECORDED:
        assert "other groups" not in measured[f"`{name}`"]


def test_what_the_page_adds_to_the_collector_keeps_what_is_there() -> None:
    """Lists are replaced: a page that is out of date would let secrets through."""
    pipeline = r"    metrics:\n(?:      receivers: .*\n)?      processors:\n((?:        - .*\n)+)"
    (there,) = re.findall(pipeline, (SCALING.parents[1] / "otel-collector/config.yaml").read_text())
    (added,) = re.findall(pipeline, SCALING.read_text())
    assert added.replace("        - filter/failed_durations\n", "") == there != added


class Dropping(Collector):
    """A Collector with the configuration that the page on scaling adds."""

    def _options(self) -> list[str | Path]:
        path = self.directory / "added.yaml"
        path.write_text(re.findall(r"^```yaml\n(.*?)^```", SCALING.read_text(), re.M | re.S)[0])
        return [*super()._options(), "--config", path]


@pytest.mark.servers
@pytest.mark.usefixtures("collector_binary", "prometheus_binary")
def test_what_the_page_drops_are_the_durations_of_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stack.fleet.servers.Collector", Dropping)
    with servers() as (collector, prometheus):
        exporter = OTLPMetricExporter(collector.grpc_endpoint, insecure=True)
        fleet = Fleet(INSTANCES, POOLS, time.time() - 60)
        assert "error.type" in "".join(
            each.export(time.time()).to_json() for each in fleet.instances
        )
        fleet.run(exporter, 0.2, 0.2)
        exporter.shutdown()
        prometheus.wait_until(lambda: prometheus.query(f"count(poolscope_pools) == {INSTANCES}"))
        (counted,) = prometheus.query('count({__name__!~".+:.+|ALERTS.*", job=~"fleet/.+"})')
        assert int(counted["value"][1]) == INSTANCES * budget.series_per_instance(POOLS)
