"""From a URL to what a pool needs: how to open, check, reset and close connections.

    recipe = for_asyncio("postgresql://app:secret@db.internal/shop")
    pool = ConnectionPool(settings=settings, **recipe.functions)

`poolscope.create_pool` and `create_sync_pool` do that in one line.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from poolscope.connectors.recipe import MissingDriverError, Recipe
from poolscope.connectors.urls import read, refusal

__all__ = ["MissingDriverError", "Recipe", "for_asyncio", "for_threads"]

# Modules of this package, each imported when its driver is needed: for asyncio, and for threads.
_MODULES = {
    "postgresql": ("asyncpg", "psycopg"),
    "postgres": ("asyncpg", "psycopg"),
    "mysql": ("aiomysql", "pymysql"),
    "mariadb": ("aiomysql", "pymysql"),
    "redis": ("redis_asyncio", "redis"),
    "rediss": ("redis_asyncio", "redis"),
    "unix": ("redis_asyncio", "redis"),
    "sqlite": ("aiosqlite", "sqlite3"),
}
_SQLALCHEMY = ("sqlalchemy_asyncio", "sqlalchemy")


def for_asyncio(url: str, *, connect_timeout: float | None = None, **driver_options: Any) -> Recipe:
    """Return what a `ConnectionPool` needs for connections to that URL.

    `connect_timeout` (seconds) is given to the driver under its own name for it; other options
    are the driver's, or `create_engine`'s. They go before what the URL says.

    Raises:
        MissingDriverError: the driver is not installed; it says what to install.
        ValueError: it is no URL of a known kind. The message does not repeat it.
    """
    return _recipe(0, url, connect_timeout, driver_options)


def for_threads(url: str, *, connect_timeout: float | None = None, **driver_options: Any) -> Recipe:
    """Return what a `SyncConnectionPool` needs for connections to that URL, as `for_asyncio`."""
    return _recipe(1, url, connect_timeout, driver_options)


def _recipe(mode: int, url: str, timeout: float | None, options: dict[str, Any]) -> Recipe:
    address = read(url)
    modules = _SQLALCHEMY if "+" in address.scheme else _MODULES.get(address.scheme)
    if modules is None:
        raise refusal("its scheme needs a driver, as in mssql+pyodbc://")
    try:
        module = import_module(f"{__name__}.{modules[mode]}")
        return module.recipe(address, timeout, options)  # type: ignore[no-any-return]
    except ModuleNotFoundError as error:
        missing = (error.name or "its driver").partition(".")[0]
    raise MissingDriverError(missing)
