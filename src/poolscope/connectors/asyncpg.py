"""PostgreSQL by asyncpg."""

from __future__ import annotations

from typing import Any

import asyncpg

from poolscope.connectors.recipe import Recipe
from poolscope.connectors.urls import Address


def recipe(address: Address, connect_timeout: float | None, options: dict[str, Any]) -> Recipe:
    """Return what opens `asyncpg.Connection`s; options are those of `asyncpg.connect`."""
    if connect_timeout is not None:
        options = {"timeout": connect_timeout} | options

    async def connect() -> Any:
        return await asyncpg.connect(address.url, **options)

    return address.recipe(connect, _check, _reset, _close)


async def _check(connection: Any) -> bool:
    await connection.execute("select 1")  # without arguments: one message, nothing prepared
    return True


async def _reset(connection: Any) -> None:
    # Rolls back, and forgets all that belongs to a session; raises when the connection is closed,
    # or at work for somebody else. After a cancelled command it waits for the server to give up.
    await connection.reset()


async def _close(connection: Any) -> None:
    await connection.close()  # when this is cut short, the pool terminates the connection
