"""Nothing is kept of what has ended: not after strikes, forks, or the loss of a pool."""

import asyncio
import gc
import os
import subprocess
import sys
import warnings
import weakref
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.events import ConnectionAcquired, ConnectionRequested
from poolscope.telemetry.otel_spans import PoolTracer, trace_pools
from poolscope.testing import FakeConnection, Ledger, clock, run_virtual
from poolscope.testing.ledger import fail
from tests.behaviour.bench import Bench, bench, ticks
from tests.behaviour.strikes import KINDS, Kind, Victim, sweep
from tests.telemetry.spans import (
    cancelled,
    ended,
    error,
    named,
    queue,
    under,
    untraced,
)


def test_what_is_under_way_is_counted_until_it_has_ended(
    tracer: PoolTracer, provider: TracerProvider
) -> None:
    async def main() -> None:
        async with bench(max_size=1) as b:
            with under(provider):
                tasks = [await queue(b, 1.0)]
                assert tracer.pending == 2  # it waits, and a connection is opened for it
                await asyncio.sleep(0.5)
                assert tracer.pending == 1
                tasks += [await queue(b, 1.0) for _ in range(20)]
                assert tracer.pending == 21
                for task in tasks[5:15]:
                    task.cancel()
                await ticks()
                assert tracer.pending == 11
                await ended(*tasks)
            assert tracer.pending == 0

    run_virtual(main())


# Strikes


def struck(
    provider: TracerProvider,
    tracer: PoolTracer,
    exporter: InMemorySpanExporter,
    prepare: Callable[[Bench], Awaitable[None]],
) -> Callable[[Victim], Awaitable[None]]:
    """Strike one who borrows among others, all under a span."""

    async def act(victim: Victim) -> None:
        exporter.clear()
        ledger = Ledger()
        functions = {"validate_func": ledger.validate, "reset_func": ledger.reset}
        async with bench(ledger=ledger, functions=functions, max_size=1, retry_limit=2) as b:

            async def borrow() -> None:
                async with b.pool.connection() as connection:
                    await connection.execute()

            with under(provider):
                await prepare(b)
                task = asyncio.create_task(victim.suffer(borrow()))
                others = [asyncio.create_task(b.hold(0.1)) for _ in range(2)]
                await ended(task, *others)
            await ticks(20)
            assert tracer.pending == 0
            requests, leases = b.count(ConnectionRequested), b.count(ConnectionAcquired)
        assert len(named(exporter, "pool.acquire")) == requests
        assert len(named(exporter, "pool.use")) == leases
        assert len(named(exporter, "pool.connect")) == ledger.opened

    return act


async def nothing(b: Bench) -> None:
    pass


async def one_in_use(b: Bench) -> None:
    await b.holder(0.1)


async def one_dead(b: Bench) -> None:
    await b.hold(0)
    b.ledger.kill(*b.ledger.open_connections)
    b.ledger.script("open", [fail()])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prepare", [nothing, one_in_use, one_dead])
def test_a_strike_at_any_moment_leaves_nothing_open(
    prepare: Callable[[Bench], Awaitable[None]],
    kind: Kind,
    tracer: PoolTracer,
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
) -> None:
    assert sweep(struck(provider, tracer, exporter, prepare), [kind]) > 10


def test_a_storm_of_cancellations_leaves_nothing_open(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=3, max_waiting=50) as b:
            for lull in range(30):
                with under(provider):
                    tasks = [asyncio.create_task(b.hold(0.1)) for _ in range(100)]
                    await ticks(lull % 7)
                    for task in tasks[lull % 3 :: 2]:
                        task.cancel()
                    await ended(*tasks)
                assert tracer.pending == 0
            requests = b.count(ConnectionRequested)
        assert len(named(exporter, "pool.acquire")) == requests

    run_virtual(main())


# What is let go of


class Baggage:
    """Something a caller carries in its context."""


async def go_through_everything(b: Any) -> None:
    holder, waiter, late = await queue(b, 1.0), await queue(b, 1.0), await queue(b, timeout=0.5)
    await ended(holder, waiter, late)
    await b.pool.detach(await b.pool.acquire())
    await cancelled(await queue(b))
    await b.pool.release(await b.pool.acquire())


async def give_up_what_is_opened(b: Any) -> None:
    await cancelled(await queue(b))


async def give_up_what_is_handed_over(b: Any) -> None:
    connection = await b.pool.acquire()
    waiter = await queue(b)
    await b.pool.release(connection)
    await cancelled(waiter)


