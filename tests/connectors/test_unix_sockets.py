"""Servers on the same machine, by a Unix socket."""

from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from poolscope.opening import create_pool, create_sync_pool
from poolscope.target import Target
from tests.connectors.kinds import IN_LOOP, SYNC_SERVERS, Kind, parameters
from tests.support import run

LOCAL = {
    "postgres": "select inet_server_addr() is null",
    "mariadb_server": "select substring_index(user(), '@', -1) = 'localhost'",
}
UNIX = "U"
"""How Redis marks a client that came by its Unix socket."""
SYSTEMS = {"postgres": "postgresql", "mariadb_server": "mysql"}


@pytest.fixture
def server(kind: Kind, request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(kind.server)


def by_socket(kind: Kind, server: Any) -> str:
    """The URL of the server, with its socket as an option."""
    parts = urlsplit(server.url)
    access = parts.netloc.rpartition("@")[0]
    if kind.server == "postgres":
        return f"{kind.scheme}://{access}@{parts.path}?host={server.socket}&port={server.port}"
    return f"{kind.scheme}://{access}@localhost{parts.path}?unix_socket={server.socket}"


def place(kind: Kind, server: Any) -> tuple[str, Target]:
    """Name and target that a pool should have."""
    database, path = urlsplit(server.url).path[1:], str(server.socket)
    return f"{path}/{database}", Target(SYSTEMS[kind.server], path, None, database)


@pytest.mark.parametrize("kind", parameters(*IN_LOOP))
def test_a_socket_is_used_and_named_under_asyncio(kind, server):
    async def main() -> None:
        async with await create_pool(by_socket(kind, server)) as pool:
            assert (pool.name, pool.settings.target) == place(kind, server)
            async with pool.connection() as connection:
                assert await kind.run(connection, LOCAL[kind.server])

    run(main())


@pytest.mark.parametrize("kind", parameters(*SYNC_SERVERS))
def test_a_socket_is_used_and_named_for_threads(kind, server):
    with create_sync_pool(by_socket(kind, server)) as pool:
        assert (pool.name, pool.settings.target) == place(kind, server)
        with pool.connection() as connection:
            assert kind.run(connection, LOCAL[kind.server])


def test_a_folder_in_place_of_a_host_is_used_in_both_modes(postgres):
    parts = urlsplit(postgres.url)
    host = f"{quote(str(postgres.socket), safe='')}:{postgres.port}"
    url = f"postgresql://{parts.netloc.rpartition('@')[0]}@{host}{parts.path}"
    name = f"{postgres.socket}:{postgres.port}{parts.path}"

    async def main() -> None:
        async with await create_pool(url) as pool, pool.connection() as connection:
            assert pool.name == name
            assert await connection.fetchval(LOCAL["postgres"])

    run(main())
    with create_sync_pool(url) as pool, pool.connection() as connection:
        assert pool.name == name
        assert connection.execute(LOCAL["postgres"]).fetchone() == (True,)


def test_a_socket_of_redis_is_used_and_named_in_both_modes(redis_server):
    password = urlsplit(redis_server.url).password
    url = f"unix://:{password}@{redis_server.socket}?db=2"
    path = str(redis_server.socket)
    expected = f"{path}/2", Target("redis", path, None, "2")

    async def main() -> None:
        async with await create_pool(url) as pool, pool.connection() as client:
            assert (pool.name, pool.settings.target) == expected
            assert [each["flags"] for each in await client.client_list()] == [UNIX]

    run(main())
    with create_sync_pool(url) as pool, pool.connection() as client:
        assert (pool.name, pool.settings.target) == expected
        assert [each["flags"] for each in client.client_list()] == [UNIX]
