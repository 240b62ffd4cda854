import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, use_span

from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.asgi import ConnectionPoolMiddleware
from poolscope.asgi.types import ASGIApp
from poolscope.sync_pool import SyncConnectionPool
from poolscope.testing import Ledger, run_virtual
from tests.asgi.serving import client_of, raw, serving
from tests.support import run

WAIT = "poolscope.request.wait_time"
USE = "poolscope.request.use_time"
ACQUIRED = "poolscope.request.acquired"


class Traced:
    """Requests under spans as an instrumentation makes them, and what those say of pools."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("web")

    def instrument(self, app: ASGIApp) -> ASGIApp:
        async def traced(scope: Any, receive: Any, send: Any) -> None:
            span = self.tracer.start_span("GET /", kind=SpanKind.SERVER)

            async def send_and_end(message: Any) -> None:
                await send(message)
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    span.end()  # as OpenTelemetry's own instrumentation, and FastAPI, do

            try:
                with use_span(span):
                    await app(scope, receive, send_and_end)
            finally:
                if span.is_recording():
                    span.end()

        return traced

    def said(self, name: str = "GET /") -> list[dict[str, Any]]:
        """What each span of this name says, rounded to microseconds."""
        return [
            {
                key: round(value, 6) if isinstance(value, float) else value
                for key, value in (span.attributes or {}).items()
            }
            for span in self.exporter.get_finished_spans()
            if span.name == name
        ]


@pytest.fixture
def traced() -> Iterator[Traced]:
    traced = Traced()
    yield traced
    traced.provider.shutdown()


def pool_of(name: str, **settings: Any) -> ConnectionPool[Any]:
    """A pool that is none of the middleware's."""
    loop = asyncio.get_running_loop()
    settings = {"name": name, "min_size": 0, "max_size": 1} | settings
    return ConnectionPool(Ledger(steps=0).open, ConnectionPoolSettings(**settings), clock=loop.time)


async def hold(pool: ConnectionPool[Any], seconds: float) -> None:
    async with pool.connection():
        await asyncio.sleep(seconds)


def outside(traced: Traced, pools: ConnectionPoolMiddleware) -> ASGIApp:
    return traced.instrument(pools)


def inside(traced: Traced, pools: ConnectionPoolMiddleware) -> ASGIApp:
    assert pools.app is not None
    pools.app = traced.instrument(pools.app)
    return pools


@pytest.mark.parametrize("where", [outside, inside])
def test_the_span_of_a_request_says_how_long_it_waited_for_and_held_each_pool(
    where: Callable[[Traced, ConnectionPoolMiddleware], ASGIApp], traced: Traced
) -> None:
    async def main() -> None:
        async with pool_of("orders") as orders, pool_of("users") as users:

            async def handle(_scope: Any) -> None:
                await hold(orders, 1)
                await hold(orders, 2)
                await hold(users, 3)

            pools = ConnectionPoolMiddleware(raw(handle))
            async with client_of(where(traced, pools)) as client:
                blocker = asyncio.create_task(hold(orders, 5))
                await asyncio.sleep(0.5)
                await client.get("/")
                await blocker
            await pools.shutdown()

    run_virtual(main())
    assert traced.said() == [
        {
            f"{WAIT}.orders": 4.5, f"{USE}.orders": 3, f"{ACQUIRED}.orders": 2,
            f"{WAIT}.users": 0, f"{USE}.users": 3, f"{ACQUIRED}.users": 1,
        }
    ]  # fmt: skip


def test_a_request_with_spans_of_its_own_has_one_sum_on_the_outermost(traced: Traced) -> None:
    async def main() -> None:
        async with pool_of("orders") as orders:

            async def handle(_scope: Any) -> None:
                for _ in range(3):
                    with traced.tracer.start_as_current_span("step"):
                        await hold(orders, 1)

            pools = ConnectionPoolMiddleware(raw(handle))
            async with client_of(traced.instrument(pools)) as client:
                await client.get("/")
            await pools.shutdown()

    run_virtual(main())
    assert traced.said() == [{f"{WAIT}.orders": 0, f"{USE}.orders": 3, f"{ACQUIRED}.orders": 3}]
    assert traced.said("step") == [{}, {}, {}]


