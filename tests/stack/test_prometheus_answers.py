"""A real Prometheus scrapes our endpoint and a Collector, and answers alike for both."""

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.trace import Tracer

from poolscope import PoolTimeoutError
from poolscope.telemetry import catalog
from poolscope.telemetry.prometheus import start_metrics_server
from poolscope.testing import run_virtual
from tests.stack.collector import Collector
from tests.stack.exposition import Labels, normal
from tests.stack.prometheus import Prometheus
from tests.stack.scene import Cast, every_state, hold, lag, refused
from tests.stack.sending import JOB, Flush, metrics_to, pools_sent, pools_traced, spans_to
from tests.stack.traced import SPANS, traffic

pytestmark = pytest.mark.servers

POOL = "db_client_connection_pool_name"
WAIT = "db_client_connection_wait_time_seconds"
TIMEOUTS = "db_client_connection_timeouts_total"

USERS = frozenset({(POOL, "users")})
BY_POOL = f"sum by ({POOL})"
QUESTIONS = [
    f'{BY_POOL} (db_client_connection_count{{$job, db_client_connection_state="used"}})'
    f" / {BY_POOL} (db_client_connection_max{{$job}})",
    f'{BY_POOL} ({WAIT}_count{{$job, error_type!=""}}) / {BY_POOL} ({WAIT}_count{{$job}})',
    f'{BY_POOL} ({WAIT}_bucket{{$job, error_type="", le="0.1"}})',
    f"histogram_quantile(0.99, sum by ({POOL}, le) ({WAIT}_bucket{{$job}}))",
    "sum by (reason) (poolscope_connection_closed_total{$job})",
    "topk(1, poolscope_use_oldest_seconds{$job})",
]
"""Answered from levels and totals, which are the same at any time while nothing happens."""
FIRST = [
    f"{TIMEOUTS}{{$job}}",
    'poolscope_acquire_failures_total{$job, error_type="timeout"}',
    f'{WAIT}_count{{$job, error_type=""}}',
    'db_client_connection_use_time_seconds_bucket{$job, le="0.25"}',
    "db_client_connection_create_time_seconds_count{$job}",
]
"""What has happened once."""


class Scraped:
    """Both targets of one Prometheus: `$job` in a query stands for either."""

    def __init__(self, prometheus: Prometheus, address: str, flush: Flush) -> None:
        self.prometheus = prometheus
        self.jobs = (urlsplit(address).netloc, JOB)
        self.flush = flush

    def both(self, promql: str) -> tuple[dict[Labels, float], dict[Labels, float]]:
        """Return what it answers now, of us and of the Collector."""
        ours, theirs = (self.ask(promql.replace("$job", f'job="{job}"')) for job in self.jobs)
        return ours, theirs

    def ask(self, promql: str) -> dict[Labels, float]:
        results = self.prometheus.query(promql)
        return {normal(each["metric"]): float(each["value"][1]) for each in results}

    def exemplars(self, job: str, name: str) -> dict[Labels, dict[str, Any]]:
        """Return the exemplars of one target: where they lead to, value and time."""
        query = f'{name}{{job="{job}"}}'
        found = self.prometheus.wait_until(lambda: self.prometheus.exemplars(query))
        return {normal(each["seriesLabels"]): each["exemplars"] for each in found}

    def wait_for(self, promql: str, *values: float) -> None:
        """Wait until both targets have been scraped with these values."""

        def have() -> bool:
            return all(sorted(answer.values()) == [*values] for answer in self.both(promql))

        self.prometheus.wait_until(have)


@contextmanager
def scraped(collector: Collector, binary: Path) -> Iterator[Scraped]:
    """Let Prometheus scrape what pools show, and what they send to the Collector."""
    with pools_sent(metrics_to(collector)) as flush, start_metrics_server(port=0) as server:
        flush()
        targets = [server.url, collector.prometheus_url]
        with Prometheus(binary, targets, honor_labels=True) as prometheus:
            yield Scraped(prometheus, server.url, flush)


def names(metric: catalog.Metric) -> list[str]:
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
    return [metric.prometheus_name + suffix for suffix in suffixes.get(metric.kind, [""])]


