"""SQLite by Python's own driver, for threads."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import Any

from poolscope.connectors.recipe import Recipe
from poolscope.connectors.sqlite import parameters
from poolscope.connectors.urls import Address
from poolscope.functions import prompt


class Connection(sqlite3.Connection):
    """A connection that is closed when it is forgotten, if not before."""

    def __del__(self) -> None:
        """Close it, as nobody else can."""
        with suppress(sqlite3.Error):  # it could not be opened
            self.close()


def recipe(address: Address, connect_timeout: float | None, options: dict[str, Any]) -> Recipe:
    """Return what opens `sqlite3.Connection`s; options are those of `sqlite3.connect`.

    Opening a file takes no time to speak of: `connect_timeout` is not needed.
    """
    options = parameters(address) | {"factory": Connection} | options

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
    """Interrupt what is at work. To close now what a thread uses would end the process."""
    connection.interrupt()
