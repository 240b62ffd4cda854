"""pool.acquire and pool.use: whose they are, what they say, when they were."""

import asyncio
import contextvars
import gc
import threading
import time
from collections.abc import Awaitable, Callable

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import SpanKind

from poolscope import PoolTimeoutError, bus
from poolscope.events import AcquireSource, ConnectionAcquired, ConnectionReleased
from poolscope.telemetry.otel_spans import PoolTracer, trace_pools
from poolscope.testing import Ledger, run_virtual
from poolscope.testing.ledger import answer, fail
from tests.behaviour.bench import Bench, bench
from tests.support import run
from tests.telemetry.spans import (
    ATTEMPTS,
    CONNECTION,
    ERROR,
    POOL,
    REMOTE_SAMPLED,
    REMOTE_UNSAMPLED,
    SECRET,
    SOURCE,
    URL,
    cancelled,
    duration,
    ended,
    error,
    facts,
    fails,
    named,
    of_pools,
    only,
    queue,
    times,
    under,
    under_which,
    untraced,
)
from tests.telemetry.traffic import make_pool, until

TARGET = {
    "db.system.name": "postgresql",
    "server.address": "db.internal",
    "server.port": 6432,
    "db.namespace": "shop",
}


# Whose they are, and what they say


def test_acquire_and_use_are_children_of_the_callers_span(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(min_size=1) as b:
            with under(provider):
                await b.hold(1.0)

    run_virtual(main())
    caller = only(exporter, "request")
    acquire, use = of_pools(exporter)
    assert [acquire.name, use.name] == ["pool.acquire", "pool.use"]
    for span in (acquire, use):
        assert span.parent == caller.context
        assert span.kind is SpanKind.INTERNAL
        assert span.instrumentation_scope is not None
        assert span.instrumentation_scope.name == "poolscope"
        assert error(span) is None


def test_spans_say_what_was_acquired_and_from_where(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=1, name="orders", target=URL) as b:
            with under(provider):
                new = await queue(b, 1.0)
                handoff = await queue(b)
                await ended(new, handoff)
                await b.hold(0)

    run_virtual(main())
    known = {POOL: "orders", CONNECTION: "orders#1", **TARGET}
    assert [facts(span) for span in named(exporter, "pool.acquire")] == [
        known | {SOURCE: "new", ATTEMPTS: 1},
        known | {SOURCE: "handoff"},
        known | {SOURCE: "idle"},
    ]
    assert [facts(span) for span in named(exporter, "pool.use")] == [known] * 3
    assert not any(SECRET in span.to_json() for span in of_pools(exporter))


def test_pools_of_one_name_after_the_other_do_not_take_over_each_others_target(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        with under(provider):
            for target in (None, URL, "redis://cache/3"):
                async with bench(name="orders", target=target) as b:
                    await b.hold(0)
                await fails(b.pool.acquire())

    run_virtual(main())
    systems = [facts(span).get("db.system.name") for span in named(exporter, "pool.use")]
    assert systems == [None, "postgresql", "redis"]


def test_the_sampler_sees_every_attribute() -> None:
    seen: dict[str, set[str]] = {}

    class Look(Sampler):
        def should_sample(self, parent_context, trace_id, name, kind, attributes, *_, **__):  # type: ignore
            seen[name] = set(attributes or {})
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)

        def get_description(self) -> str:
            return "look"

    provider = TracerProvider(sampler=Look(), shutdown_on_exit=False)
    tracer = trace_pools(provider)

    async def main() -> None:
        async with bench(target=URL) as b:
            with under(provider):
                await b.hold(0)

    run_virtual(main())
    tracer.close()
    known = {POOL, CONNECTION, *TARGET}
    assert seen["pool.acquire"] == known | {SOURCE, ATTEMPTS}
    assert seen["pool.use"] == known
    assert seen["pool.connect"] == known | {"poolscope.connect.attempt"}


# How they fail


async def time_out(b: Bench) -> None:
    async with b.pool.connection():
        await fails(b.pool.acquire(timeout=0.5))


async def find_the_line_full(b: Bench) -> None:
    async with b.pool.connection():
        waiting = await queue(b)
        await fails(b.pool.acquire())
    await waiting


async def ask_a_closed_pool(b: Bench) -> None:
    await b.pool.close()
    await fails(b.pool.acquire())


async def find_nobody_there(b: Bench) -> None:
    b.ledger.script("open", [fail(ConnectionRefusedError(URL))])
    await fails(b.pool.acquire())


async def find_only_bad_ones(b: Bench) -> None:
    b.ledger.script("validate", [answer(False)])
    await fails(b.pool.acquire())


async def give_up(b: Bench) -> None:
    async with b.pool.connection():
        await cancelled(await queue(b))


@pytest.mark.parametrize(
    ("reason", "fate"),
    [
        ("timeout", time_out),
        ("queue_full", find_the_line_full),
        ("closed", ask_a_closed_pool),
        ("connect_failed", find_nobody_there),
        ("validation_failed", find_only_bad_ones),
        ("cancelled", give_up),
    ],
)
def test_a_failed_acquire_is_an_error_with_its_reason_and_no_text(
    reason: str,
    fate: Callable[[Bench], Awaitable[None]],
    tracer: PoolTracer,
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
) -> None:
    async def main() -> None:
        ledger = Ledger()
        functions = {"validate_func": ledger.validate}
        settings = {"name": "orders", "max_size": 1, "max_waiting": 1, "retry_limit": 0}
        async with bench(ledger=ledger, functions=functions, **settings) as b:
            with under(provider):
                await fate(b)
            assert tracer.pending == 0

    run_virtual(main())
    failed = [span for span in named(exporter, "pool.acquire") if error(span)]
    assert [error(span) for span in failed] == [reason]
    assert facts(failed[0]).items() >= {POOL: "orders", ERROR: reason}.items()
    assert SOURCE not in facts(failed[0])


@pytest.mark.driver("asyncio")
def test_a_lease_ends_as_an_error_if_it_was_taken_back(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(name="orders") as b:
            with under(provider):
                lease = b.pool.connection()
                await lease.__aenter__()
                await asyncio.sleep(2.0)
                del lease
                await asyncio.sleep(0)
                assert tracer.pending == 0
                await b.pool.acquire()
                await b.pool.close(timeout=3.0)
            assert tracer.pending == 0

    run_virtual(main())
    lost, held = named(exporter, "pool.use")
    assert (error(lost), duration(lost)) == ("leak", 2.0)
    assert (error(held), duration(held)) == ("pool_closed", 3.0)


def test_what_the_caller_did_with_its_connection_is_no_error_of_the_lease(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench() as b:
            with under(provider):
                with pytest.raises(ConnectionResetError):
                    async with b.pool.connection():
                        raise ConnectionResetError(URL)
                connection = await b.pool.acquire()
                await asyncio.sleep(0.5)
                b.ledger.closed(await b.pool.detach(connection))

    run_virtual(main())
    broken, detached = named(exporter, "pool.use")
    assert [error(broken), error(detached)] == [None, None]
    assert duration(detached) == 0.5


# When they were


def test_spans_last_as_long_as_the_wait_and_the_lease(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=1) as b:
            holder = await b.holder(0.75)
            with under(provider, "one"):
                one = await queue(b, 0.5)
            await asyncio.sleep(0.25)
            with under(provider, "two"):
                two = await queue(b, 2.0)
            await asyncio.gather(holder, one, two)

    run_virtual(main())
    acquires = under_which(exporter, "pool.acquire")
    uses = under_which(exporter, "pool.use")
    assert {name: duration(span) for name, span in acquires.items()} == {"one": 0.75, "two": 1.0}
    assert {name: duration(span) for name, span in uses.items()} == {"one": 0.5, "two": 2.0}


def test_times_are_those_of_the_wall_clock(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with make_pool() as pool:

            async def hold() -> None:
                async with pool.connection():
                    await until(lambda: pool.stats().oldest_use > 0.0001)

            with under(provider):
                await asyncio.gather(*(hold() for _ in range(3)))
                await hold()

    run(main())
    now = time.time_ns()
    begin, end = times(only(exporter, "request"))
    uses = {times(span)[0]: times(span)[1] for span in named(exporter, "pool.use")}
    for span in named(exporter, "pool.acquire"):
        asked, acquired = times(span)
        assert begin <= asked <= acquired < uses.pop(acquired) <= end <= now
    assert not uses


def test_times_are_true_even_if_heard_of_late(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    with under(provider):
        before = time.time_ns()
        late = time.monotonic() - 0.5
        acquired = (late, 2, 1, 0.25, AcquireSource.NEW, "orders-1")
        bus.ROOT.publish(ConnectionAcquired, "orders", *acquired)
        bus.ROOT.publish(ConnectionReleased, "orders", late + 0.125, 3, 1, "orders-1", 0.125, 0.0)
        after = time.time_ns()
    acquire, use = of_pools(exporter)
    assert before - 5e8 <= times(acquire)[1] <= after - 5e8 + 1e3
    assert times(use)[0] == times(acquire)[1]
    assert (duration(acquire), duration(use)) == (0.25, 0.125)


# Only where there is a trace to belong to


def traffic_under(parent: trace.Span, tracer: PoolTracer) -> None:
    """Have connections opened, acquired, waited for, held and refused under a span."""

    async def main() -> None:
        async with bench(max_size=1) as b:
            with trace.use_span(parent):
                one, two = await queue(b), await queue(b)
                if not parent.is_recording() and parent is not REMOTE_SAMPLED:
                    assert tracer.pending == 0
                await asyncio.gather(one, two)
                async with b.pool.connection():
                    await fails(b.pool.acquire(timeout=0))

    run_virtual(main())
    assert tracer.pending == 0


@pytest.mark.parametrize("parent", [trace.INVALID_SPAN, REMOTE_UNSAMPLED], ids=["none", "remote"])
def test_without_a_sampled_parent_nothing_is_traced(
    parent: trace.Span, tracer: PoolTracer, exporter: InMemorySpanExporter
) -> None:
    traffic_under(parent, tracer)
    assert of_pools(exporter) == []


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, DEFAULT_OFF, ParentBased(TraceIdRatioBased(0))])
def test_under_a_span_that_does_not_record_nothing_is_traced(
    sampler: Sampler, tracer: PoolTracer, exporter: InMemorySpanExporter
) -> None:
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    traffic_under(provider.get_tracer("app").start_span("request"), tracer)
    assert of_pools(exporter) == []


def test_under_a_sampled_remote_parent_everything_is_traced(
    tracer: PoolTracer, exporter: InMemorySpanExporter
) -> None:
    traffic_under(REMOTE_SAMPLED, tracer)
    spans = of_pools(exporter)
    assert all(span.parent == REMOTE_SAMPLED.get_span_context() for span in spans)
    assert [len(named(exporter, f"pool.{kind}")) for kind in ("connect", "acquire", "use")] == [
        1,
        4,
        3,
    ]


def test_of_a_ratio_of_traces_each_is_whole_or_not_there(exporter: InMemorySpanExporter) -> None:
    sampler = ParentBased(TraceIdRatioBased(0.5))
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = trace_pools(provider)

    async def main() -> None:
        async with bench(max_size=1) as b:
            holder = await b.holder(1.0)
            waiting = []
            for _ in range(60):
                with provider.get_tracer("app").start_as_current_span("request"):
                    waiting.append(await queue(b, 0.1))
            await asyncio.gather(holder, *waiting)

    run_virtual(main())
    provider.shutdown()
    tracer.close()
    assert tracer.pending == 0
    requests = [span.context.span_id for span in named(exporter, "request")]
    assert 0 < len(requests) < 60
    for name in ("pool.acquire", "pool.use"):
        assert [span.parent and span.parent.span_id for span in named(exporter, name)] == requests


@pytest.mark.parametrize("dropped", ["pool.acquire", "pool.use", "pool.connect"])
def test_a_span_that_the_sampler_drops_leaves_nothing_behind(
    dropped: str, exporter: InMemorySpanExporter
) -> None:
    class Drop(Sampler):
        def should_sample(self, parent_context, trace_id, name, *_, **__):  # type: ignore
            drop = name == dropped
            return SamplingResult(Decision.DROP if drop else Decision.RECORD_AND_SAMPLE)

        def get_description(self) -> str:
            return "drop one kind"

    provider = TracerProvider(sampler=Drop(), shutdown_on_exit=False)
    tracer = trace_pools(provider)
    traffic_under(provider.get_tracer("app").start_span("request"), tracer)
    tracer.close()


# Suppressed


class Suppressed:
    """What an exporter does while it exports: nothing in here is to be traced."""

    def __enter__(self) -> None:
        key = otel_context._SUPPRESS_INSTRUMENTATION_KEY
        self._token = otel_context.attach(otel_context.set_value(key, True))

    def __exit__(self, *_: object) -> None:
        otel_context.detach(self._token)


def test_what_is_suppressed_is_not_traced(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    with under(provider) as parent, Suppressed():
        traffic_under(parent, tracer)
    assert of_pools(exporter) == []


def test_a_lease_acquired_while_suppressed_is_not_traced_to_its_end(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench() as b:
            with under(provider):
                with Suppressed():
                    connection = await b.pool.acquire()
                assert tracer.pending == 0
                await b.pool.release(connection)

    run_virtual(main())
    assert of_pools(exporter) == []


def test_a_lease_released_while_suppressed_ends_its_span(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench() as b:
            with under(provider):
                connection = await b.pool.acquire()
                await asyncio.sleep(1.0)
                with Suppressed():
                    await b.pool.release(connection)
                assert tracer.pending == 0

    run_virtual(main())
    assert duration(only(exporter, "pool.use")) == 1.0


# Across tasks, threads and ends


def test_a_lease_released_in_another_task_belongs_to_whom_acquired_it(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench() as b:
            with under(provider, "taker"):
                connection = await asyncio.create_task(b.pool.acquire())
            with under(provider, "giver"):
                await asyncio.create_task(b.pool.release(connection))

    run_virtual(main())
    (parent,) = under_which(exporter, "pool.use")
    assert parent == "taker"


def test_a_span_that_ends_before_the_release_has_the_lease_for_a_child_all_the_same(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench() as b:
            with under(provider):
                connection = await b.pool.acquire()
            await asyncio.sleep(1.0)
            await b.pool.release(connection)
            assert tracer.pending == 0

    run_virtual(main())
    use = under_which(exporter, "pool.use")["request"]
    assert duration(use) == 1.0


@pytest.mark.parametrize("outcome", ["acquired", "timeout", "cancelled"])
def test_a_span_that_ends_while_its_request_waits_has_the_wait_for_a_child_all_the_same(
    outcome: str, tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=1) as b:
            holder = await b.holder(2.0)
            with under(provider) as parent:
                task = await queue(b, timeout=1.0 if outcome == "timeout" else None)
            assert not parent.is_recording()
            assert tracer.pending == 1
            if outcome == "cancelled":
                await asyncio.sleep(0.5)
                task.cancel()
            await ended(holder, task)
            assert tracer.pending == 0

    run_virtual(main())
    acquire = under_which(exporter, "pool.acquire")["request"]
    expected = {"acquired": (None, 2.0), "timeout": ("timeout", 1.0), "cancelled": (outcome, 0.5)}
    assert (error(acquire), duration(acquire)) == expected[outcome]


def test_a_thread_that_carries_the_context_on_is_traced(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench() as b:
            await b.hold(1.0)

    with under(provider) as parent:
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(run_virtual, main()))
        thread.start()
        thread.join()
    assert [span.parent for span in of_pools(exporter)] == [parent.get_span_context()] * 3


def test_pools_in_several_threads_keep_to_their_own_callers(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main(name: str) -> None:
        async with bench(name=name, max_size=2) as b:
            for _ in range(20):
                with under(provider, name):
                    tasks = [asyncio.create_task(b.hold(0.1)) for _ in range(6)]
                    await asyncio.sleep(0.05)
                    tasks[3].cancel()
                    await ended(*tasks)

    names = ["blue", "green", "red"]
    threads = [threading.Thread(target=run_virtual, args=(main(name),)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    parents = {span.context.span_id: span.name for span in named(exporter, *names)}
    for name in names:
        spans = [span for span in named(exporter, "pool.acquire") if facts(span)[POOL] == name]
        assert {parents[span.parent.span_id] for span in spans if span.parent} == {name}
        assert [error(span) for span in spans].count("cancelled") == 20
        assert len(spans) == 20 * 6
    assert tracer.pending == 0


def test_those_who_are_left_behind_with_their_loop_are_told_of_under_their_own_spans(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    pool = make_pool()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it complains of the tasks left behind

    async def wait() -> None:
        async with pool.connection():
            pass

    async def begin() -> list["asyncio.Task[None]"]:
        await pool.acquire()
        with under(provider, "left behind"):
            traced = asyncio.create_task(wait())
            await until(lambda: pool.stats().waiting == 1)
        tasks = [traced, asyncio.create_task(wait())]
        await until(lambda: pool.stats().waiting == 2)
        return tasks

    async def go_on() -> None:
        with under(provider, "newcomer"):
            async with pool.connection():
                tasks.clear()
                gc.collect()  # now their coroutines end
        await pool.close()

    tasks = loop.run_until_complete(begin())
    loop.close()
    run(go_on())
    assert {name: error(span) for name, span in under_which(exporter, "pool.acquire").items()} == {
        "left behind": "cancelled",
        "newcomer": None,
    }
    assert tracer.pending == 0


def test_a_request_that_somebody_else_throws_away_is_none_of_theirs(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=1) as b, b.pool.connection():
            one, other = b.pool.acquire(), b.pool.acquire()
            untraced().run(one.send, None)
            with under(provider, "own"):
                other.send(None)
            with under(provider, "else's"):
                one.close()
                other.close()

    run_virtual(main())
    assert under_which(exporter, "pool.acquire").keys() == {"own"}
    assert tracer.pending == 0


def test_who_waits_without_a_trace_gets_none_from_whom_it_waits_for(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=1) as b:
            with under(provider):
                async with b.pool.connection():
                    task = await queue(b, context=untraced())
                    late = await queue(b, timeout=0.5, context=untraced())
                    await asyncio.sleep(1.0)
                await ended(task, late)

    run_virtual(main())
    assert len(named(exporter, "pool.acquire")) == 1


def test_tracing_twice_gives_one_span(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    assert trace_pools(provider) is tracer

    async def main() -> None:
        async with make_pool() as pool, pool.connection():
            with under(provider), pytest.raises(PoolTimeoutError):
                await pool.acquire(timeout=0)

    run(main())
    assert len(named(exporter, "pool.acquire")) == 1


def test_two_providers_trace_the_same_pool_each_for_itself(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    others = InMemorySpanExporter()
    other = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
    other.add_span_processor(BatchSpanProcessor(others))
    second = trace_pools(other)
    with under(provider) as parent:
        traffic_under(parent, second)
    second.close()
    other.shutdown()
    for spans in (of_pools(exporter), of_pools(others)):
        assert [span.parent for span in spans] == [parent.get_span_context()] * 8
