"""What a program sends arrives in a real Prometheus and as traces, by config.yaml as it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from poolscope.telemetry import catalog
from tests.collector.configured import Configured
from tests.collector.files import ROOT
from tests.collector.programs import CANARY, JOB, REQUESTS, SECRETS, TWICE, run
from tests.stack.prometheus import Prometheus
from tests.telemetry.endpoint import GrpcReceiver, plain

pytestmark = pytest.mark.servers

POOL = 'db_client_connection_pool_name="orders"'
WAIT = catalog.WAIT_TIME.prometheus_name
OF_RESOURCE = {"job": JOB, "instance": "one", "deployment_environment_name": "test"}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}


class Backends:
    """A Collector, and behind it a Prometheus as the repository sets it up, and a sink of spans."""

    def __init__(self, collector: Configured, prometheus: Prometheus, sink: GrpcReceiver) -> None:
        self.collector = collector
        self.prometheus = prometheus
        self.sink = sink

    def wait_for(self, promql: str) -> list[dict[str, Any]]:
        return self.prometheus.wait_until(lambda: self.prometheus.query(promql))

    def exemplars(self, promql: str) -> set[str]:
        """Return the traces that the exemplars of series lead to."""
        found = self.prometheus.wait_until(lambda: self.prometheus.exemplars(promql))
        return {each["labels"]["trace_id"] for series in found for each in series["exemplars"]}

    def traces(self, name: str) -> set[str]:
        """Return the traces with a span of this name."""

        def found() -> set[str]:
            return {span.trace_id.hex() for _, span in self.sink.spans() if span.name == name}

        return self.collector.wait_until(found)


@contextmanager
def backends(collector_binary: Path, prometheus_binary: Path) -> Iterator[Backends]:
    with GrpcReceiver() as sink, prometheus_of_the_repository(prometheus_binary) as prometheus:
        traces = f"127.0.0.1:{sink.port}"
        with Configured(collector_binary, prometheus=prometheus.url, traces=traces) as collector:
            yield Backends(collector, prometheus, sink)


def prometheus_of_the_repository(binary: Path) -> Prometheus:
    """A Prometheus that makes names and labels of OTLP as ours does."""
    prometheus = Prometheus(binary)
    theirs = yaml.safe_load((ROOT / "grafana/prometheus/prometheus.yaml").read_text())
    prometheus.config |= {"otlp": theirs["otlp"], "storage": theirs["storage"]}
    return prometheus


@pytest.fixture(scope="module")
def arrived(collector_binary: Path, prometheus_binary: Path) -> Iterator[Backends]:
    """What a program has sent that made a request, and one that was refused."""
    with backends(collector_binary, prometheus_binary) as behind:
        run(REQUESTS, behind.collector.grpc_endpoint)
        behind.wait_for(f"{WAIT}_count")
        yield behind


def test_every_series_has_the_name_and_the_labels_of_the_catalog(arrived: Backends) -> None:
    for metric in catalog.METRICS:
        labels = {catalog.prometheus_label(each) for each in metric.attributes}
        for suffix in SUFFIXES.get(metric.kind, ("",)):
            name = metric.prometheus_name + suffix
            found = [series["metric"] for series in arrived.prometheus.query(name)]
            assert found, name
            for series in found:
                assert {key: series[key] for key in OF_RESOURCE} == OF_RESOURCE
                own = series.keys() - OF_RESOURCE.keys() - {"__name__", "le", "error_type"}
                assert own == labels - {"error_type"}
                assert ("error_type" in series) <= ("error_type" in labels)


def test_numbers_arrive_as_they_are(arrived: Backends) -> None:
    outcomes = {
        series["metric"].get("error_type", ""): series["value"][1]
        for series in arrived.prometheus.query(f"{WAIT}_count{{{POOL}}}")
    }
    assert outcomes == {"": "2", "timeout": "1"}
    in_time = arrived.prometheus.query(f'{WAIT}_bucket{{{POOL}, error_type="", le="0.1"}}')
    assert [series["value"][1] for series in in_time] == ["2"]


def test_spans_arrive_and_exemplars_lead_to_them(arrived: Backends) -> None:
    acquires = arrived.traces("pool.acquire")
    assert acquires == arrived.traces("request") | arrived.traces("refusal")
    # Of those that ended in the same bucket only the last has one.
    assert arrived.traces("refusal") <= arrived.exemplars(f"{WAIT}_bucket") <= acquires


def test_spans_are_counted_and_timed_by_pool(arrived: Backends) -> None:
    # They begin with a zero, from which rates can be told.
    acquires = f'traces_span_metrics_calls_total{{span_name="pool.acquire",{POOL}}}'
    arrived.wait_for(f"sum({acquires}) == 3")
    calls = arrived.prometheus.query(acquires)
    outcomes = {
        (each["metric"]["status_code"], each["metric"].get("error_type")): each["value"][1]
        for each in calls
    }
    assert outcomes == {
        ("STATUS_CODE_UNSET", None): "2",
        ("STATUS_CODE_ERROR", "timeout"): "1",
    }
    for series in calls:
        assert series["metric"]["job"] == JOB
        assert series["metric"]["deployment_environment_name"] == "test"
        assert "instance" not in series["metric"]
    buckets = arrived.wait_for(f"traces_span_metrics_duration_seconds_bucket{{{POOL}}}")
    bounds = {float(series["metric"]["le"]) for series in buckets}
    assert bounds == {*catalog.USE_BUCKETS, float("inf")}
    assert arrived.exemplars("traces_span_metrics_duration_seconds_bucket") <= (
        arrived.traces("request") | arrived.traces("refusal")
    )


def test_it_tells_what_alerts_on_it_ask_for(arrived: Backends) -> None:
    told = arrived.collector.told
    for what in ("receiver_accepted", "exporter_sent"):
        arrived.collector.wait_until(partial(told, f"otelcol_{what}_spans"))
        arrived.collector.wait_until(partial(told, f"otelcol_{what}_metric_points"))
    assert max(told("otelcol_exporter_queue_capacity")) == 20_000
    assert max(told("otelcol_exporter_queue_size")) < 10


def test_it_has_nothing_to_complain_about(arrived: Backends) -> None:
    assert arrived.collector.log == ""


def test_secrets_do_not_come_through(collector_binary: Path, prometheus_binary: Path) -> None:
    with backends(collector_binary, prometheus_binary) as behind:
        run(SECRETS, behind.collector.http_endpoint, "http/protobuf")
        (till,) = behind.wait_for("till_seconds_count")
        behind.wait_for("traces_span_metrics_calls_total")
        behind.collector.wait_until(lambda: behind.sink.traces)
        spans = [span for _, span in behind.sink.spans()]
        series = behind.prometheus.query('{__name__!=""}')
        exemplars = behind.prometheus.exemplars('{__name__!=""}')
    assert CANARY not in str((behind.sink.traces, series, exemplars))
    own = till["metric"].keys() - OF_RESOURCE.keys() - {"__name__"}
    assert own == {"db_client_connection_pool_name", "kept", "target", "words"}
    assert till["metric"]["db_client_connection_pool_name"] == "postgresql://db.internal/shop"
    (span,) = spans  # not the one of a probe
    assert span.name == "connect postgresql://db.internal/shop"
    assert plain(span.attributes) == {
        "target": "postgresql://db.internal/shop",
        "words": "host=db password=*** dbname=shop",
        "kept": "yes",
    }
    assert span.status.message == "password=***, postgresql://db.internal/shop"


def test_deltas_arrive_as_totals(collector_binary: Path, prometheus_binary: Path) -> None:
    delta = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}
    with backends(collector_binary, prometheus_binary) as behind:
        run(TWICE, behind.collector.grpc_endpoint, **delta)
        behind.wait_for(f'{WAIT}_count{{{POOL}, error_type=""}} == 2')


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_what_prometheus_could_not_take_survives_a_restart(
    collector_binary: Path, prometheus_binary: Path, kill: bool
) -> None:
    prometheus = prometheus_of_the_repository(prometheus_binary)
    with Configured(collector_binary, prometheus=prometheus.url) as collector:
        run(TWICE, collector.grpc_endpoint)
        if kill:
            collector.kill()
        collector.stop()
        collector.start()
        with prometheus:
            prometheus.wait_until(
                lambda: prometheus.query(f'{WAIT}_count{{{POOL}, error_type=""}} == 2')
            )
