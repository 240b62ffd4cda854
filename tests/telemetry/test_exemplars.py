"""What leads from a number to a span: exemplars of histograms, and `span_context`."""

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanContext

from poolscope import bus
from poolscope.events import (
    AcquireTimedOut,
    ConnectFailed,
    ConnectionAcquired,
    ConnectionOpened,
    ConnectionReleased,
    ConnectStarted,
    Event,
    LeakSuspected,
    PoolClosed,
)
from poolscope.histogram import Exemplar, Histogram
from poolscope.reasons import ConnectFault, FailureReason
from poolscope.telemetry.otel_spans import PoolTracer, span_context, trace_pools
from poolscope.testing import Ledger, run_virtual
from poolscope.testing.ledger import fail, slow
from tests.behaviour.bench import Bench, bench
from tests.telemetry.spans import (
    cancelled,
    fails,
    id_of,
    named,
    only,
    queue,
    times,
    under,
    under_which,
)


def exemplars(histogram: Histogram | None) -> list[Exemplar]:
    return [each for each in (histogram and histogram.exemplars) or () if each is not None]


def all_exemplars(b: Bench) -> list[Exemplar]:
    metrics = b.pool.get_metrics()
    failed = (*metrics.failed_wait.values(), *metrics.failed_create.values())
    return [
        each
        for histogram in (metrics.wait, metrics.use, metrics.create, *failed)
        for each in exemplars(histogram)
    ]


def leads_to(span: ReadableSpan, value: float) -> Exemplar:
    return Exemplar(value, times(span)[1], span.context.trace_id, span.context.span_id)


async def have_all_kinds(b: Bench) -> None:
    """A connect, a wait and a use of 0.125 s, and a failure of each."""
    b.ledger.script("open", [fail(), slow(0.125)])
    await fails(b.pool.acquire())
    await asyncio.sleep(60.0)  # until it may be tried again at once
    await b.hold(0.125)
    async with b.pool.connection():
        await fails(b.pool.acquire(timeout=0.5))


async def traffic(*parents: trace.Span) -> Bench:
    async with bench(max_size=1, retry_limit=0) as b:
        for parent in parents:
            with trace.use_span(parent):
                await have_all_kinds(b)
            await b.pool.drain()
    return b


