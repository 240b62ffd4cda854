import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter

from tests.stack.collector import Collector
from tests.stack.prometheus import Prometheus
from tests.stack.server import ServerError, answers

pytestmark = pytest.mark.servers

RESOURCE = Resource({"service.name": "shop", "service.instance.id": "one"})

Send = Callable[[Collector], str]


def send(metrics: MetricExporter, spans: SpanExporter) -> str:
    """Send a span, and a histogram recorded in it; return the id of the trace."""
    tracers = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    reader = PeriodicExportingMetricReader(metrics, export_interval_millis=60_000)
    meters = MeterProvider([reader], RESOURCE, shutdown_on_exit=False)
    histogram = meters.get_meter("till").create_histogram(
        "wait.time", unit="s", explicit_bucket_boundaries_advisory=[0.1, 1.0]
    )
    with tracers.get_tracer("till").start_as_current_span("pay", attributes={"items": 3}) as span:
        histogram.record(0.25, {"pool.name": "orders"})
    meters.shutdown()
    tracers.shutdown()
    return f"{span.get_span_context().trace_id:032x}"


def send_by_grpc(collector: Collector) -> str:
    return send(
        GrpcMetrics(collector.grpc_endpoint, insecure=True),
        GrpcSpans(collector.grpc_endpoint, insecure=True),
    )


def send_by_http(collector: Collector) -> str:
    return send(
        HttpMetrics(f"{collector.http_endpoint}/v1/metrics"),
        HttpSpans(f"{collector.http_endpoint}/v1/traces"),
    )


@pytest.mark.parametrize("send", [send_by_grpc, send_by_http])
def test_the_collector_shows_a_span_at_once(collector: Collector, send: Send) -> None:
    assert collector.traces() == []
    trace = send(collector)
    (span,) = collector.traces()
    assert (span["name"], span["traceId"]) == ("pay", trace)
    assert (span["resource"]["service.name"], span["scope"]) == ("shop", "till")
    assert span["attributes"] == {"items": 3}


@pytest.mark.parametrize("send", [send_by_grpc, send_by_http])
def test_the_collector_shows_a_metric_at_once(collector: Collector, send: Send) -> None:
    assert collector.metrics() == []
    trace = send(collector)
    (metric,) = collector.metrics()
    (point,) = metric["histogram"]["dataPoints"]
    assert (metric["name"], metric["scope"]) == ("wait.time", "till")
    assert (point["attributes"], point["sum"]) == ({"pool.name": "orders"}, 0.25)
    assert [exemplar["traceId"] for exemplar in point["exemplars"]] == [trace]


def test_the_collector_serves_what_prometheus_scrapes(collector: Collector) -> None:
    trace = send_by_http(collector)
    plain, openmetrics = collector.scrape(), collector.scrape(openmetrics=True)
    assert 'pool_name="orders",le="1"} 1\n' in plain
    assert 'pool_name="orders",le="1.0"} 1 # {' in openmetrics
    assert trace in openmetrics
    assert trace not in plain


def test_the_collector_comes_back_on_its_ports_with_what_it_had(collector: Collector) -> None:
    first = send_by_grpc(collector)
    collector.stop()
    collector.stop()
    assert not collector.is_running
    assert not answers(collector.prometheus_url)
    collector.start()
    collector.start()
    second = send_by_http(collector)
    assert [span["traceId"] for span in collector.traces()] == [first, second]


def test_a_killed_collector_comes_back_too(collector: Collector) -> None:
    trace = send_by_http(collector)
    collector.send_signal(signal.SIGKILL)
    collector.stop()
    collector.start()
    assert [span["traceId"] for span in collector.traces()] == [trace]


def test_prometheus_scrapes_the_collector(collector: Collector, prometheus_binary: Path) -> None:
    trace = send_by_http(collector)
    with Prometheus(prometheus_binary, [collector.prometheus_url], honor_labels=True) as prometheus:
        (count,) = prometheus.wait_until(lambda: prometheus.query("wait_time_seconds_count"))
        (series,) = prometheus.wait_until(lambda: prometheus.exemplars("wait_time_seconds_bucket"))
    assert (count["metric"]["job"], count["metric"]["instance"]) == ("shop", "one")
    assert (count["metric"]["pool_name"], count["value"][1]) == ("orders", "1")
    assert series["seriesLabels"]["le"] == "1.0"
    assert [exemplar["labels"]["trace_id"] for exemplar in series["exemplars"]] == [trace]


def test_prometheus_takes_otlp(collector: Collector, prometheus_binary: Path) -> None:
    with Prometheus(prometheus_binary) as prometheus:
        send(
            HttpMetrics(prometheus.otlp_metrics_endpoint),
            HttpSpans(f"{collector.http_endpoint}/v1/traces"),
        )
        (count,) = prometheus.query("wait_time_seconds_count")
    assert (count["metric"]["job"], count["value"][1]) == ("shop", "1")


def test_a_server_that_does_not_start_says_why_and_leaves_nothing(collector_binary: Path) -> None:
    collector = Collector(collector_binary)
    collector.config["exporters"]["carrier_pigeon"] = {}
    with pytest.raises(ServerError, match="carrier_pigeon"):
        collector.__enter__()
    assert not collector.is_running
    assert not collector.directory.exists()


def test_waiting_in_vain_says_for_what(collector: Collector) -> None:
    with pytest.raises(ServerError, match=r"0 s; the last answer was \[\]"):
        collector.wait_until(collector.traces, timeout=0)
