"""Redis in both modes: one client is one connection, whatever is done with it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

import pytest
import redis

from poolscope.connectors import for_asyncio, for_threads
from poolscope.errors import ConnectFailedError, PoolTimeoutError
from poolscope.events import CloseReason, ConnectionClosed
from poolscope.faults import classify
from poolscope.opening import create_pool, create_sync_pool
from poolscope.pool import ConnectionPool
from poolscope.reasons import ConnectFault
from poolscope.sync_pool import SyncConnectionPool
from poolscope.testing.redis import RedisServer
from tests.connectors.kinds import count, settled
from tests.support import run

CANARY = "can" + "ary"
IMPATIENT: dict[str, Any] = {"max_size": 1, "acquire_timeout": 0.5, "validate_timeout": 0.2}
STRANGE = "s/e?c#r:e@t %&=+"


@contextmanager
def paused(server: RedisServer) -> Iterator[None]:
    """A server that hangs, for a short time."""
    began = time.monotonic()
    server.pause()
    try:
        yield
        assert time.monotonic() - began < 2.0
    finally:
        server.resume()


def closed(pool: ConnectionPool[Any] | SyncConnectionPool[Any]) -> list[CloseReason]:
    reasons: list[CloseReason] = []
    pool.bus.subscribe(lambda event: reasons.append(event.reason), ConnectionClosed)
    return reasons


def test_a_pool_lends_clients_of_one_connection_each(redis_server):
    async def main() -> None:
        async with await create_pool(redis_server.url, max_size=1) as pool:
            assert await count(redis_server) == 1  # opened, before anybody asked
            for _ in range(3):
                async with pool.connection() as client:
                    assert await client.echo("42") == b"42"
                    async with client.pipeline() as pipeline:
                        assert await pipeline.set("a", 1).get("a").execute() == [True, b"1"]
                    assert await asyncio.gather(client.get("a"), client.echo("b")) == [b"1", b"b"]
                    assert await count(redis_server) == 1
        await settled(redis_server, 0)

    run(main())


def test_a_transaction_that_watches_can_use_the_client_itself(redis_server):
    async def main() -> None:
        async with await create_pool(redis_server.url, max_size=1) as pool:
            async with pool.connection() as client, client.pipeline() as pipeline:
                await pipeline.watch("n")
                seen = int(await client.get("n") or 0)
                pipeline.multi()
                assert await pipeline.set("n", seen + 1).execute() == [True]
            async with pool.connection() as client:
                pipelines = [client.pipeline().incr("n").incr("n") for _ in range(5)]
                replies = await asyncio.gather(*(each.execute() for each in pipelines))
                assert all(second == first + 1 for first, second in replies)

    run(main())


def test_a_pipeline_left_in_the_middle_does_not_reach_the_next_borrower(redis_server):
    async def main() -> None:
        async with await create_pool(redis_server.url, max_size=1) as pool:
            reasons = closed(pool)
            async with pool.connection() as client:
                pipeline = client.pipeline()
                await pipeline.watch("n")
            async with pool.connection() as client:
                assert await client.echo("42") == b"42"
            assert reasons == [CloseReason.RESET]
            pipeline.connection = None

    run(main())


@pytest.mark.parametrize("in_use", [False, True])
def test_a_connection_the_server_killed_is_replaced(redis_server, in_use):
    async def main() -> None:
        async with await create_pool(redis_server.url, max_size=1) as pool:
            reasons = closed(pool)
            async with pool.connection() as client:
                first = await client.client_id()
                if in_use:
                    await asyncio.to_thread(redis_server.disconnect, first)
                    with pytest.raises(redis.ConnectionError):
                        await client.get("a")
            if not in_use:
                await asyncio.to_thread(redis_server.disconnect, first)
            async with pool.connection() as client:
                assert await client.client_id() != first
            assert reasons == [CloseReason.RESET if in_use else CloseReason.VALIDATION]

    run(main())


def test_the_reply_to_a_cancelled_command_never_reaches_the_next_borrower(redis_server):
    async def main() -> None:
        async with await create_pool(redis_server.url, max_size=1) as pool:
            for number in range(10):
                with suppress(TimeoutError):  # redis-py may swallow a cancellation
                    async with asyncio.timeout(0.001), pool.connection() as client:
                        for _ in range(100):
                            await client.echo("of another")
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001), pool.connection() as client:
                        await client.blpop("nothing", timeout=1)
                async with pool.connection() as client:
                    assert await client.echo(str(number)) == str(number).encode()
        await settled(redis_server, 0)

    run(main())


def test_a_reply_nobody_has_read_never_reaches_the_next_borrower(redis_server):
    async def main() -> None:
        async with await create_pool(redis_server.url, max_size=1) as pool:
            reasons = closed(pool)
            async with pool.connection() as client:
                await client.connection.send_command("ECHO", "of another")
                await count(redis_server)  # a round trip later it has arrived
            async with pool.connection() as client:
                assert await client.echo("42") == b"42"
            assert reasons == [CloseReason.RESET]

    run(main())


def test_a_check_that_waits_for_a_server_that_hangs_is_cut_short(redis_server):
    async def main() -> None:
        async with await create_pool(redis_server.url, **IMPATIENT) as pool:
            reasons = closed(pool)
            with paused(redis_server), pytest.raises(PoolTimeoutError):
                await pool.acquire()
            assert reasons == [CloseReason.VALIDATION]
            async with pool.connection(timeout=10) as client:
                assert await client.echo("42") == b"42"

    run(main())
    with create_sync_pool(redis_server.url, **IMPATIENT) as pool:
        reasons = closed(pool)
        with paused(redis_server), pytest.raises(PoolTimeoutError):
            pool.acquire()
        assert reasons == [CloseReason.VALIDATION]
        with pool.connection(timeout=10) as client:
            assert client.echo("42") == b"42"


def test_a_wrong_password_is_told_as_such_and_not_repeated(redis_server):
    url = f"redis://:{CANARY}@127.0.0.1:{redis_server.port}"

    async def main() -> None:
        with pytest.raises(ConnectFailedError) as failed:
            await create_pool(url, retry_limit=0)
        assert failed.value.__cause__ is not None
        assert classify(failed.value.__cause__) is ConnectFault.AUTH
        assert CANARY not in str(failed.value)
        await settled(redis_server, 0)

    run(main())
    with pytest.raises(redis.RedisError) as refused:
        for_threads(url).factory()
    assert classify(refused.value) is ConnectFault.AUTH


def test_a_quoted_password_arrives_as_it_was(redis_server):
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.acl_setuser("us@r/", enabled=True, passwords=[f"+{STRANGE}"], commands=["+@all"])
    host = f"127.0.0.1:{redis_server.port}"
    url = f"redis://{quote('us@r/', safe='')}:{quote(STRANGE, safe='')}@{host}/0"

    async def main() -> None:
        recipe = for_asyncio(url)
        client = await recipe.factory()
        assert await client.acl_whoami() in ("us@r/", b"us@r/")
        await recipe.close_func(client)

    run(main())
    recipe = for_threads(url)
    client = recipe.factory()
    assert client.acl_whoami() in ("us@r/", b"us@r/")
    recipe.close_func(client)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # redis-py's own
def test_a_cancelled_connect_leaves_no_connection(redis_server):
    async def main() -> None:
        recipe = for_asyncio(redis_server.url)
        for steps in range(12):
            connecting = asyncio.ensure_future(recipe.factory())
            for _ in range(steps):
                await asyncio.sleep(0)
            connecting.cancel()
            await asyncio.wait({connecting})
            if not connecting.cancelled():
                await recipe.close_func(connecting.result())
        await settled(redis_server, 0)

    run(main())


# For threads


def test_a_client_for_threads_is_one_connection(redis_server):
    recipe = for_threads(redis_server.url)
    client = recipe.factory()
    assert len(redis_server.clients()) == 1
    with client.pipeline() as pipeline:
        assert pipeline.set("a", 1).get("a").execute() == [True, b"1"]
    with client.pipeline() as pipeline:
        pipeline.watch("a")
        assert client.get("a") == b"1"
        pipeline.multi()
        assert pipeline.incr("a").execute() == [2]
    assert len(redis_server.clients()) == 1
    recipe.reset_func(client)
    assert recipe.validate_func(client)
    recipe.close_func(client)
    assert redis_server.clients() == []


def test_a_client_for_threads_that_cannot_be_lent_again_is_refused(redis_server):
    recipe = for_threads(redis_server.url)

    client = recipe.factory()
    client.connection.send_command("ECHO", "of another")
    redis_server.clients()  # a round trip later it has arrived
    with pytest.raises(Exception, match="middle of a command"):
        recipe.reset_func(client)
    recipe.close_func(client)

    client = recipe.factory()
    pipeline = client.pipeline()
    pipeline.watch("a")
    with pytest.raises(Exception, match="or a pipeline"):
        recipe.reset_func(client)
    pipeline.reset()
    recipe.reset_func(client)
    recipe.close_func(client)

    client = recipe.factory()
    redis_server.disconnect(client.client_id())
    with pytest.raises(redis.ConnectionError):
        recipe.validate_func(client)
    assert not recipe.validate_func(client)
    with pytest.raises(Exception, match="was lost"):
        recipe.reset_func(client)
    recipe.close_func(client)
    assert redis_server.clients() == []
