"""Redis behind TLS: `rediss://`."""

import ssl
import time
import traceback
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import redis

from poolscope.errors import ConnectFailedError, PoolTimeoutError
from poolscope.events import CloseReason, ConnectionClosed
from poolscope.opening import create_pool, create_sync_pool
from tests.servers.proxy import FaultProxy
from tests.support import run
from tests.telemetry.certificates import Certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def proxy(redis_server, certificates) -> Iterator[FaultProxy]:
    """The server, as seen by those who speak TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.path("server.pem"), certificates.path("server.key"))
    with FaultProxy(redis_server.port, tls=context) as proxy:
        yield proxy


def test_a_server_with_a_certificate_is_used_in_both_modes(redis_server, proxy, certificates):
    url = f"{proxy.through(redis_server.url)}?ssl_ca_certs={certificates.path('ca.pem')}"
    name = f"127.0.0.1:{proxy.port}/0"

    async def main() -> None:
        async with await create_pool(url) as pool, pool.connection() as client:
            assert pool.name == name
            assert await client.echo("42") == b"42"

    run(main())
    with create_sync_pool(url) as pool, pool.connection() as client:
        assert pool.name == name
        assert client.echo("42") == b"42"


def test_an_authority_may_be_named_by_options_of_the_driver(redis_server, proxy, certificates):
    url = proxy.through(redis_server.url)
    options = {"ssl_ca_certs": certificates.path("ca.pem")}

    async def main() -> None:
        async with (
            await create_pool(url, driver_options=options) as pool,
            pool.connection() as client,
        ):
            assert await client.ping()

    run(main())
    with create_sync_pool(url, driver_options=options) as pool, pool.connection() as client:
        assert client.ping()


def test_a_certificate_nobody_vouches_for_is_told_as_the_cause(redis_server, proxy):
    url = proxy.through(redis_server.url)

    async def main() -> None:
        with pytest.raises(ConnectFailedError) as failed:
            await create_pool(url, retry_limit=0)
        told(failed.value)

    def told(error: ConnectFailedError) -> None:
        assert isinstance(error.__cause__, redis.ConnectionError)
        text = "".join(traceback.format_exception(error))
        assert "The server's certificate was not signed by an authority known here" in text
        assert urlsplit(url).password not in text

    run(main())
    with pytest.raises(ConnectFailedError) as failed:
        create_sync_pool(url, retry_limit=0)
    told(failed.value)


def test_a_check_of_threads_through_a_dead_line_is_cut_short(redis_server, proxy, certificates):
    url = f"{proxy.through(redis_server.url)}?ssl_ca_certs={certificates.path('ca.pem')}"
    reasons: list[CloseReason] = []
    limits = {"acquire_timeout": 0.5, "validate_timeout": 0.2}
    with create_sync_pool(url, max_size=1, **limits) as pool:
        pool.bus.subscribe(lambda event: reasons.append(event.reason), ConnectionClosed)
        proxy.stall()
        began = time.monotonic()
        with pytest.raises(PoolTimeoutError):
            pool.acquire()
        assert time.monotonic() - began < 2.0
        assert reasons == [CloseReason.VALIDATION]
        proxy.heal()
        with pool.connection(timeout=10) as client:
            assert client.ping()
