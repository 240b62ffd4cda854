"""Connections that redis-py and valkey-py open and close by themselves, and what is told of them.

What is lent stays in use until it is given back, whatever becomes of its socket.
"""

import asyncio
from typing import Any

import pytest

from poolscope.events import (
    CloseReason,
    ConnectFailed,
    ConnectionClosed,
    ConnectionDetached,
    ConnectionOpened,
    ConnectStarted,
)
from poolscope.testing.redis import RedisServer
from tests.instrument.redis.stage import Flavour, act, blocked, kill, number, say, stage, until
from tests.support import run

BLOCKING = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "plain"])


async def break_(flavour: Flavour, server: RedisServer, connection: Any) -> None:
    """Have a connection find that the server ended it."""
    await kill(server, connection)
    with pytest.raises((flavour.errors.ConnectionError, OSError)):
        await say(connection, "PING")


@BLOCKING
def test_what_breaks_while_it_is_lent_is_in_use_until_it_is_given_back(
    flavour: Flavour, redis_server: RedisServer, blocking: bool
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server, blocking) as on:
            connection = await on.get()
            await break_(flavour, redis_server, connection)
            assert on.levels() == (0, 1, 0, 0)
            assert on.closed() == []
            on.events.clear()
            await on.give(connection)
            assert on.closed() == [CloseReason.BROKEN]
            assert on.kinds() == ["ConnectionReleased", "ConnectionClosed"]
            assert on.levels() == (0, 0, 0, 0)

    run(main())


@BLOCKING
def test_what_connects_anew_while_it_is_lent_is_another_connection(
    flavour: Flavour, redis_server: RedisServer, blocking: bool
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server, blocking) as on:
            connection = await on.get()
            (first,) = on.of(ConnectionOpened)
            await break_(flavour, redis_server, connection)
            on.events.clear()
            await say(connection, "PING")
            (connect,), (closed,) = on.of(ConnectStarted), on.of(ConnectionClosed)
            assert connect.request_id == 0
            assert (closed.connection_id, closed.reason) == (first.connection_id, "broken")
            assert on.kinds() == ["ConnectStarted", "ConnectionClosed", "ConnectionOpened"]
            assert on.levels() == (0, 1, 0, 0)
            assert len(redis_server.clients()) == 1
            await on.give(connection)
            assert on.levels() == (1, 0, 0, 0)

    run(main())


def test_what_cannot_connect_anew_is_still_lent(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server) as on:
            connection = await on.get()
            redis_server.stop()
            try:
                with pytest.raises((flavour.errors.ConnectionError, OSError)):
                    await say(connection, "PING")
                with pytest.raises((flavour.errors.ConnectionError, OSError)):
                    await say(connection, "PING")
                assert on.of(ConnectFailed)
                assert on.levels() == (0, 1, 0, 0)
                await on.give(connection)
                assert on.closed() == [CloseReason.BROKEN]
                assert on.levels() == (0, 0, 0, 0)
            finally:
                redis_server.start()
            connection = await on.get()
            assert on.levels() == (0, 1, 0, 0)
            await on.give(connection)

    run(main())


def test_an_answer_that_comes_too_late_leaves_a_connection_dirty(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server, socket_timeout=0.05) as on:
            connection = await on.get()
            with pytest.raises(flavour.errors.TimeoutError):
                await say(connection, "BLPOP", "nothing", "0")
            await on.give(connection)
            assert on.closed() == [CloseReason.DIRTY]

    run(main())


@BLOCKING
def test_disconnecting_a_pool_outdates_its_connections_but_does_not_end_it(
    flavour: Flavour, redis_server: RedisServer, blocking: bool
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server, blocking) as on:
            idle, lent = await on.get(), await on.get()
            await on.give(idle)
            await act(on.pool.disconnect())
            assert on.levels() == (0, 1, 0, 0)
            await on.give(lent)
            assert on.closed() == [CloseReason.STALE] * 2
            assert on.levels() == (0, 0, 0, 0)
            await until(lambda: not redis_server.clients())
            assert on.source.state == "open"
            await on.give(await on.get())
            assert on.levels() == (1, 0, 0, 0)

    run(main())


