"""MySQL and MariaDB by pymysql, for threads."""

from __future__ import annotations

from typing import Any

import pymysql

from poolscope.connectors.mysql import parameters, refuse_unread
from poolscope.connectors.recipe import Recipe
from poolscope.connectors.sockets import hang_up, shut_down
from poolscope.connectors.urls import Address
from poolscope.functions import prompt


def recipe(address: Address, connect_timeout: float | None, options: dict[str, Any]) -> Recipe:
    """Return what opens `pymysql.Connection`s; options are those of `pymysql.connect`."""
    options = parameters(address, "database") | options
    if connect_timeout is not None:
        options.setdefault("connect_timeout", connect_timeout)
    autocommit = options.get("autocommit", False)

    def connect() -> Any:
        return pymysql.connect(**options)

    @prompt(shut_down)
    def reset(connection: Any) -> None:
        refuse_unread(connection)
        # Asked even if no transaction is known: an error does not say that it began one.
        connection.rollback()
        if autocommit is not None and connection.get_autocommit() != autocommit:
            connection.autocommit(autocommit)

    return address.recipe(connect, _check, reset, _close, terminate)


@prompt(shut_down)
def _check(connection: Any) -> bool:
    connection.ping(reconnect=False)
    return True


def _close(connection: Any) -> None:
    if connection.open:
        hang_up(connection)  # or it would wait for its holder, who may wait for the server
        connection.close()


def terminate(connection: Any) -> None:
    """Close the socket now, without a word to the server."""
    shut_down(connection)
    connection._force_close()
