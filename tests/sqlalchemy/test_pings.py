"""A ping of a server that hangs, asked by a thread."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from poolscope.events import CloseReason, ConnectionClosed
from poolscope.sqlalchemy import ObservedPool
from poolscope.testing.server import PrivateServer
from tests.servers.traces import soon

KINDS = {"postgres": "postgresql+psycopg", "mariadb_server": "mysql+pymysql"}


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> PrivateServer:
    found: PrivateServer = request.getfixturevalue(request.param)
    return found


def test_a_ping_is_cut_short_while_its_server_hangs(
    server: PrivateServer, request: pytest.FixtureRequest
) -> None:
    scheme = KINDS[request.node.callspec.params["server"]]
    url = f"{scheme}://{server.url.partition('://')[2]}"
    engine = create_engine(url, poolclass=ObservedPool, pool_pre_ping=True, validate_timeout=0.2)
    pool: Any = engine.pool
    reasons: list[CloseReason] = []
    pool.bus.subscribe(lambda event: reasons.append(event.reason), ConnectionClosed)

    def ask() -> Any:
        with engine.connect() as connection:
            return connection.scalar(text("select 42"))

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(ask).result() == 42
        server.pause()
        try:
            asked = threads.submit(ask)
            assert soon(lambda: bool(reasons))
            assert not asked.done()
        finally:
            server.resume()
        assert asked.result() == 42
    engine.dispose()
    assert reasons == [CloseReason.VALIDATION, CloseReason.POOL_CLOSED]
