"""What one call sets up, and what it leaves alone."""

from collections.abc import Iterator

import pytest

from poolscope.telemetry import catalog
from tests.telemetry.endpoint import HttpReceiver
from tests.telemetry.programs import STRICT, USE_A_POOL, run_program, run_well

ALL_SPANS = {"request", "pool.acquire", "pool.use"}
ALL_METRICS = {metric.name for metric in catalog.METRICS}


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver() as receiver:
        yield receiver


def run(text: str, receiver: HttpReceiver, **variables: str) -> str:
    return run_well(text, protocol="http/protobuf", endpoint=receiver.url, **variables)


def test_metrics_and_spans_arrive_when_flushed(receiver: HttpReceiver) -> None:
    # The program then ends without a word, so that only what was flushed can have arrived.
    flush = "import os\nasyncio.run(main(lambda: print(telemetry.force_flush(), flush=True)))\n"
    assert run(USE_A_POOL + flush + "os._exit(0)", receiver) == "True\n"
    assert receiver.metric_names() == ALL_METRICS
    assert set(receiver.span_names()) == ALL_SPANS


def test_what_is_left_arrives_when_the_program_ends(receiver: HttpReceiver) -> None:
    run(USE_A_POOL + "asyncio.run(main())", receiver)
    assert set(receiver.span_names()) == ALL_SPANS
    # The pool lived for a moment between two exports; it is told of all the same.
    assert receiver.metric_names() == ALL_METRICS
    assert list(receiver.requests_by_instance().values()) == [1]


def test_shutdown_sends_what_is_there_and_ends(receiver: HttpReceiver) -> None:
    end = "print(telemetry.shutdown(), telemetry.shutdown(), telemetry.force_flush())"
    assert run(USE_A_POOL + f"asyncio.run(main(lambda: {end}))", receiver) == "True True False\n"
    assert receiver.metric_names() == ALL_METRICS
    assert len(receiver.metrics) == 1


def test_a_flush_that_the_endpoint_refuses_did_not_succeed(receiver: HttpReceiver) -> None:
    receiver.refusals = 2  # of metrics and spans
    text = (
        USE_A_POOL + "asyncio.run(main())\nprint(telemetry.force_flush(), telemetry.force_flush())"
    )
    variables = {"protocol": "http/protobuf", "endpoint": receiver.url}
    done = run_program(*STRICT, "-c", text, **variables, OTEL_EXPORTER_OTLP_TIMEOUT="0.5")
    assert done.stdout == "False True\n"
    assert len(done.stderr.splitlines()) == 2  # of the SDK


def test_a_second_call_changes_nothing(receiver: HttpReceiver) -> None:
    run(USE_A_POOL + "assert setup_telemetry('shop') is telemetry\nasyncio.run(main())", receiver)
    assert len(receiver.metrics) == 1


def test_after_shutdown_it_cannot_be_set_up_again(receiver: HttpReceiver) -> None:
    text = (
        USE_A_POOL
        + """
telemetry.shutdown()
try:
    setup_telemetry("shop")
except RuntimeError as error:
    print(error)
"""
    )
    assert run(text, receiver).startswith("telemetry of this process was shut down")


# Providers of the program

OWN_PROVIDERS = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

def names():
    data = reader.get_metrics_data()
    scopes = data.resource_metrics[0].scope_metrics if data else []
    return {metric.name for scope in scopes for metric in scope.metrics}
"""
OWN_METERS = """
metrics.set_meter_provider(meters := MeterProvider([reader := InMemoryMetricReader()]))
"""
OWN_TRACERS = """
trace.set_tracer_provider(tracers := TracerProvider())
tracers.add_span_processor(SimpleSpanProcessor(spans := InMemorySpanExporter()))
"""


def test_providers_of_the_program_are_used_and_left_alone(receiver: HttpReceiver) -> None:
    check = """
def look():
    global seen
    seen = names()
    telemetry.shutdown()
    assert trace.get_tracer_provider() is tracers
    assert metrics.get_meter_provider() is meters

asyncio.run(main(look))
meters.get_meter("app").create_counter("still.there").add(1)
assert names() >= {"still.there", "db.client.connection.wait_time"}
with trace.get_tracer("app").start_as_current_span("later"):
    pass
print(*sorted(seen))
print(*sorted(span.name for span in spans.get_finished_spans()))
"""
    printed = run(OWN_PROVIDERS + OWN_METERS + OWN_TRACERS + USE_A_POOL + check, receiver)
    seen, spans = printed.splitlines()
    assert set(seen.split()) == ALL_METRICS
    assert spans.split() == ["later", "pool.acquire", "pool.use", "request"]
    assert (receiver.metrics, receiver.traces) == ([], [])


def test_a_meter_provider_of_the_program_hears_of_pools_until_it_ends_itself(
    receiver: HttpReceiver,
) -> None:
    # At exit its last collection comes after our own end.
    own = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(ConsoleMetricExporter())]))
"""
    hold = """
import poolscope
from sqlalchemy import QueuePool, create_engine
engine = create_engine("sqlite://", poolclass=QueuePool)
observed = poolscope.observe(engine)
"""
    printed = run(own + USE_A_POOL + hold, receiver)
    assert catalog.MAX.name in printed


def test_a_provider_of_the_program_goes_with_one_of_ours(receiver: HttpReceiver) -> None:
    run(OWN_PROVIDERS + OWN_TRACERS + USE_A_POOL + "asyncio.run(main())", receiver)
    assert (receiver.metric_names(), receiver.traces) == (ALL_METRICS, [])


def test_with_meters_of_the_program_and_no_metrics_wanted_pools_still_report_to_them(
    receiver: HttpReceiver,
) -> None:
    text = OWN_PROVIDERS + OWN_METERS + USE_A_POOL + "asyncio.run(main())\nprint(*names())"
    assert catalog.WAIT_TIME.name in run(text, receiver, OTEL_METRICS_EXPORTER="none")
    assert receiver.metrics == []


# Logs


@pytest.mark.parametrize(("arguments", "lines"), [("", 1), (", logs=False", 0)])
def test_logs_can_be_left_out(arguments: str, lines: int, receiver: HttpReceiver) -> None:
    text = (
        USE_A_POOL.replace('setup_telemetry("shop")', f'setup_telemetry("shop"{arguments})')
        + """
import logging
from poolscope.errors import PoolTimeoutError

async def time_out():
    async with ConnectionPool(object, ConnectionPoolSettings(name="orders", max_size=1)) as pool:
        async with pool.connection():
            try:
                await pool.acquire(timeout=0)
            except PoolTimeoutError:
                pass

asyncio.run(time_out())
"""
    )
    variables = {"protocol": "http/protobuf", "endpoint": receiver.url}
    done = run_program(*STRICT, "-c", text, **variables)
    assert done.returncode == 0
    assert done.stderr.count("pool=orders event=acquire_timed_out") == lines
