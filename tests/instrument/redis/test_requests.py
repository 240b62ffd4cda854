"""Requests of pools of redis-py and valkey-py, and their outcomes.

Where a connect fails under asyncio, the pool is a plain one: the blocking one of redis-py 5.0 then
waits for itself.
"""

import asyncio
import logging
import random
import select
import socket
from importlib import import_module
from importlib.metadata import version
from inspect import signature
from typing import Any

import pytest

from poolscope.events import (
    AcquireFailed,
    AcquireSource,
    AcquireTimedOut,
    CloseReason,
    ConnectFailed,
    ConnectFault,
    ConnectionAcquired,
    ConnectionReleased,
    ConnectStarted,
    FailureReason,
)
from poolscope.testing.redis import RedisServer
from tests.instrument.redis.stage import Flavour, act, number, say, stage, until
from tests.support import run

OPENING = ["ConnectionRequested", "RequestQueued", "ConnectStarted", "ConnectionOpened"]


@pytest.mark.parametrize("blocking", [True, False])
def test_a_cycle_is_a_request_a_connect_and_a_lease(
    flavour: Flavour, redis_server: RedisServer, blocking: bool
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server, blocking) as on:
            connection = await on.get()
            assert on.levels() == (0, 1, 0, 0)
            (connect,) = on.of(ConnectStarted)
            assert connect.request_id == on.of(ConnectionAcquired)[0].request_id
            await on.give(connection)
            assert on.levels() == (1, 0, 0, 0)
            assert on.kinds() == [*OPENING, "ConnectionAcquired", "ConnectionReleased"]
            assert await on.get() is connection
            (acquired,) = on.of(ConnectionAcquired)
            assert acquired.source is AcquireSource.IDLE
            await on.give(connection)
            assert on.kinds() == ["ConnectionRequested", "ConnectionAcquired", "ConnectionReleased"]
            assert on.source.metrics.connection_requests == 2

    run(main())


def test_who_waits_for_a_release_is_handed_the_connection(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server, max_connections=1) as on:
            connection = await on.get()
            on.events.clear()
            waiting = flavour.get_aside(on.pool)
            await on.comes((0, 1, 0, 1))
            await until(lambda: len(on.events) == 3)
            assert on.kinds() == ["ConnectionRequested", "RequestQueued", "SaturationStarted"]
            await on.give(connection)
            assert await waiting is connection
            (acquired,) = on.of(ConnectionAcquired)
            assert acquired.source is AcquireSource.HANDOFF
            assert on.kinds() == ["ConnectionReleased", "SaturationEnded", "ConnectionAcquired"]
            await on.give(connection)

    run(main())


def test_a_request_that_waits_too_long_times_out(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server, max_connections=1, timeout=0.02) as on:
            connection = await on.get()
            with pytest.raises(flavour.errors.ConnectionError, match="No connection available"):
                await on.get()
            (event,) = on.of(AcquireTimedOut)
            assert event.wait >= 0.02
            assert event.stats.in_use == event.stats.max_size == 1
            await on.give(connection)
            assert on.levels() == (1, 0, 0, 0)
            assert on.source.stats().acquire_timeout == 0.02

    run(main())


def test_a_plain_pool_never_waits_and_refuses_what_is_too_much(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server, blocking=False) as on:
            lent = [await on.get(), await on.get()]
            on.events.clear()
            with pytest.raises(flavour.errors.ConnectionError, match="Too many connections"):
                await on.get()
            (failed,) = on.of(AcquireFailed)
            assert failed.reason is FailureReason.QUEUE_FULL
            assert on.kinds() == ["ConnectionRequested", "AcquireFailed"]
            for each in lent:
                await on.give(each)

    run(main())


