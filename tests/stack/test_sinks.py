"""What the stack has of its own to receive alerts and spans."""

import json
import urllib.error
import urllib.request

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter

from stack.server import get
from stack.traces import Traces
from stack.webhook import Told, Webhook

FULL = {
    "labels": {"alertname": "PoolExhausted", "severity": "critical"},
    "annotations": {
        "summary": "Pool orders is exhausted",
        "description": "All are in use.",
        "runbook_url": "https://poolscope.example/docs/runbook.md#poolexhausted",
    },
}


def test_alerts_are_said_in_words() -> None:
    heard: list[str] = []

    def say(told: Told) -> None:
        heard.append(str(told))

    with Webhook(say) as webhook:
        assert get(f"http://{webhook.address}/") == "ready\n"
        tell(webhook, "pager", FULL | {"status": "firing"})
        tell(webhook, "pager", FULL | {"status": "resolved"})
        tell(webhook, "heartbeat", FULL | {"status": "firing"})
    assert heard == [
        "pager: CRITICAL PoolExhausted: Pool orders is exhausted. All are in use. "
        "(runbook.md#poolexhausted)",
        "pager: resolved PoolExhausted: Pool orders is exhausted",
    ]
    assert [told.receiver for told in webhook.told] == ["pager", "pager", "heartbeat"]


def tell(webhook: Webhook, receiver: str, alert: object) -> None:
    body = json.dumps({"alerts": [alert]}).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(f"http://{webhook.address}/{receiver}", body).close()


def by_grpc(traces: Traces) -> SpanExporter:
    return GrpcSpans(traces.endpoint, insecure=True)


def by_http(traces: Traces) -> SpanExporter:
    return HttpSpans(f"http://{traces.address}/v1/traces")


@pytest.mark.parametrize("road", [by_grpc, by_http])
def test_spans_are_found_by_their_trace(road: object) -> None:
    assert callable(road)
    with Traces() as traces:
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(road(traces)))
        with provider.get_tracer("till").start_as_current_span("pay") as span:
            trace = f"{span.get_span_context().trace_id:032x}"
        provider.shutdown()
        assert traces.spans(trace) == ["pay"]
        assert json.loads(get(f"http://{traces.address}/api/traces/{trace}")) == ["pay"]
        with pytest.raises(urllib.error.HTTPError, match="404") as missing:
            get(f"http://{traces.address}/api/traces/{'0' * 32}")
        missing.value.close()
