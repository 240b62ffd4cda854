import asyncio
import contextvars
import os
import subprocess
import sys
import threading
import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from poolscope import ConnectFailedError, PoolTimeoutError, bus
from poolscope.events import AcquireSource, ConnectionAcquired, ConnectionRequested
from poolscope.telemetry import otel_spans
from poolscope.telemetry.otel_spans import PoolTracer, trace_pools
from tests.support import run
from tests.telemetry.traffic import Clock, expect, hold, make_pool, waiter


def facts(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def acquires(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return [s for s in exporter.get_finished_spans() if s.name == "pool.acquire"]


def duration(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def test_an_acquire_is_a_child_of_the_callers_span(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            with provider.get_tracer("app").start_as_current_span("request"):
                await hold(pool, clock, 1.0)
                await hold(pool, clock, 1.0)

    run(main())
    new, idle = acquires(exporter)
    (parent,) = [s for s in exporter.get_finished_spans() if s.name == "request"]
    for span in (new, idle):
        assert span.parent == parent.context
        assert span.kind is SpanKind.INTERNAL
        assert span.status.status_code is StatusCode.UNSET
    assert facts(new) == {
        "db.client.connection.pool.name": "orders",
        "poolscope.acquire.source": "new",
        "poolscope.connection.id": facts(idle)["poolscope.connection.id"],
    }
    assert facts(idle)["poolscope.acquire.source"] == "idle"
    assert duration(new) == pytest.approx(0.02)
    assert duration(idle) == 0
    # Though the clock of this pool is set to another time.
    assert parent.start_time is not None
    assert new.start_time is not None
    assert parent.start_time <= new.start_time <= time.time_ns()


def test_a_span_lasts_as_long_as_the_wait_and_belongs_to_the_one_who_waited(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        clock = Clock()
        app = provider.get_tracer("app")
        async with make_pool("orders", clock) as pool:
            async with pool.connection():
                with app.start_as_current_span("one"):
                    one = await waiter(pool, clock)
                clock.now += 0.5
                with app.start_as_current_span("two"):
                    two = await waiter(pool, clock)
                clock.now += 0.25
            await asyncio.wait({one, two})

    run(main())
    parents = {s.context.span_id: s.name for s in exporter.get_finished_spans() if s.context}
    found = {parents[s.parent.span_id]: s for s in acquires(exporter) if s.parent}
    assert duration(found["one"]) == pytest.approx(0.75)
    # And the second that the first one held the connection.
    assert duration(found["two"]) == pytest.approx(1.25)
    assert {facts(span)["poolscope.acquire.source"] for span in found.values()} == {"handoff"}


def test_a_span_has_the_true_times_even_if_heard_of_late(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    before = time.time_ns()
    with provider.get_tracer("app").start_as_current_span("request"):
        bus.ROOT.publish(ConnectionRequested, "orders", time.monotonic() - 0.5, 1)
        acquired = (2, 1, 0.25, AcquireSource.NEW, "orders-1")
        bus.ROOT.publish(ConnectionAcquired, "orders", 0.0, *acquired)
    after = time.time_ns()
    (span,) = acquires(exporter)
    assert span.start_time is not None
    assert before - 0.5e9 <= span.start_time <= after - 0.5e9 + 1e6
    assert duration(span) == 0.25


@pytest.mark.parametrize(
    ("error", "reason"), [(PoolTimeoutError, "timeout"), (ConnectFailedError, "connect_failed")]
)
def test_a_failed_acquire_is_an_error_with_its_type_and_no_text(
    error: type[Exception],
    reason: str,
    tracer: PoolTracer,
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
) -> None:
    secret = ConnectionRefusedError("postgresql://user:hunter2@db/orders")

    async def main() -> None:
        async with make_pool("orders", Clock(), error=secret) as pool:
            with provider.get_tracer("app").start_as_current_span("request"):
                await expect(error, pool)

    run(main())
    (span,) = acquires(exporter)
    assert facts(span) == {
        "db.client.connection.pool.name": "orders",
        "error.type": reason,
    }
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert span.events == ()
    assert "hunter2" not in span.to_json()


def test_a_cancelled_acquire_ends_its_span(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool, pool.connection():
            with provider.get_tracer("app").start_as_current_span("request"):
                task = await waiter(pool, clock)
            clock.now += 0.5
            task.cancel()
            await asyncio.wait({task})

    run(main())
    (span,) = acquires(exporter)
    assert facts(span)["error.type"] == "cancelled"
    assert duration(span) == 0.5


def test_closing_the_pool_ends_the_spans_of_those_who_wait(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        clock = Clock()
        pool = make_pool("orders", clock)
        async with pool.connection():
            with provider.get_tracer("app").start_as_current_span("request"):
                task = await waiter(pool, clock)
            await pool.close(timeout=0)
            await asyncio.wait({task})
        assert task.exception() is not None

    run(main())
    (span,) = acquires(exporter)
    assert facts(span)["error.type"] == "closed"


def spans_under(
    parent: trace.Span, tracer: PoolTracer, exporter: InMemorySpanExporter
) -> list[ReadableSpan]:
    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            with trace.use_span(parent):
                await hold(pool, clock, 1.0)
                assert tracer.pending == 0

    run(main())
    return acquires(exporter)


def test_without_a_parent_nothing_is_traced(
    tracer: PoolTracer, exporter: InMemorySpanExporter
) -> None:
    assert spans_under(trace.INVALID_SPAN, tracer, exporter) == []


def test_under_an_unsampled_parent_nothing_is_traced(
    tracer: PoolTracer, exporter: InMemorySpanExporter
) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    parent = provider.get_tracer("app").start_span("request")
    assert spans_under(parent, tracer, exporter) == []


def test_under_a_remote_parent_that_does_not_record_nothing_is_traced(
    tracer: PoolTracer, exporter: InMemorySpanExporter
) -> None:
    remote = SpanContext(1, 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    assert spans_under(NonRecordingSpan(remote), tracer, exporter) == []


def test_a_span_that_the_sampler_drops_is_not_kept(exporter: InMemorySpanExporter) -> None:
    class DropAcquires(Sampler):
        def should_sample(self, parent_context, trace_id, name, *_, **__):  # type: ignore
            drop = name == "pool.acquire"
            return SamplingResult(Decision.DROP if drop else Decision.RECORD_AND_SAMPLE)

        def get_description(self) -> str:
            return "drop acquires"

    provider = TracerProvider(sampler=DropAcquires(), shutdown_on_exit=False)
    tracer = trace_pools(provider)

    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            with provider.get_tracer("app").start_as_current_span("request"):
                async with pool.connection():
                    task = await waiter(pool, clock)
                    assert tracer.pending == 0
                await task

    run(main())
    tracer.close()


def test_the_sampler_sees_the_pool_name() -> None:
    seen: list[object] = []

    class Look(Sampler):
        def should_sample(self, parent_context, trace_id, name, kind, attributes, *_, **__):  # type: ignore
            seen.append((name, dict(attributes or {})))
            return SamplingResult(Decision.RECORD_AND_SAMPLE)

        def get_description(self) -> str:
            return "look"

    provider = TracerProvider(sampler=Look(), shutdown_on_exit=False)
    tracer = trace_pools(provider)

    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            with provider.get_tracer("app").start_as_current_span("request"):
                await hold(pool, clock, 1.0)

    run(main())
    tracer.close()
    assert seen[1] == ("pool.acquire", {"db.client.connection.pool.name": "orders"})


def test_when_all_requests_have_ended_nothing_is_kept(
    tracer: PoolTracer, provider: TracerProvider
) -> None:
    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            with provider.get_tracer("app").start_as_current_span("request"):
                async with pool.connection():
                    tasks = {await waiter(pool, clock) for _ in range(20)}
                    assert tracer.pending == 20
                    for task in list(tasks)[:10]:
                        task.cancel()
                await asyncio.wait(tasks)
            assert tracer.pending == 0

    run(main())


def test_requests_that_never_end_are_forgotten_oldest_first(
    tracer: PoolTracer,
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otel_spans, "MOST_OPEN", 2)

    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            with provider.get_tracer("app").start_as_current_span("request"):
                async with pool.connection():
                    tasks = [await waiter(pool, clock) for _ in range(5)]
                    assert tracer.pending == 2
                for task in tasks:
                    await task

    run(main())
    assert tracer.forgotten == 3
    # The lease of this test, and the last two who waited.
    assert [duration(span) for span in acquires(exporter)] == pytest.approx([0.02, 3.0, 4.0])


def test_a_closed_tracer_traces_nothing_and_listens_to_nothing(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    hooks = dict(bus.ROOT.hooks)
    tracer = trace_pools(provider)
    assert bus.ROOT.hooks != hooks

    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            with provider.get_tracer("app").start_as_current_span("request"):
                async with pool.connection():
                    task = await waiter(pool, clock)
                    tracer.close()
                    assert tracer.pending == 0
                await task
                await hold(pool, clock, 1.0)

    run(main())
    assert bus.ROOT.hooks == hooks
    assert len(acquires(exporter)) == 1


def test_tracing_twice_gives_one_span(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    assert trace_pools(provider) is tracer
    with provider.get_tracer("app").start_as_current_span("request") as parent:
        assert len(spans_under(parent, tracer, exporter)) == 1


def test_a_thread_that_carries_the_context_on_is_traced(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool:
            await hold(pool, clock, 1.0)

    with provider.get_tracer("app").start_as_current_span("request") as parent:
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(run, main()))
        thread.start()
        thread.join()
    (span,) = acquires(exporter)
    assert span.parent == parent.get_span_context()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_open_spans_to_its_parent() -> None:
    program = """
import os, time
from opentelemetry.sdk.trace import TracerProvider
from poolscope.bus import ROOT
from poolscope.events import ConnectionRequested
from poolscope.telemetry.otel_spans import trace_pools
provider = TracerProvider()
tracer = trace_pools(provider)
with provider.get_tracer("app").start_as_current_span("request"):
    ROOT.publish(ConnectionRequested, "orders", time.monotonic(), 1)
assert tracer.pending == 1
if (child := os.fork()) == 0:
    os._exit(tracer.pending)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert tracer.pending == 1
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