@BLOCKING
def test_a_pool_that_is_closed_is_observed_until_its_last_lease_ends(
    flavour: Flavour, redis_server: RedisServer, blocking: bool
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server, blocking) as on:
            idle, lent = await on.get(), await on.get()
            await on.give(idle)
            await act((getattr(on.pool, "aclose", None) or on.pool.close)())
            assert on.source.state == "open"
            on.events.clear()
            await on.give(lent)
            assert on.kinds() == ["ConnectionReleased", "ConnectionClosed", "PoolClosed"]
            metrics = on.source.metrics
            assert [*metrics.closed.elements()] == [CloseReason.POOL_CLOSED] * 2
            assert metrics.opened == 2
            assert on.source.state == "closed"

    run(main())


def test_a_client_closes_its_own_pool(flavour: Flavour, redis_server: RedisServer) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server) as on:
            client = flavour.client.from_pool(on.pool)
            await act(client.set("number", 1))
            await act((getattr(client, "aclose", None) or client.close)())
            assert on.closed() == [CloseReason.POOL_CLOSED]
            assert on.source.state == "closed"

    run(main())


@BLOCKING
def test_a_pool_that_is_reset_lets_go_of_all_it_has(
    flavour: Flavour, redis_server: RedisServer, blocking: bool
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server, blocking) as on:
            idle, lent = await on.get(), await on.get()
            await on.give(idle)
            on.pool.reset()
            assert on.levels() == (0, 0, 0, 0)
            assert on.closed() == [CloseReason.STALE]
            assert len(on.of(ConnectionDetached)) == 1
            for each in (idle, lent):
                await act(each.disconnect())
            await on.give(await on.get())
            assert on.levels() == (1, 0, 0, 0)
            assert on.source.metrics.opened == 3
            assert len(on.closed()) == 1

    run(main())


def test_a_cancelled_command_leaves_its_connection_dirty(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    if not flavour.in_loop:
        pytest.skip("threads are not cancelled")

    async def main() -> None:
        async with stage(flavour, redis_server) as on:
            client = flavour.client(connection_pool=on.pool)
            asking = asyncio.create_task(client.blpop("nothing", 0))
            await until(lambda: blocked(redis_server) == 1)
            for _ in range(10):  # until it waits: before, Python 3.11 may lose the cancellation
                await asyncio.sleep(0)
            assert on.levels() == (0, 1, 0, 0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert on.closed() == [CloseReason.DIRTY]
            assert on.levels() == (0, 0, 0, 0)
            await until(lambda: not redis_server.clients())

    run(main())


def test_a_socket_that_stays_open_after_a_bad_greeting_is_counted(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    class Rude(Exception):
        pass

    def greet(connection: Any) -> Any:
        raise Rude

    async def main() -> None:
        options = {f"{flavour.library}_connect_func": greet}
        async with stage(flavour, redis_server, not flavour.in_loop, **options) as on:
            with pytest.raises(Rude):
                await on.get()
            assert len(redis_server.clients()) == sum(on.levels()) == 1
            assert on.source.metrics.opened == 1

    run(main())


def test_what_the_server_shows_is_what_is_known_of_a_busy_pool(
    flavour: Flavour, redis_server: RedisServer
) -> None:
    async def main() -> None:
        async with stage(flavour, redis_server, max_connections=3) as on:
            lent = [await on.get() for _ in range(3)]
            numbers = {await number(each) for each in lent}
            await on.give(lent.pop())
            assert on.levels() == (1, 2, 0, 0)
            assert {each.id for each in redis_server.clients()} == numbers
            for each in lent:
                await on.give(each)

    run(main())
