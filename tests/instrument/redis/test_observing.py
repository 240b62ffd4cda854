"""How pools of redis-py and valkey-py come to be observed, and how that ends."""

import asyncio
import gc
import inspect
import json
import logging
import os
import weakref
from typing import Any

import pytest

from poolscope import instrument, registry
from poolscope.events import ConnectionAcquired
from poolscope.instrument import observe
from poolscope.instrument.redis import Redis
from poolscope.telemetry import catalog
from poolscope.testing.redis import RedisServer
from tests.instrument.redis.stage import Flavour, act, say, stage, until
from tests.support import run


def found(server: RedisServer) -> list[str]:
    """The pools of this server, without those by which it is asked itself."""
    return [s.name for s in registry.live() if s.name.startswith(f"127.0.0.1:{server.port}/0")]


def test_a_pool_is_observed_from_its_beginning(flavour: Flavour, redis_server: RedisServer) -> None:
    async def main() -> None:
        instrument(flavour.library)
        pool = flavour.pool(redis_server, max_connections=3)
        assert found(redis_server) == [f"127.0.0.1:{redis_server.port}/0"]
        source = observe(pool)
        assert observe(flavour.client(connection_pool=pool)) is source
        assert (source.target.system, source.target.namespace) == (flavour.library, "0")
        assert (source.stats().max_size, source.stats().max_idle) == (3, 3)

    run(main())


