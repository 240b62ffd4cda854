"""MySQL and MariaDB by aiomysql."""

from __future__ import annotations

from typing import Any

import aiomysql  # type: ignore[import-untyped]

from poolscope.connectors.mysql import parameters, refuse_unread
from poolscope.connectors.recipe import Recipe
from poolscope.connectors.urls import Address


def recipe(address: Address, connect_timeout: float | None, options: dict[str, Any]) -> Recipe:
    """Return what opens `aiomysql.Connection`s; options are those of `aiomysql.connect`."""
    options = {"connect_timeout": connect_timeout} | parameters(address, "db") | options
    autocommit = options.get("autocommit", False)

    async def connect() -> Any:
        connection = aiomysql.Connection(**options)
        try:
            await connection._connect()
        except BaseException:  # a cancelled connect leaves its socket open
            terminate(connection)
            raise
        return connection

    async def reset(connection: Any) -> None:
        refuse_unread(connection)
        # Asked even if no transaction is known: an error does not say that it began one.
        await connection.rollback()
        if autocommit is not None and connection.get_autocommit() != autocommit:
            await connection.autocommit(autocommit)

    return address.recipe(connect, _check, reset, _close, terminate)


async def _check(connection: Any) -> bool:
    await connection.ping(reconnect=False)
    return True


async def _close(connection: Any) -> None:
    await connection.ensure_closed()


def terminate(connection: Any) -> None:
    """Close the socket now, whatever is still to be sent."""
    if connection._writer is not None:
        connection._writer.transport.abort()
    connection.close()