def test_a_refused_connect_fails_its_request(flavour: Flavour, redis_server: RedisServer) -> None:
    async def main() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            async with stage(flavour, redis_server, not flavour.in_loop) as on:
                on.pool.connection_kwargs["port"] = closed.getsockname()[1]
                with pytest.raises(flavour.errors.ConnectionError) as caught:
                    await on.get()
                (failed,), (connect, *_) = on.of(AcquireFailed), on.of(ConnectFailed)
                assert failed.reason is FailureReason.CONNECT_FAILED
                assert failed.error is caught.value
                assert connect.fault is ConnectFault.REFUSED
                assert on.levels() == (0, 0, 0, 0)

    run(main())


def test_a_wrong_password_is_a_fault_of_its_own(
    flavour: Flavour, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server, not flavour.in_loop, password="c4n4ry") as on:
            on.pool.connection_kwargs["password"] = "c4n4ry"
            with pytest.raises(flavour.errors.AuthenticationError):
                await on.get()
            assert {event.fault for event in on.of(ConnectFailed)} == {ConnectFault.AUTH}
            await until(lambda: not redis_server.clients())
            assert on.levels() == (0, 0, 0, 0)
            told = [on.source, on.source.metrics.to_json(), on.source.stats(), on.events]
            assert "c4n4ry" not in repr(told)

    with caplog.at_level(logging.DEBUG, "poolscope"):
        run(main())
    assert "c4n4ry" not in caplog.text


def test_a_connect_that_takes_too_long_fails_its_request(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server, not flavour.in_loop, socket_timeout=0.05) as on:
            redis_server.pause()
            try:
                with pytest.raises(flavour.errors.TimeoutError):
                    await on.get()
            finally:
                redis_server.resume()
            (failed,) = on.of(AcquireFailed)
            assert failed.reason is FailureReason.CONNECT_FAILED
            assert {event.fault for event in on.of(ConnectFailed)} == {ConnectFault.TIMEOUT}
            assert on.levels() == (0, 0, 0, 0)

    run(main())


def test_a_connection_found_dead_is_replaced_within_the_request(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server, **watchful(flavour)) as on:
            connection = await on.get()
            doomed = await number(connection)
            await on.give(connection)
            redis_server.disconnect(doomed)
            await until_at_end(connection)
            on.events.clear()
            assert await on.get() is connection
            if flavour.in_loop and version(flavour.library).startswith("5.0."):
                assert on.levels() == (0, 1, 0, 0)
                return await on.give(connection)  # it has not looked
            assert on.closed() == [CloseReason.VALIDATION]
            assert on.levels() == (0, 1, 0, 0)
            opening = ["ConnectionClosed", *OPENING[1:]]
            assert on.kinds() == ["ConnectionRequested", *opening, "ConnectionAcquired"]
            await on.give(connection)

    async def until_at_end(connection: Any) -> None:
        if flavour.in_loop:
            await until(connection._reader.at_eof)
        else:
            readable, _, _ = select.select([connection._sock], [], [], 10)
            assert readable

    run(main())


def watchful(flavour: Flavour) -> dict[str, Any]:
    """Have the pool look at what it lends, which it does not where notices may come at any time."""
    kind = flavour.package.connection.AbstractConnection
    if "maint_notifications_config" not in signature(kind.__init__).parameters:
        return {}
    notices = import_module(f"{flavour.library}.maint_notifications")
    return {"maint_notifications_config": notices.MaintNotificationsConfig(enabled=False)}


