"""pool.connect: one for each physical connect, a child of the caller it was started for."""

import asyncio
from collections import Counter
from functools import partial

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from poolscope.telemetry.otel_spans import PoolTracer
from poolscope.testing import Ledger, run_virtual
from poolscope.testing.ledger import answer, fail, never, slow
from tests.behaviour.bench import bench, ticks
from tests.telemetry.spans import (
    ATTEMPT,
    ATTEMPTS,
    CONNECTION,
    POOL,
    SOURCE,
    URL,
    cancelled,
    duration,
    ended,
    error,
    facts,
    fails,
    id_of,
    links,
    named,
    of_pools,
    only,
    queue,
    times,
    under,
    under_which,
    untraced,
)


def test_a_connect_is_a_client_span_and_a_child_of_the_caller_it_was_started_for(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        ledger = Ledger()
        ledger.script("open", [slow(0.25)])
        async with bench(ledger=ledger, name="orders", target=URL) as b:
            with under(provider):
                await b.hold(1.0)

    run_virtual(main())
    connect, acquire, _ = of_pools(exporter)
    assert connect.name == "pool.connect"
    assert connect.kind is SpanKind.CLIENT
    assert connect.parent == only(exporter, "request").context
    assert facts(connect) == {
        POOL: "orders",
        CONNECTION: "orders#1",
        ATTEMPT: 1,
        "db.system.name": "postgresql",
        "server.address": "db.internal",
        "server.port": 6432,
        "db.namespace": "shop",
    }
    assert error(connect) is None
    assert duration(connect) == duration(acquire) == 0.25
    assert times(connect)[0] >= times(only(exporter, "request"))[0] - 0.25e9
    assert links(acquire) == []


@pytest.mark.parametrize(
    ("failure", "fault"),
    [
        (ConnectionRefusedError(URL), "refused"),
        (TimeoutError(URL), "timeout"),
        (PermissionError(f"password authentication failed for {URL}"), "auth"),
        (OSError(URL), "other"),
    ],
)
def test_a_failed_connect_is_an_error_with_its_fault_and_no_text(
    failure: Exception,
    fault: str,
    tracer: PoolTracer,
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
) -> None:
    async def main() -> None:
        ledger = Ledger()
        ledger.script("open", [fail(failure)])
        async with bench(ledger=ledger, retry_limit=0) as b:
            with under(provider):
                await fails(b.pool.acquire())
            assert tracer.pending == 0

    run_virtual(main())
    assert error(only(exporter, "pool.connect")) == fault


def test_a_connect_that_the_pool_gives_up_is_ended(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        ledger = Ledger()
        ledger.script("open", [never])
        async with bench(ledger=ledger) as b:
            with under(provider):
                task = await queue(b)
                await asyncio.sleep(2.0)
                await b.pool.close()
                await ended(task)
            assert tracer.pending == 0

    run_virtual(main())
    connect = only(exporter, "pool.connect")
    assert (error(connect), duration(connect)) == ("abandoned", 2.0)
    assert error(only(exporter, "pool.acquire")) == "closed"


def test_every_try_has_its_span_and_the_request_says_how_many_it_took(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        ledger = Ledger()
        ledger.script("open", [fail(), fail(TimeoutError)])
        async with bench(ledger=ledger, retry_limit=5, retry_delay=1.0) as b:
            with under(provider):
                await b.hold(0)
                ledger.script("open", [fail()] * 9)
                async with b.pool.connection():
                    # The third is started by the alarm, and not by the caller.
                    await fails(b.pool.acquire(timeout=30.0))
                ledger.scripts["open"].clear()
            assert tracer.pending == 0

    run_virtual(main())
    caller = only(exporter, "request").context
    connects = named(exporter, "pool.connect")
    assert all(span.parent == caller for span in connects)
    assert [(facts(s)[ATTEMPT], error(s)) for s in connects[:4]] == [
        (1, "refused"),
        (2, "timeout"),
        (3, None),
        (1, "refused"),
    ]
    well, _, failed = named(exporter, "pool.acquire")
    assert facts(well)[ATTEMPTS] == 3
    assert facts(failed)[ATTEMPTS] == len(connects) - 3 > 1


def test_a_new_connection_that_fails_its_validation_is_another_try(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        ledger = Ledger()
        ledger.script("validate", [answer(False)])
        functions = {"validate_func": ledger.validate}
        async with bench(ledger=ledger, functions=functions, retry_limit=2) as b:
            with under(provider):
                await b.hold(0)
            assert tracer.pending == 0

    run_virtual(main())
    assert [facts(s)[ATTEMPT] for s in named(exporter, "pool.connect")] == [1, 2]
    acquire = only(exporter, "pool.acquire")
    assert (facts(acquire)[ATTEMPTS], links(acquire)) == (2, [])


def test_connects_for_min_size_belong_to_nobody(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        with under(provider):
            async with bench(min_size=2) as b:
                await b.pool.initialize()

    run_virtual(main())
    assert of_pools(exporter) == []


def test_a_connect_for_who_is_not_traced_belongs_to_nobody(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench() as b:
            with under(provider):
                task = await queue(b, context=untraced())
                await ended(task)

    run_virtual(main())
    assert of_pools(exporter) == []


def test_a_connect_started_at_a_release_belongs_to_who_waits_for_it(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=1) as b:

            async def break_it() -> None:
                with under(provider, "breaker"):
                    async with b.pool.connection():
                        await asyncio.sleep(1.0)
                        raise ConnectionResetError

            breaker = asyncio.create_task(break_it())
            await ticks(3)
            with under(provider, "waiter"):
                waiter = await queue(b)
            await ended(breaker, waiter)

    run_virtual(main())
    connects = under_which(exporter, "pool.connect")
    assert connects.keys() == {"breaker", "waiter"}
    acquire = under_which(exporter, "pool.acquire")["waiter"]
    assert facts(acquire)[CONNECTION] == facts(connects["waiter"])[CONNECTION] == "bench#2"
    assert facts(acquire)[ATTEMPTS] == 1


# A connect belongs to the pool: another may get what was opened for one


def test_who_gets_what_was_opened_for_one_who_gave_up_is_linked_to_the_connect(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        ledger = Ledger()
        ledger.script("open", [slow(1.0), never])
        async with bench(ledger=ledger) as b:
            with under(provider, "first"):
                first = await queue(b)
            with under(provider, "second"):
                second = await queue(b)
            await cancelled(first)
            await second
            await ticks(3)
            assert tracer.pending == 1  # the connect that never ends

    run_virtual(main())
    connect = under_which(exporter, "pool.connect")["first"]
    assert error(connect) is None
    acquires = under_which(exporter, "pool.acquire")
    assert error(acquires["first"]) == "cancelled"
    assert links(acquires["second"]) == [("connect", id_of(connect))]
    link = acquires["second"].links[0]
    assert (link.attributes or {})[CONNECTION] == facts(connect)[CONNECTION]


def test_those_whose_connects_end_in_another_order_are_linked_crosswise(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        ledger = Ledger()
        ledger.script("open", [slow(2.0), slow(1.0)])
        async with bench(ledger=ledger, max_connecting=2) as b:
            with under(provider, "first"):
                first = await queue(b, 9.0)
            with under(provider, "second"):
                second = await queue(b)
            await asyncio.gather(first, second)

    run_virtual(main())
    connects = under_which(exporter, "pool.connect")
    acquires = under_which(exporter, "pool.acquire")
    assert {name: duration(span) for name, span in connects.items()} == {
        "first": 2.0,
        "second": 1.0,
    }
    assert links(acquires["first"]) == [("connect", id_of(connects["second"]))]
    assert links(acquires["second"]) == [("connect", id_of(connects["first"]))]


def test_with_one_connect_at_a_time_each_has_its_own(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=3, max_connecting=1) as b:
            tasks = []
            for name in ("first", "second", "third"):
                with under(provider, name):
                    tasks.append(await queue(b, 1.0))
            await asyncio.gather(*tasks)

    run_virtual(main())
    connects = under_which(exporter, "pool.connect")
    for name, acquire in under_which(exporter, "pool.acquire").items():
        assert facts(acquire)[CONNECTION] == facts(connects[name])[CONNECTION]
        assert facts(acquire)[ATTEMPTS] == 1
        assert links(acquire) == []


def test_a_connection_that_was_lent_in_between_leads_nobody_to_its_connect(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=1) as b:
            with under(provider, "gives up"):
                await cancelled(await queue(b))
            await ticks(3)
            assert tracer.pending == 0
            assert b.pool.stats().idle == 1
            holder = await b.holder(1.0)
            with under(provider, "waits"):
                waits = await queue(b)
            await asyncio.gather(holder, waits)
            with under(provider, "finds it idle"):
                await b.hold(0)

    run_virtual(main())
    acquires = under_which(exporter, "pool.acquire")
    sources = {name: facts(span).get(SOURCE) for name, span in acquires.items()}
    assert sources == {"gives up": None, "waits": "handoff", "finds it idle": "idle"}
    assert [links(span) for span in acquires.values()] == [[], [], []]


# The factory works for all


def test_the_functions_of_the_application_run_under_no_callers_span(
    tracer: PoolTracer, provider: TracerProvider
) -> None:
    seen: list[str] = []

    def look(what: str) -> None:
        assert trace.get_current_span() is trace.INVALID_SPAN
        seen.append(what)

    async def main() -> None:
        ledger = Ledger()
        for what in ("open", "validate", "reset", "close"):
            ledger.script(what, [partial(look, what)] * 9)
        functions = {"validate_func": ledger.validate, "reset_func": ledger.reset}
        with under(provider):
            async with bench(ledger=ledger, functions=functions, max_size=1) as b:
                holder, waiter = await queue(b, 1.0), await queue(b)
                await asyncio.gather(holder, waiter)
                await b.pool.drain()
                await b.hold(0)

    run_virtual(main())
    assert Counter(seen) == {"open": 2, "validate": 3, "reset": 3, "close": 2}
