"""Spans, and the exemplars that lead to them, as they arrive through a real Collector."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from opentelemetry.trace import Tracer

from poolscope.testing import run_virtual
from tests.stack.collector import Collector
from tests.stack.exposition import exposition, read
from tests.stack.sending import (
    JOB,
    PROTOCOLS,
    Flush,
    metrics_to,
    pools_recorded,
    pools_sent,
    pools_traced,
    spans_to,
)
from tests.stack.traced import SPANS, traffic

pytestmark = pytest.mark.servers

Span = dict[str, Any]

INTERNAL, CLIENT = 1, 3
ORDERS = {
    "db.client.connection.pool.name": "orders",
    "db.system.name": "postgresql",
    "server.address": "db.internal",
    "server.port": 5433,
    "db.namespace": "shop",
}
USERS = {"db.client.connection.pool.name": "users"}
ONE = {"poolscope.connection.id": "orders#1"}
TWO = {"poolscope.connection.id": "users#2"}


def acquire(seconds: float, error: str | None = None, **own: str | int) -> Span:
    return told(INTERNAL, seconds, error, {f"poolscope.acquire.{k}": v for k, v in own.items()})


def connect(seconds: float, attempt: int, error: str | None = None) -> Span:
    return told(CLIENT, seconds, error, {"poolscope.connect.attempt": attempt})


def told(kind: int, seconds: float, error: str | None, about: dict[str, str | int]) -> Span:
    attributes = about | ({} if error is None else {"error.type": error})
    status = {} if error is None else {"code": 2}
    return {"kind": kind, "seconds": seconds, "status": status, "attributes": attributes}


EXPECTED = {
    ("first", "pool.connect"): connect(0.02, 1),
    ("first", "pool.acquire"): acquire(0.02, source="new", attempts=1),
    ("first", "pool.use"): told(INTERNAL, 0.3, None, {}),
    ("second", "pool.acquire"): acquire(0.22, source="handoff"),
    ("second", "pool.use"): told(INTERNAL, 0.2, None, {}),
    ("hasty", "pool.acquire"): acquire(0.05, "timeout"),
    ("lucky", "pool.acquire"): acquire(0.0, source="idle"),
    ("lucky", "pool.use"): told(INTERNAL, 1.5, None, {}),
    ("unlucky", "pool.connect"): connect(0.0, 1, "refused"),
    ("unlucky", "pool.acquire"): acquire(0.0, "connect_failed", attempts=1),
    ("fickle", "pool.connect"): connect(0.2, 2),
    ("fickle", "pool.acquire"): acquire(0.15, "cancelled", attempts=1),
    ("heir", "pool.acquire"): acquire(0.1, source="new"),
    ("heir", "pool.use"): told(INTERNAL, 0.0, None, {}),
}
"""By the caller and the name of the span. Attributes besides those of the pool and connection."""

LINKS = {
    ("second", "pool.acquire"): ("first", "pool.use", "holder"),
    ("hasty", "pool.acquire"): ("first", "pool.use", "holder"),
    ("heir", "pool.acquire"): ("fickle", "pool.connect", "connect"),
}
"""To whom a request was linked, and why."""


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_spans_arrive_with_kind_status_attributes_and_time(
    collector: Collector, protocol: str
) -> None:
    with pools_traced(spans_to(collector, protocol)) as provider:
        run_virtual(ended(traffic(provider.get_tracer("app"))))
    spans = by_caller(collector)
    arrived = {key: fact(span) for key, span in spans.items() if key[0] != key[1]}
    assert arrived == {key: of_pool(key, span) for key, span in EXPECTED.items()}
    assert {span["resource"]["service.name"] for span in spans.values()} == {JOB}
    assert "hunter2" not in str(spans)


def test_spans_arrive_as_children_of_their_callers_and_linked_to_whom_they_waited_for(
    collector: Collector,
) -> None:
    with pools_traced(spans_to(collector)) as provider:
        run_virtual(ended(traffic(provider.get_tracer("app"))))
    spans = by_caller(collector)
    for (caller, name), span in spans.items():
        if caller != name:
            assert span["parentSpanId"] == spans[caller, caller]["spanId"]
            assert span["scope"] == "poolscope"
    assert {key: links(span) for key, span in spans.items() if "links" in span} == {
        key: [link(spans[holder, name], why)] for key, (holder, name, why) in LINKS.items()
    }


@pytest.mark.parametrize("road", [pools_sent, pools_recorded])
def test_exemplars_that_arrive_lead_to_the_same_spans_as_ours(
    collector: Collector, road: Callable[..., AbstractContextManager[Flush]]
) -> None:
    async def main(tracer: Tracer) -> tuple[str, str]:
        async with traffic(tracer):
            flush()
            return exposition(openmetrics=True), collector.scrape(openmetrics=True)

    with pools_traced(spans_to(collector)) as provider, road(metrics_to(collector)) as flush:
        shown, arrived = map(read, run_virtual(main(provider.get_tracer("app"))))
    exemplars = {name: family.exemplars for name, family in shown.items() if family.exemplars}
    assert exemplars.keys() == SPANS.keys()
    spans = {(span["traceId"], span["spanId"]): span for span in collector.traces()}
    for name, by_series in exemplars.items():
        assert arrived[name].exemplars == by_series
        for (_, labels), exemplar in by_series.items():
            span = spans[exemplar.trace_id, exemplar.span_id]
            assert span["name"] == SPANS[name]
            assert span["attributes"].get("error.type") == dict(labels).get("error_type")
            assert fact(span)["seconds"] == exemplar.value


async def ended(scene: Any) -> None:
    async with scene:
        pass


def by_caller(collector: Collector) -> dict[tuple[str, str], Span]:
    """Return all spans that arrived, by the name of the root of their trace and their own."""
    spans = collector.traces()
    roots = {span["traceId"]: span["name"] for span in spans if not span.get("parentSpanId")}
    found = {(roots[span["traceId"]], span["name"]): span for span in spans}
    assert len(found) == len(spans)
    return found


def fact(span: Span) -> Span:
    nanoseconds = int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])
    kept = {key: span[key] for key in ("kind", "status", "attributes")}
    return kept | {"seconds": pytest.approx(nanoseconds / 1e9, abs=1e-8)}


def of_pool(key: tuple[str, str], span: Span) -> Span:
    """Add what spans of one pool, and of one connection, have in common."""
    caller, name = key
    of_users = caller in ("unlucky", "fickle", "heir")
    attributes = (USERS if of_users else ORDERS) | span["attributes"]
    if key == ("unlucky", "pool.connect"):
        attributes |= {"poolscope.connection.id": "users#1"}
    elif name != "pool.acquire" or not span["status"]:
        attributes |= TWO if of_users else ONE
    return span | {"attributes": attributes}


def links(span: Span) -> list[Span]:
    return [
        {key: each[key] for key in ("traceId", "spanId", "attributes")} for each in span["links"]
    ]


def link(to: Span, why: str) -> Span:
    connection = {"poolscope.connection.id": to["attributes"]["poolscope.connection.id"]}
    attributes = {"poolscope.link": why} | connection
    return {"traceId": to["traceId"], "spanId": to["spanId"], "attributes": attributes}