def test_a_pool_with_connections_out_is_right_from_the_first_reading(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def main() -> None:
        pool = flavour.pool(redis_server, max_connections=3)
        lent, idle = await flavour.get(pool), await flavour.get(pool)
        await act(pool.release(idle))
        source = observe(pool)
        assert (source.stats().idle, source.stats().in_use) == (1, 1)
        await act(pool.release(lent))
        assert (source.stats().idle, source.stats().in_use) == (2, 0)
        assert source.metrics.released == source.metrics.acquired == 0
        await act(pool.release(await flavour.get(pool)))
        assert source.metrics.released == source.metrics.acquired == 1
        await act(pool.disconnect())
        assert source.metrics.closed.total() == 2

    run(main())


def test_pools_that_are_there_are_met(flavour: Flavour, redis_server: RedisServer) -> None:
    async def main() -> None:
        pool = flavour.pool(redis_server)
        assert found(redis_server) == []
        instrument(flavour.library)
        assert found(redis_server) == [f"127.0.0.1:{redis_server.port}/0"]
        assert observe(pool).stats().in_use == 0

    run(main())


def test_who_is_no_longer_observed_goes_on_as_if_never(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server) as on:
            connection = await on.get()
            on.source.close()
            on.events.clear()
            await say(connection, "PING")
            await on.give(connection)
            await on.give(await on.get())
            assert on.events == []
            again = observe(on.pool)
            assert again is not on.source
            assert again.name == on.source.name
            assert again.stats().idle == 1
            await on.give(await on.get())
            assert again.metrics.acquired == again.metrics.released == 1
            await act(connection.disconnect())
            assert [*again.metrics.closed.elements()] == ["stale"]

    run(main())


def test_a_closed_pool_that_is_used_again_is_observed_again(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def main() -> None:
        instrument(flavour.library)
        client = flavour.client.from_pool(flavour.pool(redis_server))
        close = getattr(client, "aclose", None) or client.close
        await act(client.set("number", 1))
        before = observe(client)
        await act(close())
        assert found(redis_server) == []
        await act(client.set("number", 2))
        assert found(redis_server) == [before.name]
        again = observe(client)
        assert again is not before
        assert (again.name, again.stats().idle) == (before.name, 1)
        await act(close())

    run(main())


def test_two_pools_of_one_server_are_told_apart(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server) as one, stage(flavour, redis_server) as two:
            place = f"127.0.0.1:{redis_server.port}/0"
            assert [one.source.name, two.source.name] == [place, f"{place}-2"]
            await one.give(await one.get())
            assert (one.levels(), two.levels()) == ((1, 0, 0, 0), (0, 0, 0, 0))

    run(main())


def test_names_are_those_of_applications_or_places(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def main() -> None:
        kind, socket = flavour.package.ConnectionPool, str(redis_server.socket)
        pools = [
            flavour.pool(redis_server, client_name="shop"),
            kind.from_url(f"unix://:c4n4ry@{socket}?db=3"),
            kind.from_url(f"{flavour.library}://user:c4n4ry@example.test/2?socket_timeout=1"),
            kind(),
        ]
        sources = [observe(pool) for pool in pools]
        names = [source.name for source in sources]
        assert names == ["shop", f"{socket}/3", "example.test:6379/2", "localhost:6379/0"]
        assert "c4n4ry" not in repr([(source, source.target) for source in sources])
        assert observe(flavour.pool(redis_server), "given").name == "given"

    run(main())


def test_limits_that_are_none_are_not_told(flavour: Flavour, redis_server: RedisServer) -> None:
    async def main() -> None:
        unlimited = observe(flavour.pool(redis_server, False, max_connections=2**31))
        assert {catalog.MAX.name, catalog.IDLE_MAX.name} <= unlimited.omits
        assert catalog.ACQUIRE_TIMEOUT.name in unlimited.omits
        limited = observe(flavour.pool(redis_server, timeout=1))
        assert not {catalog.MAX.name, catalog.ACQUIRE_TIMEOUT.name} & limited.omits
        patient = observe(flavour.pool(redis_server, timeout=None))
        assert catalog.ACQUIRE_TIMEOUT.name in patient.omits

    run(main())


def test_an_observed_pool_is_collected_as_before(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def gone(observed: bool) -> bool:
        """Tell whether it goes without the collector, which some versions need themselves."""
        pool = flavour.pool(redis_server)
        if observed:
            observe(pool)
        await act(pool.release(await flavour.get(pool)))
        await act(pool.disconnect())
        alive = weakref.ref(pool)
        del pool
        return alive() is None

    async def main() -> None:
        gc.collect()
        gc.disable()
        try:
            assert await gone(observed=True) == await gone(observed=False)
        finally:
            gc.enable()
        gc.collect()
        assert found(redis_server) == []

    run(main())


def test_what_is_replaced_looks_as_before(flavour: Flavour) -> None:
    def functions() -> list[Any]:
        found = [each for kind in flavour.classes for each in vars(kind).items()]
        return [(name, value) for name, value in found if inspect.isfunction(value)]

    before = functions()
    instrument(flavour.library)
    after = functions()
    assert before != after
    assert [name for name, _ in before] == [name for name, _ in after]
    for (_, was), (_, is_) in zip(before, after, strict=True):
        assert inspect.signature(is_) == inspect.signature(was)
        # Some versions hide one behind a decorator.
        assert inspect.iscoroutinefunction(is_) >= inspect.iscoroutinefunction(was)


def test_a_version_that_differs_is_left_alone_with_one_line(
    flavour: Flavour,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Unknown(Redis):
        name = flavour.library
        client = flavour.library.title()

    async def main() -> None:
        pool = flavour.pool(redis_server)
        with monkeypatch.context() as patch:
            patch.delattr(flavour.package.ConnectionPool, "make_connection")
            library = Unknown()
            assert not library.instrument()
            assert library.observe(pool, None) is None
        for attribute in ("_connections", "_available_connections"):
            pool.__dict__.pop(attribute, None)
        assert library.observe(pool, None) is None
        library.uninstrument()

    run(main())
    (warning,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert "are not observed" in warning.getMessage()


def test_a_forked_child_counts_what_is_its_own(flavour: Flavour, redis_server: RedisServer) -> None:
    async def use(pool: Any) -> None:
        await act(pool.release(await flavour.get(pool)))

    async def prepare(pool: Any) -> Any:
        """Leave one idle; return one that is lent."""
        idle, lent = await flavour.get(pool), await flavour.get(pool)
        await act(pool.release(idle))
        return lent

    def numbers(source: Any) -> list[int]:
        stats, metrics = source.stats(), source.metrics
        return [stats.idle, stats.in_use, metrics.acquired, metrics.opened]

    async def child(pool: Any, source: Any, told: int) -> None:
        before = numbers(source)
        if flavour.in_loop:
            pool.reset()  # nothing of a loop can be used by two processes
        await use(pool)
        os.write(told, json.dumps([before, numbers(source)]).encode())

    async def main() -> None:
        pool = flavour.pool(redis_server, max_connections=3)
        source = observe(pool)
        lent = await prepare(pool)
        ours, theirs = os.pipe()
        if (process := os.fork()) == 0:
            asyncio._set_running_loop(None)  # type: ignore[attr-defined]
            try:
                asyncio.run(child(pool, source, theirs))
            finally:
                os._exit(0)
        os.close(theirs)
        await asyncio.to_thread(os.waitpid, process, 0)
        told = os.read(ours, 1000)
        os.close(ours)
        assert json.loads(told) == [[0, 0, 0, 0], [1, 0, 1, 1]]
        assert numbers(source) == [1, 1, 2, 2]
        await say(lent, "PING")
        await act(pool.release(lent))
        assert numbers(source) == [2, 0, 2, 2]
        await act(pool.disconnect())

    run(main())


def test_subclasses_are_observed_too(flavour: Flavour, redis_server: RedisServer) -> None:
    class Late(flavour.package.BlockingConnectionPool):  # type: ignore[name-defined,misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.is_ready = True

    async def main() -> None:
        instrument(flavour.library)
        pool = Late.from_url(flavour.url(redis_server))
        await act(pool.release(await flavour.get(pool)))
        assert found(redis_server) == [f"127.0.0.1:{redis_server.port}/0"]
        assert observe(pool).metrics.acquired == observe(pool).metrics.opened == 1
        await act(pool.disconnect())
        await until(lambda: not redis_server.clients())

    run(main())


def test_leases_have_spans_of_nobody_else(flavour: Flavour, redis_server: RedisServer) -> None:
    """OpenTelemetry's own instrumentation tells of commands; requests are told once."""
    redis_instrumentation = pytest.importorskip("opentelemetry.instrumentation.redis")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    if flavour.library != "redis":
        pytest.skip("it knows redis-py alone")
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    official = redis_instrumentation.RedisInstrumentor()
    official.instrument(tracer_provider=provider)

    async def main() -> None:
        async with stage(flavour, redis_server) as on:
            client = flavour.client(connection_pool=on.pool)
            await act(client.set("number", 1))
            assert len(on.of(ConnectionAcquired)) == 1

    try:
        run(main())
    finally:
        official.uninstrument()
    assert [span.name for span in exporter.get_finished_spans()] == ["SET"]