def test_an_acquire_given_up_counts_as_cancelled(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    if not flavour.in_loop:
        pytest.skip("threads are not cancelled")

    async def main() -> None:
        async with stage(flavour, redis_server, max_connections=1) as on:
            connection = await on.get()
            waiting = flavour.get_aside(on.pool)
            await on.comes((0, 1, 0, 1))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            (failed,) = on.of(AcquireFailed)
            assert failed.reason is FailureReason.CANCELLED
            await on.give(connection)
            assert on.levels() == (1, 0, 0, 0)

    run(main())


def test_a_connect_given_up_is_abandoned(flavour: Flavour, redis_server: RedisServer) -> None:
    if not flavour.in_loop:
        pytest.skip("threads are not cancelled")

    async def main() -> None:
        async with stage(flavour, redis_server) as on:
            redis_server.pause()
            try:
                connecting = flavour.get_aside(on.pool)
                await on.comes((0, 0, 1, 1))
                for _ in range(10):  # until it waits for the server
                    await asyncio.sleep(0)
                connecting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await connecting
            finally:
                redis_server.resume()
            (failed,) = on.of(ConnectFailed)
            assert failed.fault is ConnectFault.ABANDONED
            assert on.source.metrics.connection_cancellations == 1
            assert on.levels() == (0, 0, 0, 0)
            await until(lambda: not redis_server.clients())

    run(main())


def test_whatever_a_client_borrows_is_a_lease(flavour: Flavour, redis_server: RedisServer) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server) as on:
            client = flavour.client(connection_pool=on.pool)
            metrics = on.source.metrics
            await act(client.set("number", 1))
            assert metrics.acquired == metrics.released == 1
            pipeline = client.pipeline()
            await act(pipeline.watch("number"))
            assert on.levels() == (0, 1, 0, 0)
            pipeline.multi()
            pipeline.incr("number")
            assert await act(pipeline.execute()) == [2]
            assert metrics.acquired == metrics.released == 2
            lock = client.lock("lock", timeout=5)
            assert await act(lock.acquire())
            await act(lock.release())
            assert on.levels() == (1, 0, 0, 0)
            pubsub = client.pubsub()
            await act(pubsub.subscribe("news"))
            assert on.levels() == (0, 1, 0, 0)
            await act((getattr(pubsub, "aclose", None) or pubsub.close)())
            assert on.levels() == (0, 0, 0, 0)
            assert [*metrics.closed.elements()] == ["dirty"]
            assert metrics.acquired == metrics.released
            await act((getattr(client, "aclose", None) or client.close)())
            assert on.source.state == "open", "the pool is not the client's"

    run(main())


def test_a_client_of_one_connection_holds_it_until_it_is_closed(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server) as on:
            client = flavour.client(connection_pool=on.pool, single_connection_client=True)
            await act(client.set("number", 1))
            await act(client.get("number"))
            assert on.levels() == (0, 1, 0, 0)
            assert len(on.of(ConnectionAcquired)) == 1
            await act((getattr(client, "aclose", None) or client.close)())
            assert len(on.of(ConnectionReleased)) == 1
            assert on.levels() == (1, 0, 0, 0)

    run(main())


def test_what_a_random_crowd_gives_up_and_breaks_is_what_the_server_shows(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    if flavour.in_loop and version(flavour.library).startswith("5.0."):
        pytest.skip("what is given up while it connects blocks its pool")
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)

    async def use(on: Any) -> None:
        try:
            connection = await (on.get() if flavour.in_loop else flavour.get_aside(on.pool))
        except flavour.errors.ConnectionError:
            return
        try:
            if rng.random() < 0.2:
                await act(connection.disconnect())
            if rng.random() < 0.8:
                await say(connection, "PING")
            await asyncio.sleep(rng.random() * 0.002)
        finally:
            await asyncio.shield(asyncio.ensure_future(on.give(connection)))

    async def main() -> None:
        async with stage(flavour, redis_server, max_connections=3, timeout=0.01) as on:
            for _ in range(8):
                tasks = [asyncio.create_task(use(on)) for _ in range(8)]
                for task in tasks:
                    if flavour.in_loop and rng.random() < 0.3:
                        asyncio.get_running_loop().call_later(rng.random() * 0.01, task.cancel)
                await asyncio.wait(tasks)
                await asyncio.sleep(0)
                idle = on.levels()[0]
                await until(lambda: len(redis_server.clients()) == on.levels()[0])
                assert on.levels() == (idle, 0, 0, 0), f"seed {seed}"
            metrics = on.source.metrics
            assert metrics.connection_requests == 64
            assert metrics.acquired == metrics.released, f"seed {seed}"
            assert metrics.opened == metrics.closed.total() + idle, f"seed {seed}"

    run(main())
