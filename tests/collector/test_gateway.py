"""Agents and gateways as otel-collector/ sets them up, with a real Prometheus behind them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from poolscope.telemetry import catalog
from tests.collector.configured import Configured
from tests.collector.files import SETS, read
from tests.collector.programs import JOB, REQUESTS, TRACES, TWICE, WAITS, run
from tests.stack.prometheus import Prometheus
from tests.telemetry.endpoint import GrpcReceiver

pytestmark = pytest.mark.servers

WAIT = f"{catalog.WAIT_TIME.prometheus_name}_count"
FIRST = {"job": JOB, "instance": "one", "deployment_environment_name": "test"}


class RemoteStorage(Prometheus):
    """A Prometheus that takes what is written to it, as Mimir and Thanos do."""

    @property
    def write_url(self) -> str:
        return f"{self.url}/api/v1/write"

    def _options(self) -> Sequence[str | Path]:
        return [*super()._options(), "--web.enable-remote-write-receiver"]


class Agent(Configured):
    """A Collector that sends to gateways, which have no name here that they could be found by."""

    def __init__(self, binary: Path, gateways: Sequence[Configured]) -> None:
        super().__init__(binary)
        config = read(*SETS["agent"])
        addresses = [each.grpc_endpoint.removeprefix("http://") for each in gateways]
        for name in ("load_balancing/traces", "load_balancing/metrics"):
            config["exporters"][name]["resolver"] = {"static": {"hostnames": addresses}}
        path = self.directory / "agent.yaml"
        # JSON is YAML.
        path.write_text(json.dumps(config))
        self.files = [path]


class Fleet:
    """An agent, two gateways with a sink of spans each, and one storage of metrics."""

    def __init__(self, collector: Path, storage: RemoteStorage, **variables: str) -> None:
        self.storage = storage
        self.sinks = [GrpcReceiver(), GrpcReceiver()]
        self._collector = collector
        self._variables = {"DECISION_WAIT": "200ms", "REMOTE_WRITE_ENDPOINT": storage.write_url}
        self._variables |= variables

    @contextmanager
    def running(self) -> Iterator[Agent]:
        with ExitStack() as stack:
            self.gateways = [
                stack.enter_context(self._gateway(stack.enter_context(sink))) for sink in self.sinks
            ]
            yield stack.enter_context(Agent(self._collector, self.gateways))

    def _gateway(self, sink: GrpcReceiver) -> Configured:
        traces = f"127.0.0.1:{sink.port}"
        return Configured(self._collector, "gateway", traces=traces, **self._variables)

    def traces(self) -> list[dict[str, set[str]]]:
        """Return the names of the spans of each trace, by the gateway they came through."""
        found: list[dict[str, set[str]]] = [{} for _ in self.sinks]
        for traces, sink in zip(found, self.sinks, strict=True):
            for _, span in sink.spans():
                traces.setdefault(span.trace_id.hex(), set()).add(span.name)
        return found


@pytest.fixture
def storage(prometheus_binary: Path) -> Iterator[RemoteStorage]:
    with RemoteStorage(prometheus_binary) as storage:
        yield storage


def test_all_spans_of_a_trace_go_through_one_gateway(
    collector_binary: Path, storage: RemoteStorage
) -> None:
    fleet = Fleet(collector_binary, storage, SAMPLING_PERCENTAGE="100")
    with fleet.running() as agent:
        run(TRACES, agent.grpc_endpoint)
        agent.wait_until(lambda: sum(map(len, fleet.traces())) == 32)
    one, other = fleet.traces()
    assert len(one) > 4 < len(other)
    assert not one.keys() & other.keys()
    for names in (*one.values(), *other.values()):
        assert names == {"request", "pool.acquire", "pool.use"}


def test_a_gateway_keeps_the_traces_that_failed_or_waited(
    collector_binary: Path, storage: RemoteStorage
) -> None:
    fleet = Fleet(collector_binary, storage, SAMPLING_PERCENTAGE="0", SLOW_ACQUIRE="20ms")
    with fleet.running() as agent:
        for program in (TRACES, REQUESTS, WAITS):
            run(program, agent.grpc_endpoint)
        agent.wait_until(lambda: sum(map(len, fleet.traces())) == 2)
        # Counted are all.
        calls = 'sum(traces_span_metrics_calls_total{span_name="pool.acquire"})'
        storage.wait_until(lambda: storage.query(f"{calls} == 36"))
    kept = {name for traces in fleet.traces() for names in traces.values() for name in names}
    assert kept == {"refusal", "patient", "pool.acquire", "pool.use"}


def test_metrics_are_written_with_the_labels_that_prometheus_would_make(
    collector_binary: Path, storage: RemoteStorage
) -> None:
    fleet = Fleet(collector_binary, storage)
    with fleet.running() as agent:
        run(REQUESTS, agent.grpc_endpoint)
        storage.wait_until(lambda: storage.query(WAIT))
        for metric in catalog.METRICS:
            if metric.kind == "counter":
                found = storage.query(f"{metric.prometheus_name}_total")
                labels = {catalog.prometheus_label(each) for each in metric.attributes}
                for series in found:
                    assert series["metric"].keys() == labels | FIRST.keys() | {"__name__"}
                    assert series["metric"].items() >= FIRST.items()
                assert found, metric.name


def test_what_cannot_be_written_stays_with_the_agent(
    collector_binary: Path, prometheus_binary: Path
) -> None:
    storage = RemoteStorage(prometheus_binary)
    fleet = Fleet(collector_binary, storage)
    with fleet.running() as agent:
        run(TWICE, agent.grpc_endpoint)
        agent.wait_until(lambda: sum(agent.told("otelcol_exporter_queue_size")) > 0)
        agent.kill()
        agent.stop()
        for gateway in fleet.gateways:
            gateway.kill()
            gateway.stop()
            gateway.start()
        agent.start()
        with storage:
            storage.wait_until(lambda: storage.query(f'{WAIT}{{error_type=""}} == 2'))
