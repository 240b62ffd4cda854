"""SQLite by Python's own driver, for threads."""

from __future__ import annotations

import sqlite3
from typing import Any

from poolscope.connectors.recipe import Recipe
from poolscope.connectors.sqlite import parameters
from poolscope.connectors.urls import Address
from poolscope.functions import prompt


def recipe(address: Address, connect_timeout: float | None, options: dict[str, Any]) -> Recipe:
    """Return what opens `sqlite3.Connection`s; options are those of `sqlite3.connect`.

    Opening a file takes no time to speak of: `connect_timeout` is not needed.
    """
    options = parameters(address) | options

    def connect() -> Any:
        return sqlite3.connect(**options)

    return address.recipe(connect, _check, _reset, _close, terminate)


@prompt()
def _check(connection: sqlite3.Connection) -> bool:
    connection.execute("select 1").close()
    return True


@prompt()
def _reset(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # which raises if the connection is closed
        connection.rollback()


def _close(connection: sqlite3.Connection) -> None:
    connection.close()


def terminate(connection: sqlite3.Connection) -> None:
    """Close the file; a thread that is at work on it ends with an error first."""
    connection.interrupt()
    connection.close()