@pytest.mark.parametrize(
    "act", [go_through_everything, give_up_what_is_opened, give_up_what_is_handed_over]
)
def test_no_callers_context_is_kept_when_all_it_asked_for_has_ended(
    act: Callable[[Any], Awaitable[None]], tracer: PoolTracer, provider: TracerProvider
) -> None:
    async def carry_something(b: Any) -> weakref.ref[Baggage]:
        baggage = Baggage()
        with under(provider):
            token = otel_context.attach(otel_context.set_value("baggage", baggage))
            await act(b)
            otel_context.detach(token)
        return weakref.ref(baggage)

    async def main() -> None:
        settings = ConnectionPoolSettings(min_size=0, max_size=1)
        async with ConnectionPool(object, settings, clock=clock) as pool:
            # No bench: that keeps all events, and with them errors, frames, and all there is.
            baggage = await carry_something(SimpleNamespace(pool=pool))
            await ticks(9)
            assert pool.stats().idle == 1
            assert tracer.pending == 0
            gc.collect()
            assert baggage() is None

    run_virtual(main())


def test_a_pool_that_is_closed_is_forgotten(tracer: PoolTracer, provider: TracerProvider) -> None:
    async def main() -> None:
        async with bench(max_size=1, close_timeout=0.5) as b:
            with under(provider):
                await b.pool.acquire()
                waiter = await queue(b)
                assert tracer.pending == 2
                await b.pool.close()
                await ended(waiter)
                assert tracer.pending == 0
                with pytest.raises(Exception, match="closed"):
                    await b.pool.acquire()
            assert tracer.pending == 0

    run_virtual(main())


def test_a_pool_that_was_lost_is_forgotten_when_another_takes_its_name(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def lose() -> FakeConnection:
        ledger = Ledger()
        settings = ConnectionPoolSettings(name="orders", min_size=0)
        pool = ConnectionPool(ledger.open, settings, clock=clock)
        await pool.release(await pool.acquire())
        with under(provider):
            return await pool.acquire()

    async def main() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            await lose()
            await ticks(9)
            gc.collect()
        async with bench(name="orders") as b:
            assert b.pool.name == "orders"
            with under(provider):
                await b.hold(1.0)
            assert tracer.pending == 0

    run_virtual(main())
    assert [error(span) for span in named(exporter, "pool.use")] == [None]


def test_who_is_not_traced_leaves_nothing_while_it_waits(
    tracer: PoolTracer, provider: TracerProvider
) -> None:
    async def main() -> None:
        async with bench(max_size=1) as b:
            with under(provider):
                tasks = [await queue(b, 1.0, context=untraced()) for _ in range(3)]
                assert tracer.pending == 0
                await asyncio.sleep(1.5)
                assert tracer.pending == 0
                await ended(*tasks)

    run_virtual(main())


# Forks


FORKING = """
import asyncio, os
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.telemetry.otel_spans import span_context, trace_pools

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
tracer = trace_pools(provider)
app = provider.get_tracer("app")

class Connection:
    def close(self):
        pass

pool = ConnectionPool(Connection, ConnectionPoolSettings(name="orders", min_size=0, max_size=1))

async def use():
    async with pool.connection():
        pass

def spans():
    return sorted(span.name for span in exporter.get_finished_spans() if "pool." in span.name)

async def child():
    with app.start_as_current_span("of the child"):
        await use()
    await pool.close()

async def parent():
    with app.start_as_current_span("of the parent"):
        connection = await pool.acquire()
        traced = asyncio.create_task(use())
        await asyncio.sleep(0)
    untraced = asyncio.create_task(use())
    await asyncio.sleep(0)
    assert tracer.pending == 2
    if (pid := os.fork()) == 0:
        assert tracer.pending == 0
        assert not any(span_context("orders", request) for request in range(9))
        exporter.clear()
        asyncio.run(child())
        assert tracer.pending == 0
        print(*spans())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert tracer.pending == 2
    await pool.release(connection)
    await asyncio.gather(traced, untraced)
    await pool.close()
    assert tracer.pending == 0
    print(*spans())

asyncio.run(parent())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_to_its_parent_what_the_parent_will_end() -> None:
    done = subprocess.run([sys.executable, "-uc", FORKING], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "pool.acquire pool.connect pool.use",
        "pool.acquire pool.acquire pool.connect pool.use pool.use",
    ]


def test_a_tracer_closed_amid_events_begins_with_nothing(
    tracer: PoolTracer, provider: TracerProvider
) -> None:
    async def main() -> None:
        async with bench(max_size=1) as b:
            with under(provider):
                with b.pool.bus.tap({ConnectionAcquired: lambda *_: tracer.close()}):
                    holder = await b.holder(1.0)
                trace_pools(provider)
                assert tracer.pending == 0
                await holder
                await b.hold(0)
            assert tracer.pending == 0

    run_virtual(main())
