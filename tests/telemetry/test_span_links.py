"""A request that waited is linked to the leases it waited for."""

import asyncio

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

from poolscope.telemetry.otel_spans import PoolTracer, trace_pools
from poolscope.testing import run_virtual
from tests.behaviour.bench import Bench, bench, ticks
from tests.telemetry.spans import (
    CONNECTION,
    ended,
    error,
    facts,
    id_of,
    links,
    named,
    of_pools,
    only,
    queue,
    under,
    under_which,
    untraced,
)


async def hold(b: Bench, provider: TracerProvider, name: str, seconds: float) -> None:
    with under(provider, name):
        await b.hold(seconds)


async def start(
    b: Bench, provider: TracerProvider, name: str, seconds: float
) -> "asyncio.Task[None]":
    """Return a task which holds a connection under a span, or waits for one."""
    task = asyncio.create_task(hold(b, provider, name, seconds))
    await ticks(9)
    return task


def linked(exporter: InMemorySpanExporter, waiter: str) -> list[str]:
    """Return under which spans the leases were that a waiter is linked to."""
    holders = {id_of(use): name for name, use in under_which(exporter, "pool.use").items()}
    found = links(under_which(exporter, "pool.acquire")[waiter])
    assert all(why == "holder" for why, _ in found)
    return [holders[where] for _, where in found]


def test_who_waited_is_linked_to_the_lease_it_waited_for(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=1) as b:
            holder = await start(b, provider, "holder", 1.0)
            await asyncio.gather(holder, await start(b, provider, "waiter", 1.0))

    run_virtual(main())
    use = under_which(exporter, "pool.use")["holder"]
    acquires = under_which(exporter, "pool.acquire")
    assert links(acquires["holder"]) == []
    assert links(acquires["waiter"]) == [("holder", id_of(use))]
    assert dict(acquires["waiter"].links[0].attributes or {}) == {
        "poolscope.link": "holder",
        CONNECTION: facts(use)[CONNECTION],
    }


def test_the_first_link_leads_to_whose_connection_it_got_the_others_to_who_held_one_too(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=3) as b:
            tasks = [
                await start(b, provider, "slow", 5.0),
                await start(b, provider, "quick", 1.0),
                await start(b, provider, "slower", 6.0),
                await start(b, provider, "waiter", 0.0),
            ]
            await asyncio.gather(*tasks)

    run_virtual(main())
    assert linked(exporter, "waiter") == ["quick", "slow", "slower"]


def test_the_first_link_leads_to_whose_connection_it_got_even_if_that_one_came_later(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=1) as b:
            tasks = [
                await start(b, provider, "holder", 1.0),
                await start(b, provider, "first in line", 1.0),
                await start(b, provider, "second in line", 1.0),
            ]
            await asyncio.gather(*tasks)

    run_virtual(main())
    assert linked(exporter, "second in line") == ["first in line", "holder"]


def test_a_lease_that_nobody_traced_is_not_taken_for_an_earlier_one_of_its_connection(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=2) as b:
            tasks = [
                await start(b, provider, "other", 9.0),
                await start(b, provider, "earlier", 1.0),
                await queue(b, 1.0, context=untraced()),
                await start(b, provider, "gets it from nobody", 1.0),
            ]
            await asyncio.sleep(1.5)
            tasks.append(await start(b, provider, "later", 0.0))
            await asyncio.gather(*tasks)

    run_virtual(main())
    assert linked(exporter, "gets it from nobody") == ["other", "earlier"]
    assert linked(exporter, "later") == ["gets it from nobody", "other"]


def test_at_most_sixteen_holders_are_linked_the_longest_ones_first(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=20, max_connecting=20) as b:
            holders = [await start(b, provider, f"{i}", 1.0 if i == 18 else 5.0) for i in range(20)]
            waiter = await start(b, provider, "waiter", 0.0)
            await asyncio.gather(*holders, waiter)

    run_virtual(main())
    assert linked(exporter, "waiter") == ["18", *(f"{i}" for i in range(15))]


@pytest.mark.parametrize("fate", ["timeout", "cancelled", "closed"])
def test_who_waited_in_vain_is_linked_too(
    fate: str, tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=2, close_timeout=9.0) as b:
            one = await start(b, provider, "one", 4.0)
            two = await start(b, provider, "two", 5.0)
            with under(provider, "waiter"):
                waiter = await queue(b, timeout=1.0 if fate == "timeout" else None)
            if fate == "cancelled":
                waiter.cancel()
            elif fate == "closed":
                await b.pool.close()
            await ended(waiter, one, two)
            assert tracer.pending == 0

    run_virtual(main())
    assert error(under_which(exporter, "pool.acquire")["waiter"]) == fate
    assert linked(exporter, "waiter") == ["one", "two"]


def test_who_did_not_wait_is_not_linked(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=2, min_size=2) as b:
            await b.pool.initialize()
            one = await start(b, provider, "one", 1.0)
            await hold(b, provider, "two", 0.5)
            await hold(b, provider, "two again", 0.0)
            await one

    run_virtual(main())
    assert [links(span) for span in named(exporter, "pool.acquire")] == [[], [], []]


def test_a_holder_that_is_not_sampled_is_not_linked(exporter: InMemorySpanExporter) -> None:
    class DropUses(Sampler):
        def should_sample(self, parent_context, trace_id, name, *_, **__):  # type: ignore
            drop = name == "pool.use"
            return SamplingResult(Decision.RECORD_ONLY if drop else Decision.RECORD_AND_SAMPLE)

        def get_description(self) -> str:
            return "record uses, and do not sample them"

    provider = TracerProvider(sampler=DropUses(), shutdown_on_exit=False)
    tracer = trace_pools(provider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def main() -> None:
        async with bench(max_size=1) as b:
            holder = await start(b, provider, "holder", 1.0)
            await asyncio.gather(holder, await start(b, provider, "waiter", 0.0))

    run_virtual(main())
    tracer.close()
    provider.shutdown()
    assert links(under_which(exporter, "pool.acquire")["waiter"]) == []


def test_in_slow_mode_a_link_leads_to_the_span_the_holder_is_under(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    tracer = trace_pools(provider, mode="slow", threshold=2.0)

    async def main() -> None:
        async with bench(max_size=2) as b:
            still_holds = await start(b, provider, "still holds", 4.0)
            gave = await start(b, provider, "gave", 3.0)
            waiter = await start(b, provider, "waiter", 0.0)
            await asyncio.gather(still_holds, gave, waiter)

    run_virtual(main())
    tracer.close()
    (acquire,) = named(exporter, "pool.acquire")
    assert links(acquire) == [
        # Its use was slow and is over, so that it has a span by now.
        ("holder", id_of(under_which(exporter, "pool.use")["gave"])),
        ("holder", id_of(only(exporter, "still holds"))),
    ]
    assert len(of_pools(exporter)) == 3
