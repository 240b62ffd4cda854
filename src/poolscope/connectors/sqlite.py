"""What aiosqlite and sqlite3 have in common."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from poolscope.connectors.urls import Address


def parameters(address: Address) -> dict[str, Any]:
    """Return what to connect with, for use by one thread after the other."""
    database = address.target.namespace or ":memory:"
    query = address.url.partition("?")[2]
    is_uri = database.startswith("file:")
    if query and not is_uri:
        database, is_uri = f"file:{quote(database)}", True
    if query:
        database = f"{database}?{query}"
    return {"database": database, "uri": is_uri, "check_same_thread": False}