def test_tasks_of_a_request_count_for_it_and_for_no_other(traced: Traced) -> None:
    async def main() -> None:
        async with pool_of("orders", max_size=9) as orders:

            async def handle(_scope: Any) -> None:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(3):
                        tasks.create_task(hold(orders, 2))

            pools = ConnectionPoolMiddleware(raw(handle))
            async with client_of(traced.instrument(pools)) as client:
                await asyncio.gather(client.get("/"), client.get("/"))
            await pools.shutdown()

    run_virtual(main())
    assert [said[f"{USE}.orders"] for said in traced.said()] == [6, 6]
    assert [said[f"{ACQUIRED}.orders"] for said in traced.said()] == [3, 3]


def test_threads_of_a_request_count_for_it(traced: Traced) -> None:
    orders = SyncConnectionPool(object, ConnectionPoolSettings(name="orders", min_size=0))

    def borrow() -> None:
        with orders.connection():
            pass

    async def main() -> None:
        pools = ConnectionPoolMiddleware(raw(lambda _: asyncio.to_thread(borrow)))
        async with client_of(traced.instrument(pools)) as client:
            await client.get("/")
            await client.get("/")
        await pools.shutdown()

    run(main())
    orders.close()
    assert [said[f"{ACQUIRED}.orders"] for said in traced.said()] == [1, 1]


def test_waits_without_success_and_what_has_not_ended_count_too(traced: Traced) -> None:
    left: list[asyncio.Task[Any]] = []

    async def main() -> None:
        async with pool_of("orders") as orders, pool_of("users") as users:

            async def handle(_scope: Any) -> None:
                left.append(asyncio.create_task(hold(orders, 8)))
                await asyncio.sleep(1)
                left.append(asyncio.create_task(hold(orders, 1)))
                with pytest.raises(TimeoutError):
                    await orders.acquire(timeout=2)
                await users.acquire()
                await asyncio.sleep(0.5)

            pools = ConnectionPoolMiddleware(raw(handle))
            async with client_of(traced.instrument(pools)) as client:
                await client.get("/")
            assert traced.said() == [
                {
                    f"{WAIT}.orders": 4.5, f"{USE}.orders": 3.5, f"{ACQUIRED}.orders": 1,
                    f"{WAIT}.users": 0, f"{USE}.users": 0.5, f"{ACQUIRED}.users": 1,
                }
            ]  # fmt: skip
            await asyncio.wait(left)
            await pools.shutdown()

    run_virtual(main())
    assert len(traced.said()) == 1


def test_a_connection_reset_in_the_background_counts_until_it_is_clean(traced: Traced) -> None:
    async def main() -> None:
        settings = ConnectionPoolSettings(name="orders", min_size=0)
        loop = asyncio.get_running_loop()
        async with ConnectionPool(
            object, settings, reset_func=lambda _: asyncio.sleep(1), clock=loop.time
        ) as orders:
            pools = ConnectionPoolMiddleware(raw(lambda _: hold(orders, 2)))
            async with client_of(traced.instrument(pools)) as client:
                await client.get("/")
            await pools.shutdown()

    run_virtual(main())
    assert traced.said() == [{f"{WAIT}.orders": 0, f"{USE}.orders": 3, f"{ACQUIRED}.orders": 1}]


def test_two_middlewares_around_one_application_count_once(traced: Traced) -> None:
    async def main() -> None:
        async with pool_of("orders") as orders:
            inner = ConnectionPoolMiddleware(raw(lambda _: hold(orders, 2)))

            async def between(scope: Any, receive: Any, send: Any) -> None:
                await hold(orders, 1)
                await inner(scope, receive, send)

            outer = ConnectionPoolMiddleware(between)
            async with client_of(traced.instrument(outer)) as client:
                await client.get("/")
            await outer.shutdown()
            await inner.shutdown()

    run_virtual(main())
    assert traced.said() == [{f"{WAIT}.orders": 0, f"{USE}.orders": 3, f"{ACQUIRED}.orders": 2}]


