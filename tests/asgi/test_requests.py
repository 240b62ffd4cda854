import asyncio
import contextvars
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from poolscope import PoolManager
from poolscope.asgi import ConnectionPoolMiddleware
from tests.asgi.serving import client_of, database_in, raw, serving
from tests.support import run

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")


async def get_pool(request: HTTPConnection) -> Any:
    return await request.state.pool_manager.get_pool("database")


async def answer(request: Request) -> PlainTextResponse:
    async with (await get_pool(request)).connection() as connection:
        rows = await connection.execute_fetchall("select 42")
    return PlainTextResponse(str(rows[0][0]))


def test_fastapi_finds_the_manager_in_requests_and_dependencies(tmp_path: Path) -> None:
    app = FastAPI()
    app.add_middleware(ConnectionPoolMiddleware, database_url=database_in(tmp_path))

    async def connection(request: Request) -> AsyncIterator[Any]:
        async with (await get_pool(request)).connection() as connection:
            yield connection

    @app.get("/")
    async def read(connection: Any = Depends(connection)) -> int:  # noqa: B008
        return int((await connection.execute_fetchall("select 42"))[0][0])

    async def main() -> None:
        async with serving(app) as client:
            assert (await client.get("/")).json() == 42

    run(main())


@pytest.mark.parametrize(
    "make",
    [
        lambda app, url: ConnectionPoolMiddleware(app, url),
        lambda app, url: ConnectionPoolMiddleware(app, database_url=url),
        lambda app, url: ConnectionPoolMiddleware(app=app, database_url=url),
        lambda app, url: ConnectionPoolMiddleware(url, app=app),
        lambda app, url: Starlette(
            routes=app.routes, middleware=[Middleware(ConnectionPoolMiddleware, url)]
        ),
    ],
)
def test_application_and_url_are_told_apart_however_they_are_given(
    make: Any, tmp_path: Path
) -> None:
    async def main() -> None:
        app = make(Starlette(routes=[Route("/", answer)]), database_in(tmp_path))
        async with serving(app) as client:
            assert (await client.get("/")).text == "42"

    run(main())


def test_without_an_application_it_says_how_to_give_one() -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"ConnectionPoolMiddleware\(app, "):
            await client_of(ConnectionPoolMiddleware()).get("/")

    run(main())


def test_context_variables_cross_it_in_both_directions(tmp_path: Path) -> None:
    async def set_inside(_scope: Any) -> None:
        assert request_id.get() == "outside"
        request_id.set("inside")

    async def main() -> None:
        pools = ConnectionPoolMiddleware(raw(set_inside), database_url=database_in(tmp_path))

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            request_id.set("outside")
            await pools(scope, receive, send)
            assert request_id.get() == "inside"

        async with client_of(outer) as client:
            assert (await client.get("/")).text == "ok"
        await pools.shutdown()

    run(main())


def test_a_body_is_passed_on_piece_by_piece_as_it_is_made(tmp_path: Path) -> None:
    async def main() -> None:
        sent: list[bytes] = []
        seen: list[int] = []

        async def pieces() -> AsyncIterator[bytes]:
            for number in range(3):
                seen.append(len(sent))
                yield b"%d" % number

        async def stream(_request: Request) -> StreamingResponse:
            return StreamingResponse(pieces())

        pools = ConnectionPoolMiddleware(
            Starlette(routes=[Route("/", stream)]), database_url=database_in(tmp_path)
        )

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            async def note(message: Any) -> None:
                if message.get("body"):
                    sent.append(message["body"])
                await send(message)

            await pools(scope, receive, note)

        async with client_of(outer) as client:
            assert (await client.get("/")).text == "012"
        assert sent == [b"0", b"1", b"2"]
        assert seen == [0, 1, 2]
        await pools.shutdown()

    run(main())


def test_an_exception_passes_as_it_is(tmp_path: Path) -> None:
    error = LookupError("not here")

    async def fail(_scope: Any) -> None:
        raise error

    async def main() -> None:
        pools = ConnectionPoolMiddleware(raw(fail), database_url=database_in(tmp_path))
        with pytest.raises(LookupError) as caught:
            await client_of(pools).get("/")
        assert caught.value is error
        await pools.shutdown()

    run(main())


