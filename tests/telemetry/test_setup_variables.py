"""What the standard variables make of `setup_telemetry`."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality

from poolscope.telemetry import catalog
from tests.telemetry.certificates import Certificates
from tests.telemetry.endpoint import RECEIVERS, HttpReceiver
from tests.telemetry.programs import STRICT, USE_A_POOL, run_program, run_well

ALL_SPANS = {"request", "pool.acquire", "pool.use"}
ALL_METRICS = {metric.name for metric in catalog.METRICS}


@pytest.fixture
def receiver() -> Iterator[HttpReceiver]:
    with HttpReceiver() as receiver:
        yield receiver


def run(text: str, receiver: HttpReceiver, **variables: str) -> str:
    return run_well(USE_A_POOL + text, protocol="http/protobuf", endpoint=receiver.url, **variables)


def test_headers_resource_and_sampler_are_as_they_say(receiver: HttpReceiver) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=open",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.name=other",
        "OTEL_TRACES_SAMPLER": "always_off",
    }
    run_well(USE_A_POOL + "asyncio.run(main())", endpoint=receiver.url, **variables)
    assert receiver.traces == []
    assert {headers.get("x-key") for headers in receiver.headers} == {"open"}
    assert receiver.resource()["deployment.environment.name"] == "test"
    assert receiver.resource()["service.name"] == "shop"


def test_without_a_name_the_service_is_called_as_the_environment_says(
    receiver: HttpReceiver,
) -> None:
    text = USE_A_POOL.replace('"shop"', "") + "asyncio.run(main())"
    variables = {"protocol": "http/protobuf", "endpoint": receiver.url}
    run_well(text, **variables, OTEL_SERVICE_NAME="cellar")
    assert receiver.resource()["service.name"] == "cellar"


@pytest.mark.slow
def test_metrics_are_sent_at_the_interval_asked_for(receiver: HttpReceiver) -> None:
    text = """
def wait():
    while telemetry.exporter.exports < 3:
        time.sleep(0.01)

asyncio.run(main(wait))
"""
    run(text, receiver, OTEL_METRIC_EXPORT_INTERVAL="50")
    assert len(receiver.metrics) >= 3


SHOW = """
asyncio.run(main())
print(telemetry.exporter is None, telemetry.span_exporter is None, telemetry.force_flush())
print(type(metrics.get_meter_provider()).__name__, type(trace.get_tracer_provider()).__name__)
"""


def test_metrics_can_be_left_out(receiver: HttpReceiver) -> None:
    printed = run(SHOW, receiver, OTEL_METRICS_EXPORTER="none")
    assert printed.splitlines() == ["True False True", "_ProxyMeterProvider TracerProvider"]
    assert (receiver.metrics, set(receiver.span_names())) == ([], ALL_SPANS)


def test_spans_can_be_left_out(receiver: HttpReceiver) -> None:
    printed = run(SHOW, receiver, OTEL_TRACES_EXPORTER="none")
    assert printed.splitlines() == ["False True True", "MeterProvider ProxyTracerProvider"]
    assert (receiver.metric_names(), receiver.traces) == (ALL_METRICS, [])


def test_a_disabled_sdk_leaves_only_the_logs(receiver: HttpReceiver) -> None:
    text = SHOW + "print(*(type(part).__name__ for part in telemetry.parts))"
    printed = run(text, receiver, OTEL_SDK_DISABLED="True").splitlines()
    assert printed == ["True True True", "_ProxyMeterProvider ProxyTracerProvider", "PoolLog"]
    assert (receiver.metrics, receiver.traces) == ([], [])


def test_a_console_needs_no_endpoint() -> None:
    console = {"OTEL_METRICS_EXPORTER": "console", "OTEL_TRACES_EXPORTER": " Console "}
    found = list(documents(run_well(USE_A_POOL + "asyncio.run(main())", **console)))
    assert {document["name"] for document in found if "context" in document} == ALL_SPANS
    (sent,) = (document for document in found if "resource_metrics" in document)
    (group,) = sent["resource_metrics"]
    names = {metric["name"] for scope in group["scope_metrics"] for metric in scope["metrics"]}
    assert names == ALL_METRICS


def documents(text: str) -> Iterator[dict[str, Any]]:
    """Read one JSON document after the other."""
    decoder, text = json.JSONDecoder(), text.lstrip()
    while text:
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:].lstrip()


def test_pools_are_traced_with_the_requests_that_are_sampled(receiver: HttpReceiver) -> None:
    variables = {
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.5",
    }
    text = """
async def often():
    for _ in range(60):
        await main()

