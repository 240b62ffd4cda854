"""The kinds of URL, how each is spoken to, and the server behind it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from poolscope.testing.server import PrivateServer

SESSION = {"postgres": "select pg_backend_pid()", "mariadb_server": "select connection_id()"}
SLEEP = {"postgres": "select pg_sleep(30)", "mariadb_server": "select sleep(1)"}
TABLE = "create table if not exists things (thing int)"


@dataclass(frozen=True)
class Kind:
    """One kind of URL. `run` sends a text; it returns the first value of an answer, if any."""

    scheme: str
    server: str | None
    run: Callable[[Any, str], Any]

    def __str__(self) -> str:
        return self.scheme


@dataclass(frozen=True)
class Place:
    """Where a kind of URL leads to, for the time of a test."""

    kind: Kind
    url: str
    server: PrivateServer | None

    @property
    def session(self) -> str:
        return SESSION[self.kind.server]

    @property
    def sleep(self) -> str:
        return SLEEP[self.kind.server]

    def disconnect(self, session: int) -> None:
        assert self.server is not None
        self.server.disconnect(session)


def find(kind: Kind, request: pytest.FixtureRequest, folder: Path) -> Place:
    if kind.server is None:
        return Place(kind, f"{kind.scheme}:///{folder}/things.db", None)
    server = request.getfixturevalue(kind.server)
    return Place(kind, f"{kind.scheme}://{server.url.partition('://')[2]}", server)


def parameters(*kinds: Kind) -> list[Any]:
    """Return them as parameters; those with a server are marked so."""
    marks = {True: (), False: (pytest.mark.servers,)}
    return [pytest.param(k, id=str(k), marks=marks[k.server is None]) for k in kinds]


# For asyncio


async def _asyncpg(connection: Any, sql: str) -> Any:
    return await connection.fetchval(sql)


async def _aiomysql(connection: Any, sql: str) -> Any:
    async with connection.cursor() as cursor:
        await cursor.execute(sql)
        row = await cursor.fetchone()
    return row and row[0]


async def _aiosqlite(connection: Any, sql: str) -> Any:
    rows = await connection.execute_fetchall(sql)
    return rows[0][0] if rows else None


async def _alchemy(connection: Any, sql: str) -> Any:
    result = await connection.exec_driver_sql(sql)
    return result.scalar() if result.returns_rows else None


async def _alchemy_off_loop(connection: Any, sql: str) -> Any:
    return await asyncio.to_thread(alchemy, connection, sql)


Ask = Callable[[Any, str], Awaitable[Any]]
IN_LOOP = (
    Kind("postgresql", "postgres", _asyncpg),
    Kind("mysql", "mariadb_server", _aiomysql),
    Kind("postgresql+asyncpg", "postgres", _alchemy),
    Kind("postgresql+psycopg", "postgres", _alchemy),
    Kind("mysql+aiomysql", "mariadb_server", _alchemy),
)
OFF_LOOP = (Kind("mysql+pymysql", "mariadb_server", _alchemy_off_loop),)
ASYNC_FILES = (
    Kind("sqlite", None, _aiosqlite),
    Kind("sqlite+aiosqlite", None, _alchemy),
    Kind("sqlite+pysqlite", None, _alchemy_off_loop),
)


# For threads


def alchemy(connection: Any, sql: str) -> Any:
    result = connection.exec_driver_sql(sql)
    return result.scalar() if result.returns_rows else None


def _psycopg(connection: Any, sql: str) -> Any:
    cursor = connection.execute(sql)
    return cursor.fetchone()[0] if cursor.description else None


def _pymysql(connection: Any, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
    return row and row[0]


def _sqlite3(connection: Any, sql: str) -> Any:
    row = connection.execute(sql).fetchone()
    return row and row[0]


SYNC_SERVERS = (
    Kind("postgresql", "postgres", _psycopg),
    Kind("mysql", "mariadb_server", _pymysql),
    Kind("postgresql+psycopg", "postgres", alchemy),
    Kind("mysql+pymysql", "mariadb_server", alchemy),
)
SYNC_FILES = (
    Kind("sqlite", None, _sqlite3),
    Kind("sqlite+pysqlite", None, alchemy),
)


# What servers see


async def count(server: PrivateServer | None) -> int:
    return len(await asyncio.to_thread(server.clients)) if server else 0


async def settled(server: PrivateServer | None, expected: int) -> None:
    """Wait until the server has so many connections."""
    deadline = time.monotonic() + 10
    while (seen := await count(server)) != expected:
        assert time.monotonic() < deadline, f"the server has {seen} connections, not {expected}"
