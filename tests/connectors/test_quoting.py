"""What is quoted in a URL arrives at each driver as it is."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import psycopg
import pymysql
import pytest

from poolscope.connectors import for_asyncio, for_threads
from poolscope.testing.mariadb import MariadbServer
from poolscope.testing.postgres import PostgresServer
from tests.connectors.kinds import IN_LOOP, SYNC_SERVERS, Kind, parameters
from tests.support import run

USER, PASSWORD, DATABASE = "us@r/", "s/e?c#r:e@t %&=+", "my things"
WHO = {
    "postgres": "select current_user || ' in ' || current_database()",
    "mariadb_server": "select concat(substring_index(user(), '@127', 1), ' in ', database())",
}


@pytest.fixture
def url(kind: Kind, request: pytest.FixtureRequest) -> Iterator[str]:
    """A URL of an account, and a database, that need quotes."""
    server = request.getfixturevalue(kind.server)
    with administer(server) as admin:
        run_all(admin, server, "create")
        quoted = [quote(each, safe="") for each in (USER, PASSWORD, DATABASE)]
        yield f"{kind.scheme}://{quoted[0]}:{quoted[1]}@127.0.0.1:{server.port}/{quoted[2]}"
        run_all(admin, server, "drop")


def administer(server: PostgresServer | MariadbServer) -> Any:
    if isinstance(server, PostgresServer):
        return psycopg.connect(server.url, autocommit=True)
    return pymysql.connect(**server.arguments)


def run_all(admin: Any, server: PostgresServer | MariadbServer, verb: str) -> None:
    mark = '"' if isinstance(server, PostgresServer) else "`"
    statements = [f"{verb} user {mark}{USER}{mark}", f"{verb} database {mark}{DATABASE}{mark}"]
    if verb == "drop":
        statements.reverse()
    elif isinstance(server, PostgresServer):
        statements[0] += f" password '{PASSWORD}'"
    else:
        statements[0] += f" identified by '{PASSWORD}'"
        statements.append(f"grant all on {mark}{DATABASE}{mark}.* to {mark}{USER}{mark}")
    with admin.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


@pytest.mark.parametrize("kind", parameters(*IN_LOOP))
def test_user_password_and_database_arrive_under_asyncio(kind, url):
    async def main() -> None:
        recipe = for_asyncio(url)
        connection = await recipe.factory()
        assert await kind.run(connection, WHO[kind.server]) == f"{USER} in {DATABASE}"
        await recipe.close_func(connection)

    run(main())


@pytest.mark.parametrize("kind", parameters(*SYNC_SERVERS))
def test_user_password_and_database_arrive_for_threads(kind, url):
    recipe = for_threads(url)
    connection = recipe.factory()
    assert kind.run(connection, WHO[kind.server]) == f"{USER} in {DATABASE}"
    recipe.close_func(connection)
