"""Programs that know nothing of poolscope, or have its pools but no telemetry of their own."""

import json
import time

import pytest

from poolscope.telemetry import catalog
from tests.instrument.auto.programs import OFFICIAL, disabled, requests_of, run_auto
from tests.telemetry.endpoint import RECEIVERS, HttpReceiver

OWN_POOL = """
from opentelemetry import trace
from poolscope import ConnectionPoolSettings, SyncConnectionPool

with SyncConnectionPool(object, ConnectionPoolSettings(name="orders")) as pool:
    for _ in range(3):
        with trace.get_tracer("app").start_as_current_span("request"), pool.connection():
            pass
print("done")
"""


@pytest.mark.parametrize("protocol", RECEIVERS)
def test_pools_of_ours_arrive_at_the_endpoint(protocol: str) -> None:
    with RECEIVERS[protocol]() as receiver:
        run_auto(OWN_POOL, receiver, protocol)
        assert receiver.metric_names() == {metric.name for metric in catalog.METRICS}
        assert [*requests_of(receiver, "orders").values()] == [3]
        spans = receiver.span_names()
        assert (spans["request"], spans["pool.acquire"], spans["pool.use"]) == (3, 3, 3)


def test_the_variables_for_spans_are_respected() -> None:
    with HttpReceiver() as receiver:
        run_auto(OWN_POOL, receiver, POOLSCOPE_SPANS="off")
        assert set(receiver.span_names()) == {"request"}
        assert [*requests_of(receiver, "orders").values()] == [3]


def test_disabled_it_is_not_there() -> None:
    with HttpReceiver() as receiver:
        run_auto(OWN_POOL, receiver, **disabled("poolscope", *OFFICIAL))
        assert receiver.metric_names() == set()
        assert set(receiver.span_names()) == {"request"}


@pytest.mark.parametrize(
    "variables",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_METRICS_EXPORTER": "console", "OTEL_TRACES_EXPORTER": "none"},
    ],
    ids=["disabled", "none", "console"],
)
def test_without_an_endpoint_the_program_does_as_ever(variables: dict[str, str]) -> None:
    began = time.monotonic()
    done = run_auto(OWN_POOL, **variables)
    assert time.monotonic() - began < 10
    assert done.stderr == ""
    said, _, metrics = done.stdout.partition("\n")
    assert said == "done"
    if "console" in variables.values():
        assert catalog.WAIT_TIME.name in json.dumps(json.loads(metrics))
    else:
        assert metrics == ""


@pytest.mark.slow
def test_where_nobody_listens_the_program_does_as_ever_and_ends() -> None:
    began = time.monotonic()
    where = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "2"}
    done = run_auto(OWN_POOL, **where)
    assert time.monotonic() - began < 15
    assert done.stdout == "done\n"


CHILDREN = """
import multiprocessing

context = multiprocessing.get_context("fork")

def work():
    from poolscope import ConnectionPoolSettings, SyncConnectionPool
    with SyncConnectionPool(object, ConnectionPoolSettings(name="orders")) as pool:
        with pool.connection():
            pass

if __name__ == "__main__":
    children = [context.Process(target=work) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
"""


def test_processes_that_end_without_exit_handlers_send_what_they_have() -> None:
    with HttpReceiver() as receiver:
        run_auto(OWN_POOL + CHILDREN, receiver)
        assert sorted(requests_of(receiver, "orders").values()) == [1, 1, 3]
