"""What aiomysql and pymysql have in common."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from poolscope.connectors.recipe import Unfit
from poolscope.connectors.urls import Address, refusal

_OPTIONS = frozenset({"unix_socket", "charset", "sql_mode", "init_command", "program_name"})
"""What the query string may say; all else are options of the driver."""


def parameters(address: Address, database: str) -> dict[str, Any]:
    """Return what to connect with; the database goes by that name.

    Raises:
        ValueError: the query string has an option that is not for both drivers.
    """
    if not address.options.keys() <= _OPTIONS:
        known = ", ".join(sorted(_OPTIONS))
        raise refusal(f"of MySQL, its query string may hold {known}; give others to the driver")
    parts = urlsplit(address.url)
    found = {
        "host": unquote(parts.hostname or "") or None,
        "port": parts.port,
        "user": address.user,
        "password": address.password,
        database: unquote(parts.path[1:]) or None,
    }
    return {name: value for name, value in found.items() if value is not None} | address.options


def refuse_unread(connection: Any) -> None:
    """Raise if rows of an unbuffered cursor are still to come: the next one would read them."""
    result = connection._result
    if result is not None and result.unbuffered_active:
        result.unbuffered_active = False  # or it reads what is left when it is forgotten
        raise Unfit("the connection came back with rows unread; read, or close, unbuffered cursors")