def test_a_connection_given_back_by_somebody_else_counts_until_then(traced: Traced) -> None:
    async def main() -> None:
        async with pool_of("orders") as orders:
            borrowed: asyncio.Queue[Any] = asyncio.Queue()

            async def give_back() -> None:
                connection = await borrowed.get()
                await asyncio.sleep(1)
                await orders.release(connection)

            async def handle(_scope: Any) -> None:
                borrowed.put_nowait(await orders.acquire())
                await asyncio.sleep(5)

            somebody = asyncio.create_task(give_back())
            pools = ConnectionPoolMiddleware(raw(handle))
            async with client_of(traced.instrument(pools)) as client:
                await client.get("/")
            await somebody
            await pools.shutdown()

    run_virtual(main())
    assert traced.said() == [{f"{WAIT}.orders": 0, f"{USE}.orders": 1, f"{ACQUIRED}.orders": 1}]


@pytest.mark.parametrize("where", [outside, inside])
def test_a_request_that_fails_without_an_answer_tells_too(
    where: Callable[[Traced, ConnectionPoolMiddleware], ASGIApp], traced: Traced
) -> None:
    async def main() -> None:
        async with pool_of("orders") as orders:

            async def handle(_scope: Any) -> None:
                await hold(orders, 2)
                raise LookupError

            pools = ConnectionPoolMiddleware(raw(handle))
            async with client_of(where(traced, pools)) as client:
                with pytest.raises(LookupError):
                    await client.get("/")
            await pools.shutdown()

    run_virtual(main())
    assert traced.said() == [{f"{WAIT}.orders": 0, f"{USE}.orders": 2, f"{ACQUIRED}.orders": 1}]


@pytest.mark.parametrize("where", [outside, inside])
def test_a_connection_held_longer_than_the_response_counts_to_its_last_piece(
    where: Callable[[Traced, ConnectionPoolMiddleware], ASGIApp],
    traced: Traced,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with pool_of("orders") as orders:

            async def app(_scope: Any, _receive: Any, send: Any) -> None:
                async with orders.connection():
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                    for more in (True, True, False):
                        await asyncio.sleep(1)
                        body = {"body": b"piece", "more_body": more}
                        await send({"type": "http.response.body", **body})
                    await asyncio.sleep(9)

            pools = ConnectionPoolMiddleware(app)
            async with client_of(where(traced, pools)) as client:
                await client.get("/")
            await pools.shutdown()

    run_virtual(main())
    assert traced.said() == [{f"{WAIT}.orders": 0, f"{USE}.orders": 3, f"{ACQUIRED}.orders": 1}]
    assert caplog.text == ""  # the SDK complains of what is told to a span that has ended


def test_the_span_that_fastapi_makes_says_it(traced: Traced) -> None:
    pytest.importorskip("fastapi.telemetry", reason="older ones make no spans")
    app = FastAPI(telemetry={"tracer_provider": traced.provider})
    app.add_middleware(ConnectionPoolMiddleware)

    async def main() -> None:
        async with pool_of("orders") as orders:

            @app.get("/")
            async def read() -> None:
                await hold(orders, 2)

            async with serving(app) as client:
                await client.get("/")

    run_virtual(main())
    (said,) = traced.said()
    assert said[f"{USE}.orders"] == 2
    assert said[f"{ACQUIRED}.orders"] == 1


def test_a_request_that_uses_no_pool_says_nothing(traced: Traced) -> None:
    async def main() -> None:
        pools = ConnectionPoolMiddleware(raw(lambda _: asyncio.sleep(1)))
        async with client_of(traced.instrument(pools)) as client:
            await client.get("/")
        await pools.shutdown()

    run_virtual(main())
    assert traced.said() == [{}]


def test_a_request_that_is_not_sampled_costs_nothing_and_says_nothing() -> None:
    traced = Traced(sampler=ALWAYS_OFF)

    async def main() -> None:
        async with pool_of("orders") as orders:
            pools = ConnectionPoolMiddleware(raw(lambda _: hold(orders, 1)))
            async with client_of(traced.instrument(pools)) as client:
                assert (await client.get("/")).text == "ok"
            await pools.shutdown()

    run_virtual(main())
    assert traced.said() == []
    traced.provider.shutdown()


def test_nothing_is_heard_any_more_once_the_pools_are_closed(traced: Traced) -> None:
    async def main() -> None:
        pools = ConnectionPoolMiddleware(raw(lambda _: asyncio.sleep(0)))
        async with client_of(traced.instrument(pools)) as client:
            await client.get("/")
        async with pool_of("orders") as orders:
            while_open = len(orders.bus.request_hooks[1])
            await pools.shutdown()
            assert len(orders.bus.request_hooks[1]) == while_open - 1

    run_virtual(main())
