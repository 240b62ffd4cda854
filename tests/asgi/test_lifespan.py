import asyncio
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from poolscope import ConnectFailedError
from poolscope.asgi import ConnectionPoolMiddleware
from poolscope.bus import ROOT
from poolscope.events import ConnectFailed, ConnectStarted, PoolClosed, PoolOpened
from tests.asgi.serving import (
    CANARY,
    Server,
    StartFailedError,
    client_of,
    database_in,
    heard,
    raw,
    serving,
)
from tests.support import run


@pytest.fixture
def nowhere() -> Any:
    """A URL with a password, of a port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"postgresql://{CANARY}:{CANARY}@127.0.0.1:{taken.getsockname()[1]}/{CANARY}"


async def answer(request: Request) -> PlainTextResponse:
    pool = await request.state.pool_manager.get_pool("database")
    async with pool.connection() as connection:
        rows = await connection.execute_fetchall("select 42")
    return PlainTextResponse(str(rows[0][0]))


def starlette(lifespan: Any = None, **options: Any) -> Starlette:
    app = Starlette(routes=[Route("/", answer)], lifespan=lifespan)
    app.add_middleware(ConnectionPoolMiddleware, **options)
    return app


def test_pools_are_open_before_the_application_starts_and_closed_after_it_stopped(
    tmp_path: Path,
) -> None:
    told: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> Any:
        pool = await app.state.pool_manager.get_pool("database")
        async with pool.connection():
            told.append("app starts")
        yield {"greeting": "hello"}
        async with pool.connection():
            told.append("app stops")

    async def main() -> None:
        with heard(PoolOpened, PoolClosed) as events:
            app = starlette(lifespan, database_url=database_in(tmp_path))
            async with serving(app) as client:
                assert [type(event) for event in events] == [PoolOpened]
                assert (await client.get("/")).text == "42"
            assert told == ["app starts", "app stops"]
            assert [type(event) for event in events] == [PoolOpened, PoolClosed]

    run(main())


def test_the_state_of_the_lifespan_has_the_manager_before_the_application_runs(
    tmp_path: Path,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert await scope["state"]["pool_manager"].get_pool("database")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def main() -> None:
        server = Server(ConnectionPoolMiddleware(app, database_url=database_in(tmp_path)))
        await server.start()
        await server.stop()
        assert server.said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    run(main())


def test_a_start_without_its_server_fails_with_the_cause_and_without_a_secret(
    nowhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    started = []

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> Any:
        started.append(True)
        yield

    async def main() -> None:
        server = Server(starlette(lifespan, database_url=nowhere, retry_limit=0))
        with pytest.raises(StartFailedError, match="could not connect") as failed:
            await server.start()
        await server.lifespan
        assert "ConnectFailedError: pool 'database'" in str(failed.value)
        assert "The cause is ConnectionRefusedError (refused)." in str(failed.value)
        assert CANARY not in str(failed.value) + caplog.text

    run(main())
    assert not started


def test_what_was_opened_is_closed_when_another_pool_cannot_open(
    tmp_path: Path, nowhere: str
) -> None:
    redis = nowhere.replace("postgresql://", "redis://").rpartition("/")[0]

    async def main() -> None:
        with heard(PoolOpened, PoolClosed) as events:
            app = starlette(database_url=database_in(tmp_path), redis_url=redis, retry_limit=0)
            with pytest.raises(StartFailedError, match="pool 'redis' could not connect") as failed:
                await Server(app).start()
        assert CANARY not in str(failed.value)
        assert [e.pool for e in events if type(e) is PoolClosed][:1] == ["redis"]
        assert type(events[-1]) is PoolClosed
        assert events[-1].pool == "database"

    run(main())


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"mongodb://app:{CANARY}@db/shop", "its scheme needs a driver"),
        (f"app:{CANARY}@db/shop", "it does not begin with a scheme"),
        (f"postgresql://app:{CANARY}@x@db:port/shop", "ValueError"),
        (f"nosuch+driver://app:{CANARY}@db/shop", "cannot open"),
    ],
)
def test_a_url_that_cannot_be_used_fails_the_start_without_being_repeated(
    url: str, why: str
) -> None:
    async def main() -> None:
        with pytest.raises(StartFailedError, match=why) as failed:
            await Server(starlette(database_url=url)).start()
        assert CANARY not in str(failed.value)

    run(main())


def test_pools_are_closed_when_the_application_itself_fails_to_start(tmp_path: Path) -> None:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> Any:
        raise LookupError("no configuration")
        yield

    async def main() -> None:
        with heard(PoolClosed) as events:
            server = Server(starlette(lifespan, database_url=database_in(tmp_path)))
            with pytest.raises(StartFailedError, match="no configuration"):
                await server.start()
            assert len(events) == 1
            with pytest.raises(LookupError):
                await server.lifespan

    run(main())


async def returns_at_once(scope: Any, _receive: Any, _send: Any) -> None:
    assert scope["type"] == "lifespan"


async def stops_listening(_scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})


async def says_no_goodbye(_scope: Any, receive: Any, send: Any) -> None:
    await stops_listening(None, receive, send)
    await receive()


@pytest.mark.parametrize(
    "app",
    [raw(print), returns_at_once, stops_listening, says_no_goodbye],
    ids=lambda app: app.__name__,
)
def test_pools_open_and_close_with_the_server_whatever_the_application_knows_of_lifespans(
    app: Any, tmp_path: Path
) -> None:
    async def main() -> None:
        with heard(PoolOpened, PoolClosed) as events:
            server = Server(ConnectionPoolMiddleware(app, database_url=database_in(tmp_path)))
            await server.start()
            await asyncio.wait({server.lifespan}, timeout=0.02)
            assert [type(event) for event in events] == [PoolOpened]
            assert not server.lifespan.done()
            await server.stop()
            assert [type(event) for event in events] == [PoolOpened, PoolClosed]
            assert server.said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    run(main())


def test_pools_are_closed_when_the_server_cancels_the_lifespan(tmp_path: Path) -> None:
    async def main() -> None:
        with heard(PoolClosed) as events:
            pools = ConnectionPoolMiddleware(stops_listening, database_url=database_in(tmp_path))
            server = Server(pools)
            await server.start()
            server.lifespan.cancel()
            await asyncio.wait({server.lifespan})
            assert server.lifespan.cancelled()
            assert len(events) == 1

    run(main())


def test_without_a_lifespan_the_first_requests_open_the_pools_once(tmp_path: Path) -> None:
    async def main() -> None:
        pools = ConnectionPoolMiddleware(
            Starlette(routes=[Route("/", answer)]), database_url=database_in(tmp_path)
        )
        with heard(PoolOpened) as events:
            async with client_of(pools) as client:
                answers = await asyncio.gather(*(client.get("/") for _ in range(10)))
            assert [answer.text for answer in answers] == ["42"] * 10
            assert len(events) == 1
        await pools.shutdown()

    run(main())


def test_one_failed_opening_fails_all_who_wait_for_it_and_the_next_request_tries_again(
    nowhere: str,
) -> None:
    async def main() -> None:
        pools = ConnectionPoolMiddleware(raw(print), database_url=nowhere, retry_limit=0)
        with heard(ConnectFailed) as events:
            async with client_of(pools) as client:
                requests = (client.get("/") for _ in range(5))
                errors = await asyncio.gather(*requests, return_exceptions=True)
                assert {type(error) for error in errors} == {ConnectFailedError}
                assert len(events) == 1
                with pytest.raises(ConnectFailedError):
                    await client.get("/")
                assert len(events) == 2
        await pools.shutdown()

    run(main())


def test_a_request_that_gives_up_does_not_take_the_opening_away_from_others(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        pools = ConnectionPoolMiddleware(database_url=database_in(tmp_path))
        with heard(PoolOpened) as events:
            first, second = (asyncio.create_task(pools.initialize()) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
            await second
            assert first.cancelled()
            assert len(events) == 1
        await pools.shutdown()

    run(main())


def test_a_shutdown_ends_an_opening_that_is_under_way() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port, patience = silent.getsockname()[1], {"connection_timeout": 60}
            url = f"postgresql://127.0.0.1:{port}/shop"
            pools = ConnectionPoolMiddleware(url, connect_timeout=60, **patience)
            begun = asyncio.Event()
            with ROOT.subscribe(lambda _: begun.set(), ConnectStarted):
                opening = asyncio.create_task(pools.initialize())
                await begun.wait()
            async with asyncio.timeout(10):
                await pools.shutdown()
                await asyncio.wait({opening})
            assert opening.cancelled()
            assert pools.get_metrics() == {}

    run(main())


def test_pools_open_again_after_a_shutdown_and_on_another_loop(tmp_path: Path) -> None:
    pools = ConnectionPoolMiddleware(
        Starlette(routes=[Route("/", answer)]), database_url=database_in(tmp_path)
    )

    async def once() -> None:
        async with serving(pools) as client:
            assert (await client.get("/")).text == "42"

    run(once())
    run(once())