def test_a_websocket_has_the_manager_and_is_otherwise_untouched(tmp_path: Path) -> None:
    app = FastAPI()
    app.add_middleware(ConnectionPoolMiddleware, database_url=database_in(tmp_path))

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept("v1")
        async with (await get_pool(socket)).connection() as connection:
            rows = await connection.execute_fetchall("select 42")
        await socket.send_json(rows[0][0])
        await socket.send_text(await socket.receive_text())
        await socket.close(4000)

    async def main() -> None:
        heard: list[dict[str, Any]] = [
            {"type": "websocket.connect"},
            {"type": "websocket.receive", "text": "ping"},
        ]
        said: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return heard.pop(0)

        async def send(message: dict[str, Any]) -> None:
            said.append(message)

        async with serving(app):
            scope = {"type": "websocket", "path": "/live", "headers": []}
            scope |= {"query_string": b"", "subprotocols": ["v1"]}
            await app(scope, receive, send)
        assert [message["type"] for message in said] == [
            "websocket.accept", "websocket.send", "websocket.send", "websocket.close",
        ]  # fmt: skip
        assert said[0]["subprotocol"] == "v1"
        assert said[1]["text"] == "42"
        assert said[2]["text"] == "ping"
        assert said[3]["code"] == 4000

    run(main())


def test_dispatch_serves_as_that_of_a_base_http_middleware(tmp_path: Path) -> None:
    async def main() -> None:
        pools = ConnectionPoolMiddleware(database_url=database_in(tmp_path))
        middleware = Middleware(BaseHTTPMiddleware, dispatch=pools.dispatch)
        app = Starlette(routes=[Route("/", answer)], middleware=[middleware])
        async with client_of(app) as client:
            assert (await client.get("/")).text == "42"
        await pools.shutdown()

    run(main())


def test_a_request_of_any_kind_gets_the_manager_on_its_state(tmp_path: Path) -> None:
    async def main() -> None:
        pools = ConnectionPoolMiddleware(database_url=database_in(tmp_path))
        plain = await pools.process_request(SimpleNamespace(path="/"))
        assert plain.path == "/"
        assert plain.state.pool_manager is pools.pool_manager  # type: ignore[attr-defined]
        has_state = SimpleNamespace(state=SimpleNamespace(user="ann"))
        assert await pools.process_request(has_state) is has_state
        assert has_state.state.user == "ann"
        assert has_state.state.pool_manager is pools.pool_manager
        assert await pools.process_response(has_state) is has_state
        await pools.shutdown()

    run(main())


def test_metrics_are_those_of_the_pools_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def measure(request: Request) -> JSONResponse:
        await answer(request)
        metrics = request.state.pool_manager.get_metrics()
        return JSONResponse(json.loads(metrics["database"].to_json()))

    async def main() -> None:
        pools = ConnectionPoolMiddleware(
            Starlette(routes=[Route("/", measure)]), database_url=database_in(tmp_path)
        )
        async with serving(pools) as client:
            body = (await client.get("/")).json()
            assert body["connection_requests"] == 1
            assert body["max_connections"] == 20
            assert list(pools.get_metrics()) == ["database"]
            assert pools.get_metrics()["database"].acquired == 1
            pools.print_metrics()
        assert pools.get_metrics() == {}

    run(main())
    assert "pool database" in capsys.readouterr().out


def test_without_urls_it_manages_the_pools_an_application_adds() -> None:
    async def main() -> None:
        managers: list[PoolManager] = []

        async def note(scope: Any) -> None:
            managers.append(scope["state"]["pool_manager"])
            await asyncio.sleep(0)

        pools = ConnectionPoolMiddleware(raw(note))
        async with serving(pools) as client:
            pool = await pools.pool_manager.create_pool("mine", object)
            await client.get("/")
            assert await managers[0].get_pool("mine") is pool
        assert pool.stats().state == "closed"

    run(main())
