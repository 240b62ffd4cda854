"""Pools in one line, and files of SQLite, which need no server."""

import asyncio
import socket
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from poolscope import ConnectionPoolMetrics, ConnectionPoolSettings, EventBus, PoolTimeoutError
from poolscope.connectors import for_threads
from poolscope.errors import ConnectFailedError
from poolscope.events import PoolOpened
from poolscope.opening import create_pool, create_sync_pool
from poolscope.target import Target
from tests.support import run

FILES = pytest.mark.parametrize("scheme", ["sqlite", "sqlite+pysqlite"])
CANARY = "can" + "ary"


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port at which connections are accepted, and nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_pool_is_named_after_its_place_and_knows_its_target(tmp_path):
    async def main() -> None:
        async with await create_pool(f"sqlite:///{tmp_path}/shop.db", min_size=2) as pool:
            assert pool.name == "shop.db"
            assert pool.settings.target == Target("sqlite", namespace=f"{tmp_path}/shop.db")
            assert pool.stats().idle == 2

    run(main())
    with create_sync_pool(f"sqlite:///{tmp_path}/shop.db", min_size=2) as pool:
        assert pool.name == "shop.db"
        assert pool.settings.target == Target("sqlite", namespace=f"{tmp_path}/shop.db")
        assert pool.stats().idle == 2


def test_what_is_said_by_name_goes_before_settings_and_these_before_what_the_url_says():
    settings = ConnectionPoolSettings(name="shop", target="postgresql://db/shop", max_size=7)

    def seen(pool: Any) -> tuple[Any, ...]:
        return pool.name, pool.settings.target, pool.settings.max_size

    with create_sync_pool("sqlite://", settings=settings) as pool:
        assert seen(pool) == ("shop", settings.target, 7)
    with create_sync_pool("sqlite://", settings=settings, name="other", max_size=3) as pool:
        assert seen(pool) == ("other", settings.target, 3)
    assert settings.max_size == 7


def test_metrics_and_bus_are_those_given():
    bus, opened = EventBus(), []
    bus.subscribe(lambda event: opened.append(event.pool), PoolOpened)

    async def main() -> None:
        metrics = ConnectionPoolMetrics()
        async with await create_pool("sqlite://", metrics=metrics, bus=bus, name="a") as pool:
            assert pool.get_metrics() is metrics

    run(main())
    metrics = ConnectionPoolMetrics()
    with create_sync_pool("sqlite://", metrics=metrics, bus=bus, name="b") as pool:
        assert pool.get_metrics() is metrics
    assert opened == ["a", "b"]


def test_driver_options_go_to_the_driver():
    async def main() -> None:
        options = {"isolation_level": "IMMEDIATE"}
        async with (
            await create_pool("sqlite://", driver_options=options) as pool,
            pool.connection() as connection,
        ):
            assert connection.isolation_level == "IMMEDIATE"

    run(main())
    options = {"isolation_level": "IMMEDIATE"}
    with (
        create_sync_pool("sqlite://", driver_options=options) as pool,
        pool.connection() as connection,
    ):
        assert connection.isolation_level == "IMMEDIATE"


def test_a_setting_that_does_not_exist_is_named():
    with pytest.raises(TypeError, match="max_sise"):
        create_sync_pool("sqlite://", max_sise=3)


def test_a_pool_that_cannot_open_leaves_nothing_and_its_name_is_free(tmp_path):
    url = f"sqlite:///{tmp_path}/missing/shop.db"

    async def main() -> None:
        with pytest.raises(ConnectFailedError) as failed:
            await create_pool(url, retry_limit=0)
        assert isinstance(failed.value.__cause__, sqlite3.OperationalError)

    run(main())
    with pytest.raises(ConnectFailedError):
        create_sync_pool(url, retry_limit=0)
    (tmp_path / "missing").mkdir()
    with create_sync_pool(url) as pool:
        assert pool.name == "shop.db"


DEAF = ["postgresql", "mysql", "redis", "postgresql+asyncpg", "mysql+aiomysql"]


@pytest.mark.parametrize("scheme", DEAF)
def test_a_server_that_never_answers_costs_the_connect_timeout(scheme, deaf_port):
    async def main() -> None:
        url = f"{scheme}://app:{CANARY}@127.0.0.1:{deaf_port}/0"
        with pytest.raises((ConnectFailedError, PoolTimeoutError)) as failed:
            await create_pool(url, connect_timeout=0.2, acquire_timeout=5, retry_limit=0)
        assert CANARY not in str(failed.value)

    run(main())


# SQLite


@FILES
def test_options_of_a_file_are_those_of_sqlite(scheme, tmp_path):
    sqlite3.connect(tmp_path / "shop.db").close()
    query = "?mode=ro&uri=true" if "+" in scheme else "?mode=ro"
    prefix = "file:" if "+" in scheme else ""
    recipe = for_threads(f"{scheme}:///{prefix}{tmp_path}/shop.db{query}")
    connection = recipe.factory()
    assert recipe.name == "shop.db"
    raw = getattr(getattr(connection, "connection", connection), "dbapi_connection", connection)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        raw.execute("create table things (thing int)")
    recipe.close_func(connection)


def test_a_path_with_strange_characters_is_found(tmp_path):
    with create_sync_pool(f"sqlite:///{tmp_path}/my%20sh%3Fop.db?mode=rwc") as pool:
        assert pool.name == "my sh?op.db"
    assert (tmp_path / "my sh?op.db").exists()


def test_a_command_that_was_cancelled_ends_before_the_next_borrower_comes(tmp_path):
    endless = """insert into things with recursive n(i) as
        (select 1 union all select i + 1 from n) select i from n limit 300000"""

    async def main() -> None:
        async with await create_pool(f"sqlite:///{tmp_path}/shop.db", max_size=1) as pool:
            async with pool.connection() as connection:
                await connection.execute_fetchall("create table things (thing int)")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), pool.connection() as connection:
                    await connection.execute_fetchall(endless)
            async with pool.connection() as connection:
                rows = await connection.execute_fetchall("select count(*) from things")
                assert list(rows) == [(0,)]

    run(main())


def test_a_closed_connection_is_refused_on_return(tmp_path):
    recipe = for_threads(f"sqlite:///{tmp_path}/shop.db")
    connection = recipe.factory()
    connection.close()
    with pytest.raises(sqlite3.ProgrammingError):
        recipe.reset_func(connection)
    with pytest.raises(sqlite3.ProgrammingError):
        recipe.validate_func(connection)
    recipe.close_func(connection)
