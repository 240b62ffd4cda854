"""How a connection is interrupted from another thread: who waits for its server waits no more."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any


def shut_down(connection: Any) -> None:
    """Shut down the socket of a connection of psycopg, pymysql, redis-py, or one like them.

    Whoever waits in it gets the driver's own error for a lost connection. The socket itself is
    closed by the driver, as always.
    """
    _shut(connection, socket.SHUT_RDWR)


def hang_up(connection: Any) -> None:
    """Have whoever waits for a reply find its end; what is written still goes out."""
    with suppress(Exception):  # it is closed already, or was lost: nobody waits there
        _shut(connection, socket.SHUT_RD)


def _shut(connection: Any, how: int) -> None:
    found = _find(connection)
    if isinstance(found, int):
        with socket.socket(fileno=os.dup(found)) as copy:
            copy.shutdown(how)
    else:
        socket.socket.shutdown(found, how)  # not that of TLS, which would go on in plain text


def _find(connection: Any) -> Any:
    """Return the socket, or its descriptor. The others keep it in `_sock`."""
    if hasattr(connection, "fileno"):
        return connection.fileno()
    return (getattr(connection, "connection", None) or connection)._sock
