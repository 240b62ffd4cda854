"""Pools in one line, from a URL."""

from __future__ import annotations

import math
from typing import Any

from poolscope.bus import EventBus
from poolscope.connectors import Recipe, for_asyncio, for_threads
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.pool import ConnectionPool
from poolscope.settings import ConnectionPoolSettings
from poolscope.sync_pool import SyncConnectionPool


async def create_pool(
    url: str,
    *,
    settings: ConnectionPoolSettings | None = None,
    metrics: ConnectionPoolMetrics | None = None,
    bus: EventBus | None = None,
    driver_options: dict[str, Any] | None = None,
    **changes: Any,
) -> ConnectionPool[Any]:
    """Open a pool of connections to a URL, ready for use; close it as any other.

    `changes` are fields of `ConnectionPoolSettings`, and go before those of `settings`;
    `driver_options` go to the driver as they are (docs/connectors.md). The pool is named after
    host, port and database if nothing else is said. A password is kept for connecting, and nowhere
    shown.

    Raises:
        MissingDriverError: the driver is not installed; it says what to install.
        ValueError: the URL or a setting cannot be used. The message does not repeat the URL.
        ConnectFailedError, PoolTimeoutError: as `ConnectionPool.initialize`; nothing is left open.
    """
    base = settings or ConnectionPoolSettings()
    timeout = changes.get("connect_timeout", base.connect_timeout)
    recipe = for_asyncio(url, **_options(timeout, driver_options))
    pool: ConnectionPool[Any] = ConnectionPool(
        settings=_settings(recipe, base, changes), metrics=metrics, bus=bus, **recipe.functions
    )
    try:
        await pool.initialize()
    except BaseException:
        await pool.close()
        raise
    return pool


def create_sync_pool(
    url: str,
    *,
    settings: ConnectionPoolSettings | None = None,
    metrics: ConnectionPoolMetrics | None = None,
    bus: EventBus | None = None,
    driver_options: dict[str, Any] | None = None,
    **changes: Any,
) -> SyncConnectionPool[Any]:
    """Open a pool for threads, ready for use; all else as `create_pool`."""
    base = settings or ConnectionPoolSettings()
    timeout = changes.get("connect_timeout", base.connect_timeout)
    recipe = for_threads(url, **_options(timeout, driver_options))
    pool: SyncConnectionPool[Any] = SyncConnectionPool(
        settings=_settings(recipe, base, changes), metrics=metrics, bus=bus, **recipe.functions
    )
    try:
        pool.initialize()
    except BaseException:
        pool.close()
        raise
    return pool


def _settings(
    recipe: Recipe, base: ConnectionPoolSettings, changes: dict[str, Any]
) -> ConnectionPoolSettings:
    known = {"name": base.name or recipe.name, "target": base.target or recipe.target}
    return base.copy(**(known | changes))


def _options(connect_timeout: float, driver_options: dict[str, Any] | None) -> dict[str, Any]:
    """Return what goes to the driver, which is as patient as the pool if nothing else is said."""
    options = dict(driver_options or {})
    if connect_timeout != math.inf:
        options.setdefault("connect_timeout", connect_timeout)
    return options
