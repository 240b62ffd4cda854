"""The code of docs/instrumentation.md runs, and its tables say what is so."""

import asyncio
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import aiomysql.pool
import asyncpg
import psycopg_pool
import pytest
import redis
import valkey
from sqlalchemy import (
    AssertionPool,
    NullPool,
    QueuePool,
    SingletonThreadPool,
    StaticPool,
    create_engine,
)

import poolscope
from poolscope.instrument import libraries

PAGE = (Path(__file__).parents[2] / "docs" / "instrumentation.md").read_text(encoding="utf-8")
OMITS = re.search(r"<!-- omits -->\n(.*?)\n<!-- /omits -->", PAGE, re.S)
PREFIX = re.compile(r"db\.client\.connection\.|poolscope\.")


@pytest.mark.parametrize("code", re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S))
def test_the_code_runs(code: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("1", "orders")), done.stdout


def engine(kind: Any, **options: Any) -> Any:
    return create_engine("sqlite://", poolclass=kind, **options)


def mysql(maxsize: int) -> Any:
    return aiomysql.pool.Pool(1, maxsize, False, -1, asyncio.get_running_loop(), host="none")


POOLS: dict[str, list[Callable[[], Any]]] = {
    "`sqlalchemy` QueuePool, AsyncAdaptedQueuePool": [lambda: engine(QueuePool)],
    "`sqlalchemy` QueuePool, `max_overflow=-1`": [lambda: engine(QueuePool, max_overflow=-1)],
    "`sqlalchemy` NullPool, SingletonThreadPool, StaticPool": [
        lambda: engine(NullPool),
        lambda: engine(SingletonThreadPool),
        lambda: engine(StaticPool),
    ],
    "`sqlalchemy` AssertionPool": [lambda: engine(AssertionPool)],
    "`psycopg` ConnectionPool, AsyncConnectionPool": [
        lambda: psycopg_pool.ConnectionPool("host=none", open=False),
        lambda: psycopg_pool.AsyncConnectionPool("host=none", open=False),
    ],
    "`psycopg` NullConnectionPool, no `max_size`": [
        lambda: psycopg_pool.NullConnectionPool("host=none", open=False)
    ],
    "`asyncpg` Pool": [lambda: asyncpg.create_pool("postgresql://none/none")],
    "`redis` ConnectionPool": [lambda: redis.ConnectionPool(max_connections=5)],
    "`redis` BlockingConnectionPool": [lambda: redis.BlockingConnectionPool()],
    "`valkey` ConnectionPool, no `max_connections`": [lambda: valkey.ConnectionPool()],
    "`aiomysql` Pool": [lambda: mysql(5)],
    "`aiomysql` Pool, `maxsize=0`": [lambda: mysql(0)],
}


def test_the_page_says_what_is_missing_of_which_pool() -> None:
    assert OMITS is not None
    said = {}
    for row in OMITS[1].splitlines():
        pool, missing = (cell.strip() for cell in row.strip("|").split(" | "))
        said[pool] = set(re.findall(r"`([\w.]+)`", missing))

    async def main() -> dict[str, list[set[str]]]:
        found: dict[str, list[set[str]]] = {}
        for pool, makes in POOLS.items():
            for make in makes:
                # Some must be closed when they were used, which these were not.
                with poolscope.observe(made := make()) as source:
                    names = {PREFIX.sub("", name, count=1) for name in source.omits}
                    found.setdefault(pool, []).append(names)
                del made
        return found

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        found = asyncio.run(main())
    assert found == {pool: [names] * len(POOLS[pool]) for pool, names in said.items()}


@pytest.mark.parametrize("name", libraries.NAMES)
def test_the_page_names_the_versions_that_were_tried(name: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| tried |"))
    library = import_module(f"poolscope.instrument.{name}").LIBRARY
    for version in re.findall(r"\d+(?:\.\d+)+", library.tried):
        assert version in row, (name, version)