def test_every_series_is_stored_alike(collector: Collector, prometheus_binary: Path) -> None:
    async def main() -> None:
        async with every_state():
            with scraped(collector, prometheus_binary) as targets:
                targets.wait_for("poolscope_pools{$job}", 10)
                for name in [name for metric in catalog.METRICS for name in names(metric)]:
                    shown, arrived = targets.both(f"{name}{{$job}}")
                    assert shown
                    assert arrived == shown

    run_virtual(main())


def test_questions_of_dashboards_are_answered_alike(
    collector: Collector, prometheus_binary: Path
) -> None:
    async def main() -> None:
        async with every_state():
            with scraped(collector, prometheus_binary) as targets:
                targets.wait_for("poolscope_pools{$job}", 10)
                for question in QUESTIONS:
                    shown, arrived = targets.both(question)
                    assert any(value > 0 for value in shown.values()), question
                    assert arrived == pytest.approx(shown, nan_ok=True), question

    run_virtual(main())


def test_the_first_of_everything_is_an_increase(
    collector: Collector, prometheus_binary: Path
) -> None:
    """For the counters, and the histograms of what went well, are there at 0 before."""

    async def main() -> None:
        async with AsyncExitStack() as stack:
            pool = await Cast(stack).pool("orders", lag())
            with scraped(collector, prometheus_binary) as targets:
                targets.wait_for(f"{TIMEOUTS}{{$job}}", 0)
                await refused(PoolTimeoutError, pool, 0)
                await hold(pool, 0.2)
                targets.flush()
                targets.wait_for(f"{TIMEOUTS}{{$job}}", 1)
                targets.wait_for(f"count_over_time({TIMEOUTS}{{$job}}[1m]) > bool 9", 1)
                for counter in FIRST:
                    for answer in targets.both(f"sum(increase({counter}[1m]))"):
                        # More than 1 because Prometheus estimates what is beyond its samples.
                        assert 1 <= answer[frozenset()] < 1.5, counter
                shown, arrived = targets.both(
                    f"histogram_quantile(0.99, sum by (le) (rate({WAIT}_bucket{{$job}}[1m])))"
                )
                assert arrived == pytest.approx(shown)
                assert 0.01 < shown[frozenset()] <= 0.025

    run_virtual(main())


def test_the_series_of_a_pool_end_with_it(collector_binary: Path, prometheus_binary: Path) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            cast = Cast(stack)
            await cast.pool("orders", lag())
            users = await cast.pool("users", lag())
            await hold(users)
            with scraped(collector, prometheus_binary) as targets:

                def begun() -> bool:
                    targets.flush()
                    return all(targets.both(series_of_users))

                targets.prometheus.wait_until(begun)
                await users.close()
                targets.flush()
                # The Collector learns how it ended; from us nobody can.
                targets.prometheus.wait_until(lambda: targets.both(closed) == ({}, {USERS: 1}))

                def ended() -> bool:
                    targets.flush()
                    return targets.both(series_of_users) == ({}, {})

                targets.prometheus.wait_until(ended)
                targets.wait_for("poolscope_pools{$job}", 1)

    series_of_users = f'{{{POOL}="users", $job}}'
    closed = f'sum by ({POOL}) (poolscope_connection_closed_total{{{POOL}="users", $job}})'
    collector = Collector(collector_binary)
    collector.config["exporters"]["prometheus"]["metric_expiration"] = "3s"
    with collector:
        run_virtual(main())


def test_exemplars_are_stored_alike(collector: Collector, prometheus_binary: Path) -> None:
    async def main(tracer: Tracer) -> None:
        async with traffic(tracer):
            with scraped(collector, prometheus_binary) as targets:
                targets.wait_for("poolscope_pools{$job}", 2)
                traces = {span["traceId"] for span in collector.traces()}
                for name in SPANS:
                    shown, arrived = (
                        targets.exemplars(job, f"{name}_bucket") for job in targets.jobs
                    )
                    assert arrived == shown
                    assert {each["labels"]["trace_id"] for [each] in shown.values()} <= traces

    with pools_traced(spans_to(collector)) as provider:
        run_virtual(main(provider.get_tracer("app")))
