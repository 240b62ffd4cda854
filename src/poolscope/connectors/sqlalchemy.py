"""Any database by SQLAlchemy, for threads; and what both modes share."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from operator import methodcaller
from typing import Any, TypeVar
from urllib.parse import unquote

from sqlalchemy import Connection, NullPool, create_engine, make_url
from sqlalchemy.exc import ArgumentError

from poolscope.connectors import keepalive
from poolscope.connectors.recipe import Recipe, Unfit
from poolscope.connectors.sockets import shut_down
from poolscope.connectors.urls import Address, refusal
from poolscope.functions import prompt

E = TypeVar("E")

_UNQUOTES = make_url("postgresql://host/%20").database == " "
"""Whether SQLAlchemy reads a quoted database as 2.1 does; 2.0 takes it as it is."""
_TIMEOUTS = {
    "asyncpg": "timeout",
    "psycopg": "connect_timeout",
    "psycopg_async": "connect_timeout",
    "psycopg2": "connect_timeout",
    "pymysql": "connect_timeout",
    "mysqldb": "connect_timeout",
    "aiomysql": "connect_timeout",
    "asyncmy": "connect_timeout",
}
"""What a driver calls the time that connecting may take."""

_TERMINATORS = {
    "aiomysql": "aiomysql",
    "aiosqlite": "aiosqlite",
    "psycopg": "psycopg",
    "psycopg_async": "psycopg",
    "pymysql": "pymysql",
    "pysqlite": "sqlite3",
}
"""Modules of this package which know how to drop a driver's connections."""

_INTERRUPTIBLE = frozenset({"psycopg", "pymysql", "pysqlite"})
"""Drivers whose waiting can be cut short, or which never wait for a server."""


def recipe(address: Address, connect_timeout: float | None, options: dict[str, Any]) -> Recipe:
    """Return what opens `sqlalchemy.Connection`s; options are those of `create_engine`."""
    engine = make_engine(create_engine, address, connect_timeout, options)
    if engine.dialect.is_async:
        raise ValueError(
            f"{engine.dialect.driver} works under asyncio alone; for threads take a URL with "
            "another driver, such as postgresql+psycopg://, mysql+pymysql:// or sqlite+pysqlite://"
        )

    def connect() -> Connection:  # a method of the engine would show the user in its repr
        return engine.connect()

    drop = terminator(engine.dialect.driver)
    if engine.dialect.driver in _INTERRUPTIBLE:
        return address.recipe(connect, _check_here, _reset_here, close, drop)
    return address.recipe(connect, check, reset, close, drop)


def make_engine(
    create: Callable[..., E],
    address: Address,
    connect_timeout: float | None,
    options: dict[str, Any],
) -> E:
    """Return an engine that pools nothing: ours is the only pool.

    Raises:
        ValueError: SQLAlchemy cannot read the URL, or does not know the dialect.
    """
    try:
        url = make_url(address.url)
        if url.database and not _UNQUOTES:
            url = url.set(database=unquote(url.database))
        driver = url.get_driver_name()
        defaults = _defaults(driver, connect_timeout)
        arguments = {name: each for name, each in defaults.items() if name not in url.query}
        arguments |= options.get("connect_args", {})
        options = options | {"connect_args": arguments, "poolclass": NullPool}
        return create(url, **options)
    except ArgumentError:
        pass  # and is forgotten: its text may hold parts of the URL
    raise refusal("SQLAlchemy cannot read it, or does not know its dialect")


def _defaults(driver: str, connect_timeout: float | None) -> dict[str, Any]:
    """Return what a driver is told when neither URL nor options say otherwise."""
    defaults: dict[str, Any] = {}
    if driver.startswith("psycopg"):
        defaults |= keepalive.LIBPQ
    if driver == "pysqlite":
        defaults["check_same_thread"] = False  # one thread after the other
        defaults["factory"] = _ours(driver).Connection
    if connect_timeout is not None and driver in _TIMEOUTS:
        defaults[_TIMEOUTS[driver]] = connect_timeout
    return defaults


def check(connection: Connection) -> bool:
    """Ask the server for an answer, as the dialect does it."""
    if connection.closed or connection.invalidated:  # else it would connect anew, by itself
        return False
    dbapi_connection = connection.connection.dbapi_connection
    assert dbapi_connection is not None
    return connection.dialect.do_ping(dbapi_connection)


def refuse_spoilt(connection: Connection) -> None:
    """Raise if a connection was lost, or keeps options that a borrower has set."""
    if connection.closed or connection.invalidated:
        raise Unfit("the connection was closed or lost while it was in use")
    if connection.get_execution_options() != connection.engine.get_execution_options():
        raise Unfit(
            "the connection came back with execution_options of its own, which cannot be taken "
            "away; set them on statements, or on the engine"
        )


def reset(connection: Connection) -> None:
    """Roll back, if a transaction is open."""
    refuse_spoilt(connection)
    connection.rollback()


def _interrupt(connection: Connection) -> None:
    shut_down(connection.connection.driver_connection)


@prompt(_interrupt)
def _check_here(connection: Connection) -> bool:
    return check(connection)


@prompt(_interrupt)
def _reset_here(connection: Connection) -> None:
    reset(connection)


def close(connection: Connection) -> None:
    """Close the connection of the driver, too: there is no pool it could go back to."""
    connection.close()


def terminator(driver: str) -> Callable[[Connection], None]:
    """Return what drops a connection of that driver, without SQLAlchemy's usual ways."""
    drop: Callable[[Any], object] = methodcaller("terminate")  # as asyncpg's
    if driver in _TERMINATORS:
        drop = _ours(driver).terminate

    def terminate(connection: Connection) -> None:
        raw = connection.connection.dbapi_connection
        drop(getattr(raw, "driver_connection", raw))
        connection.detach()  # or SQLAlchemy would reset it, and complain, when it is forgotten

    return terminate


def _ours(driver: str) -> Any:
    return import_module(f"poolscope.connectors.{_TERMINATORS[driver]}")
