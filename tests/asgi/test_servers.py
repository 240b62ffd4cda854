"""The middleware before real servers: all kinds of URLs, starts without them, a real uvicorn."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiomysql
import aiosqlite
import asyncpg
import httpx
import pytest
import uvicorn
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from poolscope.asgi import ConnectionPoolMiddleware
from poolscope.testing.mariadb import MariadbServer
from poolscope.testing.postgres import PostgresServer
from poolscope.testing.redis import RedisServer
from poolscope.testing.server import PrivateServer
from tests.asgi.serving import Server, StartFailedError, client_of, serving
from tests.support import run

READY = "/healthz"


async def database(request: Request) -> PlainTextResponse:
    pool = await request.state.pool_manager.get_pool("database")
    async with pool.connection() as connection:
        return PlainTextResponse(str(await ask(connection)))


async def ask(connection: Any) -> int:
    """Ask what 41 + 1 is, in the words of whatever driver this is of."""
    if isinstance(connection, asyncpg.Connection):
        return int(await connection.fetchval("select 41 + 1"))
    if isinstance(connection, aiomysql.Connection):
        async with connection.cursor() as cursor:
            await cursor.execute("select 41 + 1")
            return int((await cursor.fetchone())[0])
    if isinstance(connection, aiosqlite.Connection):
        return int((await connection.execute_fetchall("select 41 + 1"))[0][0])
    if isinstance(connection, AsyncConnection):
        return int((await connection.execute(text("select 41 + 1"))).scalar_one())
    assert isinstance(connection, Connection)
    result = await asyncio.to_thread(connection.execute, text("select 41 + 1"))
    return int(result.scalar_one())


async def redis(request: Request) -> PlainTextResponse:
    pool = await request.state.pool_manager.get_pool("redis")
    async with pool.connection() as client:
        await client.set("answer", 42)
        return PlainTextResponse((await client.get("answer")).decode())


def make_app(**options: Any) -> Starlette:
    app = Starlette(routes=[Route("/database", database), Route("/redis", redis)])
    app.add_middleware(ConnectionPoolMiddleware, readiness_path=READY, **options)
    return app


def url_of(server: PostgresServer | MariadbServer, scheme: str) -> str:
    return scheme + server.url.partition("://")[2]


async def answers(url: str) -> str:
    async with serving(make_app(database_url=url)) as client:
        texts = {r.text for r in await asyncio.gather(*(client.get("/database") for _ in range(5)))}
        (only,) = texts
        return only


def assert_left(server: PrivateServer) -> None:
    """See that the server has no client any more, as soon as it has noticed."""
    deadline = time.monotonic() + 5
    while server.clients() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.clients() == []


@pytest.mark.parametrize(
    "scheme",
    ["postgresql://", "postgres://", "postgresql+asyncpg://", "postgresql+psycopg://"],
)
def test_every_kind_of_postgresql_url_is_served(scheme: str, postgres: PostgresServer) -> None:
    assert run(answers(url_of(postgres, scheme))) == "42"
    assert_left(postgres)


@pytest.mark.parametrize("scheme", ["mysql://", "mysql+aiomysql://", "mysql+pymysql://"])
def test_every_kind_of_mysql_url_is_served(scheme: str, mariadb_server: MariadbServer) -> None:
    assert run(answers(url_of(mariadb_server, scheme))) == "42"
    assert_left(mariadb_server)


@pytest.mark.parametrize("scheme", ["sqlite:///", "sqlite+aiosqlite:///", "sqlite+pysqlite:///"])
def test_every_kind_of_sqlite_url_is_served(scheme: str, tmp_path: Path) -> None:
    assert run(answers(f"{scheme}{tmp_path}/shop.db")) == "42"


def test_database_and_redis_are_served_together(
    postgres: PostgresServer, redis_server: RedisServer
) -> None:
    async def main() -> None:
        app = make_app(database_url=postgres.url, redis_url=redis_server.url)
        async with serving(app) as client:
            assert (await client.get("/database")).text == "42"
            assert (await client.get("/redis")).text == "42"
            assert list((await client.get(READY)).json()["pools"]) == ["database", "redis"]

    run(main())
    assert_left(redis_server)
    assert_left(postgres)


@asynccontextmanager
async def stopped(server: PostgresServer) -> AsyncIterator[None]:
    await asyncio.to_thread(server.stop)
    try:
        yield
    finally:
        await asyncio.to_thread(server.start)


def test_a_start_without_the_database_fails_with_the_cause(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stopped(postgres):
            app = make_app(database_url=postgres.url, retry_delay=0.01)
            with pytest.raises(StartFailedError, match="4 times in a row") as failed:
                await Server(app).start()
            assert "The cause is ConnectionRefusedError (refused)" in str(failed.value)
            assert postgres.url not in str(failed.value)

    run(main())


def test_a_wrong_password_fails_the_start_as_such(postgres: PostgresServer) -> None:
    async def main() -> None:
        wrong = f"postgresql://geheim7f3a:wrong@127.0.0.1:{postgres.port}/postgres"
        with pytest.raises(StartFailedError, match=r"InvalidPasswordError \(auth\)") as failed:
            await Server(make_app(database_url=wrong, retry_limit=0)).start()
        assert "geheim7f3a" not in str(failed.value)

    run(main())


def test_a_database_that_is_not_required_may_come_later(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        app = make_app(database_url=postgres.url, required=False, retry_delay=0.05)
        server = Server(app)
        async with server.client() as client:
            async with stopped(postgres):
                await server.start()
                answer = await eventually(client, 503)
                assert "refused" in answer["pools"]["database"]["reason"]
            await eventually(client, 200)
            assert (await client.get("/database")).text == "42"
        await server.stop()

    run(main())
    assert postgres.url not in caplog.text


async def eventually(client: httpx.AsyncClient, status: int) -> Any:
    """Ask until the answer has this status and, if it is not ready, a fault to tell."""
    async with asyncio.timeout(10):
        while True:
            response = await client.get(READY)
            if response.status_code == status and "opening" not in response.text:
                return response.json()
            await asyncio.sleep(0.02)


def test_readiness_is_told_at_once_while_the_database_hangs(postgres: PostgresServer) -> None:
    async def main() -> None:
        app = make_app(database_url=postgres.url, max_connections=1, connection_timeout=0.5)
        async with serving(app) as client:
            await asyncio.to_thread(postgres.pause)
            try:
                hanging = asyncio.create_task(client.get("/database"))
                await asyncio.sleep(0.1)
                took = []
                for _ in range(5):
                    started = time.perf_counter()
                    assert (await client.get(READY)).status_code == 200
                    took.append(time.perf_counter() - started)
                assert min(took) < 0.05
                assert not hanging.done()
            finally:
                await asyncio.to_thread(postgres.resume)
            await asyncio.wait({hanging})
            hanging.exception()

    run(main())


def test_pools_serve_the_next_loop_when_one_ended_without_a_word(postgres: PostgresServer) -> None:
    pools = ConnectionPoolMiddleware(
        Starlette(routes=[Route("/database", database)]), database_url=postgres.url
    )

    async def without_end() -> None:
        async with client_of(pools) as client:
            assert (await client.get("/database")).text == "42"

    asyncio.run(without_end())
    asyncio.run(without_end())
    run(pools.shutdown())


@asynccontextmanager
async def uvicorn_serving(app: Any) -> AsyncIterator[str]:
    """A real uvicorn on a free port, in this loop."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, lifespan="on", log_config=None, log_level="error")
        server = uvicorn.Server(config)
        server.capture_signals = _no_signals  # type: ignore[method-assign]
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        async with asyncio.timeout(10):
            while not server.started and not serving.done():  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving


class _no_signals:
    def __init__(self) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_a_real_uvicorn_serves_and_leaves_no_connection(postgres: PostgresServer) -> None:
    async def main() -> None:
        app = make_app(database_url=postgres.url)
        async with uvicorn_serving(app) as address, httpx.AsyncClient(base_url=address) as client:
            requests = (client.get("/database") for _ in range(20))
            assert {r.text for r in await asyncio.gather(*requests)} == {"42"}
            assert (await client.get(READY)).json()["ready"] is True
            assert 1 <= len(await asyncio.to_thread(postgres.clients)) <= 20

    run(main())
    assert_left(postgres)


def test_a_real_uvicorn_does_not_start_without_the_database(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        wrong = f"postgresql://geheim7f3a:wrong@127.0.0.1:{postgres.port}/postgres"
        config = uvicorn.Config(make_app(database_url=wrong, retry_limit=0), log_config=None)
        server = uvicorn.Server(config)
        server.capture_signals = _no_signals  # type: ignore[method-assign]
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            with suppress(SystemExit):  # newer ones leave so
                await server.serve(sockets=[listener])
        assert not server.started

    run(main())
    assert "the pools cannot open: ConnectFailedError: pool 'database'" in caplog.text
    assert "geheim7f3a" not in caplog.text
