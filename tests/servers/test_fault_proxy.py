import asyncio
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
import redis.asyncio

from poolscope.testing.redis import RedisServer
from tests.servers.proxy import FaultProxy
from tests.servers.traces import soon
from tests.support import run
from tests.telemetry.certificates import Certificates

SOON = 0.1
"""Seconds in which a server answers, and after which one that has not will not."""


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def url(redis_server: RedisServer, proxy: FaultProxy) -> str:
    return proxy.through(redis_server.url)


def connected(url: str, timeout: float = SOON) -> redis.Redis:
    """A client with one connection, which makes no second attempt."""
    return redis.Redis.from_url(
        url, single_connection_client=True, retry=None, socket_timeout=timeout
    )


def test_all_passes_both_ways_and_ends_pass_as_well(
    redis_server: RedisServer, proxy: FaultProxy, url: str
) -> None:
    word = "word" * 100_000
    with closing(connected(url, 10)) as client:
        client.set("word", word)
        assert client.get("word") == word.encode()
        assert proxy.open == len(redis_server.clients()) == 1
    assert soon(lambda: proxy.open == 0)
    assert soon(lambda: redis_server.clients() == [])
    with closing(connected(url, 10)) as client:
        redis_server.disconnect(*(seen.id for seen in redis_server.clients()))
        assert soon(lambda: proxy.open == 0)
        with pytest.raises(redis.ConnectionError):
            client.ping()


def test_refusing_it_lets_nobody_in_and_keeps_who_is_there(proxy: FaultProxy, url: str) -> None:
    with closing(connected(url)) as client:
        proxy.refuse()
        with pytest.raises(redis.ConnectionError, match="refused"):
            connected(url)
        assert client.ping()
        proxy.heal()
        with closing(connected(url)) as another:
            assert another.ping()


def test_deaf_it_takes_new_connections_and_leaves_them_alone(
    redis_server: RedisServer, proxy: FaultProxy, url: str
) -> None:
    with closing(connected(url)) as client:
        proxy.deafen()
        with pytest.raises(redis.TimeoutError):
            connected(url)
        assert client.ping()
        assert len(redis_server.clients()) == 1
        proxy.heal()
        with closing(connected(url)) as another:
            assert another.ping()


def test_stalled_it_holds_all_back_even_the_end(
    redis_server: RedisServer, proxy: FaultProxy, url: str
) -> None:
    with closing(connected(url)) as client:
        proxy.stall()
        with pytest.raises(redis.TimeoutError):
            client.ping()
    assert len(redis_server.clients()) == proxy.open == 1
    proxy.heal()
    assert soon(lambda: redis_server.clients() == [])
    assert proxy.open == 0


def test_a_reset_strikes_both_sides_of_what_is_open(
    redis_server: RedisServer, proxy: FaultProxy, url: str
) -> None:
    with closing(connected(url)) as client:
        proxy.reset()
        assert proxy.open == 0
        assert soon(lambda: redis_server.clients() == [])
        with pytest.raises(redis.ConnectionError, match="reset"):
            client.ping()
        with closing(connected(url)) as another:
            assert another.ping()


def test_a_server_that_is_gone_resets_who_connects(redis_server: RedisServer, url: str) -> None:
    redis_server.stop()
    try:
        with pytest.raises(redis.ConnectionError):
            connected(url)
    finally:
        redis_server.start()
    with closing(connected(url)) as client:
        assert client.ping()


def test_tasks_may_use_it_and_a_delay_holds_in_each_direction(proxy: FaultProxy, url: str) -> None:
    async def scenario() -> float:
        loop = asyncio.get_running_loop()
        async with redis.asyncio.Redis.from_url(url, single_connection_client=True) as client:
            await client.ping()
            proxy.delay(SOON / 2)
            began = loop.time()
            await client.ping()
            took = loop.time() - began
            proxy.heal()
            began = loop.time()
            await client.ping()
            assert loop.time() - began < SOON
            return took

    assert run(scenario()) >= SOON


def test_clients_may_speak_tls_to_it(redis_server: RedisServer, tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.path("server.pem"), certificates.path("server.key"))
    with FaultProxy(redis_server.port, tls=context) as proxy:
        url = proxy.through(redis_server.url)
        assert url.startswith("rediss://")
        trusting = f"{url}?ssl_ca_certs={certificates.path('ca.pem')}"
        with closing(connected(trusting, 10)) as client:
            assert client.ping()
            proxy.reset()
            with pytest.raises(redis.ConnectionError):
                client.ping()
        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            connected(url, 10)
        with closing(connected(trusting, 10)) as client:
            assert client.ping()
