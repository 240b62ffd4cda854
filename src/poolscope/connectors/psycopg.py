"""PostgreSQL by psycopg, for threads."""

from __future__ import annotations

import math
from typing import Any

import psycopg
from psycopg import generators
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import ExecStatus, TransactionStatus

from poolscope.connectors import keepalive
from poolscope.connectors.recipe import Recipe, Unfit
from poolscope.connectors.sockets import hang_up, shut_down
from poolscope.connectors.urls import Address, refusal
from poolscope.functions import prompt

_MODES = ("isolation_level", "read_only", "deferrable")
"""What a borrower may have set for transactions to come; None is the server's own."""


def recipe(address: Address, connect_timeout: float | None, options: dict[str, Any]) -> Recipe:
    """Return what opens `psycopg.Connection`s; options are those of `psycopg.connect`."""
    parameters: dict[str, Any] = keepalive.LIBPQ | _read(address.url) | options
    if connect_timeout is not None:
        parameters.setdefault("connect_timeout", math.ceil(connect_timeout))
    autocommit = bool(options.get("autocommit", False))

    def connect() -> Any:
        return psycopg.connect(**parameters)

    @prompt(shut_down)
    def reset(connection: Any) -> None:
        _roll_back(connection)
        if connection.autocommit != autocommit:
            connection.autocommit = autocommit
        for mode in _MODES:
            if getattr(connection, mode) is not None:
                setattr(connection, mode, None)

    return address.recipe(connect, _check, reset, _close, terminate)


def _read(url: str) -> dict[str, Any]:
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.Error:
        pass  # and is forgotten: its text holds parts of the URL
    raise refusal("libpq cannot read it")


@prompt(shut_down)
def _check(connection: Any) -> bool:
    with connection.lock:  # below cursors, which would begin a transaction
        connection.pgconn.send_query(b"")
        results = connection.wait(generators.execute(connection.pgconn))
    return bool(results[-1].status == ExecStatus.EMPTY_QUERY)


def _roll_back(connection: Any) -> None:
    """Roll back, if there is anything to; the driver knows without asking the server."""
    if connection.closed:
        raise Unfit("the connection was closed or lost while it was in use")
    status = connection.info.transaction_status
    if status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
        connection.rollback()
    elif status != TransactionStatus.IDLE:
        raise Unfit("the connection came back in the middle of a command")


def _close(connection: Any) -> None:
    if not connection.lock.acquire(blocking=False):
        # Its holder waits for a reply. To free now what that thread uses would end the process.
        hang_up(connection)
        connection.lock.acquire()
    try:
        connection.close()
    finally:
        connection.lock.release()


def terminate(connection: Any) -> None:
    """Close the socket now, also of an `AsyncConnection`. Who waits in it is left the rest."""
    shut_down(connection)
    if isinstance(connection, psycopg.AsyncConnection):
        if not connection.lock.locked():
            connection.pgconn.finish()
    elif connection.lock.acquire(blocking=False):
        try:
            connection.close()
        finally:
            connection.lock.release()
