"""In a real application of apifrom 1.0.0, which calls what it is given as ASGI middleware."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("apifrom")

from apifrom import API, Middleware, api
from apifrom.core.request import Request
from apifrom.performance import connection_pool as original

import poolscope.asgi
from poolscope.asgi import ConnectionPoolMiddleware
from poolscope.events import PoolClosed, PoolOpened
from tests.asgi.serving import client_of, database_in, heard, serving
from tests.support import run


class Header(Middleware):
    """One of the application's own, around and within ours."""

    def __init__(self) -> None:
        self.seen: list[bool] = []
        super().__init__(app=None)  # apifrom sets it later

    async def process_request(self, request: Any) -> Any:
        self.seen.append(hasattr(request.state, "pool_manager"))
        return request


@pytest.fixture
def app() -> Iterator[API]:
    # It writes on import, and `@api` finds the application by a global of apifrom's.
    before = API._current_instance
    app = API(title="shop", enable_docs=False)

    @api(route="/answer")
    async def answer(request: Request) -> dict[str, int]:
        # `request.state` is apifrom's own, and empty; the scope is that of the server.
        manager = request.scope["state"]["pool_manager"]
        pool = await manager.get_pool("database")
        async with pool.connection() as connection:
            rows = await connection.execute_fetchall("select 42")
        return {"answer": rows[0][0]}

    yield app
    API._current_instance = before


def test_an_application_takes_the_middleware_and_its_endpoints_use_the_pools(
    app: API, tmp_path: Path
) -> None:
    pools = ConnectionPoolMiddleware(database_url=database_in(tmp_path))
    app.add_middleware(pools)

    async def main() -> None:
        async with client_of(app) as client:
            answers = await asyncio.gather(*(client.get("/answer") for _ in range(5)))
        assert [answer.json() for answer in answers] == [{"answer": 42}] * 5
        assert pools.get_metrics()["database"].acquired == 5
        await pools.shutdown()

    run(main())


def test_its_pools_open_and_close_with_the_server(app: API, tmp_path: Path) -> None:
    app.add_middleware(ConnectionPoolMiddleware(database_url=database_in(tmp_path)))

    async def main() -> None:
        with heard(PoolOpened, PoolClosed) as events:
            async with serving(app) as client:
                assert [type(event) for event in events] == [PoolOpened]
                assert (await client.get("/answer")).json() == {"answer": 42}
            assert [type(event) for event in events] == [PoolOpened, PoolClosed]

    run(main())


def test_it_stands_among_middleware_of_the_application(app: API, tmp_path: Path) -> None:
    outer, pools, inner = Header(), ConnectionPoolMiddleware(database_in(tmp_path)), Header()
    for each in (outer, pools, inner):
        app.add_middleware(each)

    async def main() -> None:
        async with client_of(app) as client:
            assert (await client.get("/answer")).json() == {"answer": 42}
        await pools.shutdown()

    run(main())
    assert (outer.seen, inner.seen) == ([False], [True])


def test_a_request_of_apifrom_gets_the_manager_by_process_request(tmp_path: Path) -> None:
    async def main() -> None:
        pools = ConnectionPoolMiddleware(database_in(tmp_path))
        request = await pools.process_request(Request(method="GET", path="/"))
        assert request.state.pool_manager is pools.pool_manager
        await pools.shutdown()

    run(main())


def test_everything_public_of_the_original_is_there() -> None:
    def public(of: type) -> set[str]:
        return {name for name in vars(of) if not name.startswith("_")}

    theirs, ours = original.ConnectionPoolMiddleware, poolscope.asgi.ConnectionPoolMiddleware
    assert public(theirs) <= public(ours)
