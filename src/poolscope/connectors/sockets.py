"""How a connection is interrupted from another thread: who waits for its server waits no more."""

from __future__ import annotations

import os
import socket
from typing import Any


def shut_down(connection: Any) -> None:
    """Shut down the socket of a connection of psycopg, pymysql, redis-py, or one like them.

    Whoever waits in it gets the driver's own error for a lost connection. The socket itself is
    closed by the driver, as always.
    """
    found = _find(connection)
    if isinstance(found, int):
        with socket.socket(fileno=os.dup(found)) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    else:
        found.shutdown(socket.SHUT_RDWR)


def _find(connection: Any) -> Any:
    """Return the socket, or its descriptor. The others keep it in `_sock`."""
    if hasattr(connection, "fileno"):
        return connection.fileno()
    return (getattr(connection, "connection", None) or connection)._sock