def test_each_value_leads_to_the_very_span_it_is_the_length_of(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    with under(provider) as parent:
        metrics = run_virtual(traffic(parent)).pool.get_metrics()
    refused, opened = named(exporter, "pool.connect")
    unconnected, new, idle, late = sorted(
        named(exporter, "pool.acquire"), key=lambda span: times(span)[1]
    )
    use, _ = named(exporter, "pool.use")
    assert exemplars(metrics.create) == [leads_to(opened, 0.125)]
    assert exemplars(metrics.wait) == [leads_to(idle, 0.0), leads_to(new, 0.125)]
    assert exemplars(metrics.use)[0] == leads_to(use, 0.125)
    assert metrics.failed_wait.keys() == {FailureReason.CONNECT_FAILED, FailureReason.TIMEOUT}
    assert exemplars(metrics.failed_create[ConnectFault.REFUSED]) == [leads_to(refused, 0.0)]
    assert exemplars(metrics.failed_wait[FailureReason.CONNECT_FAILED]) == [
        leads_to(unconnected, 0.0)
    ]
    assert exemplars(metrics.failed_wait[FailureReason.TIMEOUT]) == [leads_to(late, 0.5)]


def test_the_latest_traced_value_of_a_bucket_stays(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> Bench:
        async with bench(min_size=1) as b:
            for name in ("earlier", "latest"):
                with under(provider, name):
                    await b.hold(1.0)
            await b.hold(1.0)
        return b

    metrics = run_virtual(main()).pool.get_metrics()
    latest = under_which(exporter, "pool.use")["latest"]
    assert exemplars(metrics.use) == [leads_to(latest, 1.0)]
    assert metrics.use.count == 3


class RecordOnly(Sampler):
    def should_sample(self, parent_context, trace_id, name, *_, **__):  # type: ignore
        return SamplingResult(Decision.RECORD_ONLY)

    def get_description(self) -> str:
        return "record, and do not sample"


@pytest.mark.parametrize("why", ["no parent", "not sampled", "recorded only", "off"])
def test_what_has_no_sampled_span_is_no_exemplar(why: str, provider: TracerProvider) -> None:
    others = {"not sampled": ALWAYS_OFF, "recorded only": RecordOnly()}
    if why in others:
        provider = TracerProvider(sampler=others[why], shutdown_on_exit=False)
    tracer = trace_pools(provider, mode="off" if why == "off" else "all")
    parent = provider.get_tracer("app").start_span("request")
    b = run_virtual(traffic(trace.INVALID_SPAN if why == "no parent" else parent))
    tracer.close()
    assert all_exemplars(b) == []
    assert b.pool.get_metrics().connection_requests == 4


def test_in_slow_mode_only_what_is_slow_or_failed_is_an_exemplar(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    tracer = trace_pools(provider, mode="slow", threshold=0.125)
    with under(provider) as parent:
        b = run_virtual(traffic(parent))
    tracer.close()
    metrics = b.pool.get_metrics()
    values = [
        [each.value for each in exemplars(h)] for h in (metrics.wait, metrics.use, metrics.create)
    ]
    assert values == [[0.125], [0.125, 0.5], [0.125]]
    assert len(all_exemplars(b)) == 4 + 3
    known = {id_of(span) for span in exporter.get_finished_spans()}
    assert {each.span_id for each in all_exemplars(b)} <= known


# span_context: for who hears of an event after the tracer


class Listener:
    """Asks, on each event, what leads to its span."""

    def __init__(self) -> None:
        self.found: list[tuple[type[Event], SpanContext | None]] = []

    def __call__(self, event: Event) -> None:
        about = getattr(event, "request_id", None) or event.connection_id  # type: ignore[attr-defined]
        if isinstance(event, ConnectStarted):
            about = event.connection_id
        self.found.append((type(event), span_context(event.pool, about)))

    def ids(self) -> list[tuple[type[Event], int | None]]:
        return [(kind, found and found.span_id) for kind, found in self.found]


KINDS = (
    ConnectStarted,
    ConnectionOpened,
    ConnectFailed,
    ConnectionAcquired,
    AcquireTimedOut,
    LeakSuspected,
    ConnectionReleased,
)


@pytest.mark.parametrize("when", ["before", "after"])
def test_while_an_event_is_told_its_span_can_be_had(
    when: str, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    listener = Listener()
    if when == "before":
        subscription = bus.ROOT.tap({kind: _building(kind, listener) for kind in KINDS})
    tracer = trace_pools(provider)
    if when == "after":
        subscription = bus.ROOT.tap({kind: _building(kind, listener) for kind in KINDS})

    async def main() -> None:
        ledger = Ledger()
        ledger.script("open", [fail()])
        async with bench(ledger=ledger, max_size=1, retry_limit=3, leak_threshold=5.0) as b:
            with under(provider):
                async with b.pool.connection():
                    await asyncio.sleep(9.0)
                    await fails(b.pool.acquire(timeout=1.0))

    run_virtual(main())
    subscription.unsubscribe()
    tracer.close()
    failed, opened = map(id_of, named(exporter, "pool.connect"))
    acquired, late = map(id_of, named(exporter, "pool.acquire"))
    used = id_of(only(exporter, "pool.use"))
    assert listener.ids() == [
        (ConnectStarted, failed),
        (ConnectFailed, failed),
        (ConnectStarted, opened),
        (ConnectionOpened, opened),
        (ConnectionAcquired, acquired),
        (LeakSuspected, used),
        (AcquireTimedOut, late),
        (ConnectionReleased, used),
    ]


def _building(kind: type[Event], listener: Listener):  # type: ignore[no-untyped-def]
    return lambda *fields: listener(kind(*fields))


def test_of_what_is_under_way_the_open_span_can_be_had(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    found: dict[str, SpanContext | None] = {}

    async def main() -> None:
        ledger = Ledger()
        ledger.script("open", [None, slow(1.0)])
        async with bench(ledger=ledger, name="orders", max_size=2) as b:
            with under(provider, "holder"):
                holder = await b.holder(5.0)
                request = b.last(ConnectionAcquired).request_id
            with under(provider, "other"):
                other = await queue(b)
            found["pool.connect"] = span_context("orders", "orders#2")
            await other
            found["pool.use"] = span_context("orders", request)
            assert span_context("orders", "orders#2") is None
            assert span_context("others", request) is None
            assert span_context("orders", 99) is None
            await holder
            await b.hold(0)
            with under(provider, "last"):
                await b.hold(0)
            assert span_context("orders", request) is None
            last = b.last(ConnectionReleased).request_id
        with bus.ROOT.subscribe(lambda _: None, PoolClosed):
            assert span_context("orders", last) is None

    run_virtual(main())
    assert found["pool.connect"] == under_which(exporter, "pool.connect")["other"].context
    assert found["pool.use"] == under_which(exporter, "pool.use")["holder"].context


def test_without_a_trace_there_is_no_span_to_be_had(
    tracer: PoolTracer, provider: TracerProvider
) -> None:
    listener = Listener()

    async def main() -> None:
        async with bench(max_size=1) as b:
            with b.pool.bus.subscribe(listener, *KINDS):
                await b.hold(0)
                with under(provider):
                    pass
                async with b.pool.connection():
                    await cancelled(await queue(b))

    run_virtual(main())
    assert {found for _, found in listener.found} == {None}
    assert len(listener.found) == 6


def test_in_slow_mode_a_lease_leads_to_the_span_its_holder_is_under(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    tracer = trace_pools(provider, mode="slow", threshold=60.0)
    listener = Listener()
    subscription = bus.ROOT.subscribe(listener, LeakSuspected)

    async def main() -> None:
        async with bench(leak_threshold=5.0) as b:
            with under(provider):
                await b.hold(9.0)

    run_virtual(main())
    subscription.unsubscribe()
    tracer.close()
    assert listener.ids() == [(LeakSuspected, id_of(only(exporter, "request")))]