asyncio.run(often())
"""
    run(text, receiver, **variables)
    names = receiver.span_names()
    assert 0 < names["request"] < 60
    assert names == dict.fromkeys(ALL_SPANS, names["request"])
    assert list(receiver.requests_by_instance().values()) == [60]


def test_deltas_add_up_to_the_totals_though_an_export_failed(receiver: HttpReceiver) -> None:
    receiver.refusals = 1
    text = """
from poolscope.errors import PoolTimeoutError

async def work():
    async with ConnectionPool(object, ConnectionPoolSettings(name="orders", max_size=1)) as pool:
        for _ in range(3):
            async with pool.connection():
                try:
                    await pool.acquire(timeout=0)
                except PoolTimeoutError:
                    pass
            print(await asyncio.to_thread(telemetry.force_flush))

asyncio.run(work())
"""
    variables = {
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5",
    }
    variables |= {"protocol": "http/protobuf", "endpoint": receiver.url}
    done = run_program(*STRICT, "-c", USE_A_POOL + text, **variables)
    assert done.stdout.split() == ["False", "True", "True"]
    totals: Counter[str] = Counter()
    for _, metric in receiver.points():
        if metric.name == catalog.WAIT_TIME.name:
            assert metric.histogram.aggregation_temporality == DELTA
            totals["requests"] += sum(point.count for point in metric.histogram.data_points)
        elif metric.name == catalog.TIMEOUTS.name:
            assert metric.sum.aggregation_temporality == DELTA
            totals["timeouts"] += sum(point.as_int for point in metric.sum.data_points)
        elif metric.name == catalog.MAX.name:
            assert metric.sum.aggregation_temporality == CUMULATIVE
    assert totals == {"requests": 6, "timeouts": 3}


DELTA = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE


def test_only_histograms_of_the_application_become_exponential(receiver: HttpReceiver) -> None:
    text = 'metrics.get_meter("app").create_histogram("mine").record(0.2)\nasyncio.run(main())'
    variable = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
    run(text, receiver, **{variable: "base2_exponential_bucket_histogram"})
    kinds = {metric.name: metric.WhichOneof("data") for _, metric in receiver.points()}
    assert kinds["mine"] == "exponential_histogram"
    for ours in (catalog.WAIT_TIME, catalog.USE_TIME, catalog.CREATE_TIME):
        assert kinds[ours.name] == "histogram"


@pytest.mark.slow
@pytest.mark.parametrize("protocol", RECEIVERS)
def test_certificates_reach_the_exporters(protocol: str, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    trusted = {"OTEL_EXPORTER_OTLP_CERTIFICATE": certificates.path("ca.pem")}
    client = {
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": certificates.path("client.pem"),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": certificates.path("client.key"),
    }
    with RECEIVERS[protocol](certificates) as receiver:
        text = USE_A_POOL + "asyncio.run(main())"
        run_well(text, protocol=protocol, endpoint=receiver.url, **trusted, **client)
        assert (receiver.metric_names(), set(receiver.span_names())) == (ALL_METRICS, ALL_SPANS)
        asked = receiver.asked
        text += "\nprint(telemetry.force_flush())"
        variables = {"protocol": protocol, "endpoint": receiver.url, **trusted}
        done = run_program(*STRICT, "-c", text, **variables, OTEL_EXPORTER_OTLP_TIMEOUT="0.3")
        assert (done.stdout, receiver.asked) == ("False\n", asked)  # who shows none is not let in


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "must be grpc or http/protobuf"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json", "must be grpc or http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "must be grpc or http/protobuf"),
        ("OTEL_METRICS_EXPORTER", "statsd", "must be one of otlp, console, none: got 'statsd'"),
        ("OTEL_TRACES_EXPORTER", "jaeger", "must be one of otlp, console, none: got 'jaeger'"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "needs to be larger than zero"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "max_queue_size must be a positive integer"),
        ("POOLSCOPE_SPANS", "some", "POOLSCOPE_SPANS, or mode, must be one of"),
        ("POOLSCOPE_SLOW_THRESHOLD", "soon", "must be a number of seconds of at least 0"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_set_up(
    variable: str, value: str, message: str
) -> None:
    text = """
import threading
from opentelemetry import metrics, trace
from poolscope.telemetry.setup import setup_telemetry
try:
    setup_telemetry()
except ValueError as error:
    print(error)
print(type(metrics.get_meter_provider()).__name__, type(trace.get_tracer_provider()).__name__)
for thread in threading.enumerate()[1:]:
    thread.join(1)
    assert not thread.is_alive(), thread
"""
    refusal, providers = run_well(text, **{variable: value}).rsplit("\n", 2)[:2]
    assert message in refusal
    assert providers == "_ProxyMeterProvider ProxyTracerProvider"
