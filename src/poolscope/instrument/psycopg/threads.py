"""Replaces `getconn` and `putconn` of the pools for threads. Its twin is `tasks`."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from psycopg_pool import ConnectionPool, NullConnectionPool
from psycopg_pool.pool import ReturnConnection

from poolscope.instrument.patches import Patches, Wrap
from poolscope.instrument.psycopg import upkeep
from poolscope.instrument.psycopg.state import GONE
from poolscope.instrument.psycopg.upkeep import SourceOf

Method = Callable[..., Any]


def patch(patches: Patches, source_of: SourceOf) -> None:
    """Replace them, and the rest. Raises AttributeError if one is not there."""
    pool, null = ConnectionPool, NullConnectionPool
    patches.wrap(pool, "getconn", _getconn(source_of))
    patches.wrap(pool, "putconn", _putconn(source_of))
    upkeep.patch(patches, source_of, pool, null, ReturnConnection)


def _getconn(source_of: SourceOf) -> Wrap:
    def wrap(inner: Method) -> Method:
        def getconn(self: Any, timeout: float | None = None) -> Any:
            try:
                source = self._poolscope  # `MARK`, and the quickest way to it
            except AttributeError:
                source = source_of(self)
            if source is None:
                return inner(self, timeout)
            began = monotonic()
            request = 0 if self._pool and self._check is None else source.asked(self)
            try:
                connection = inner(self, timeout)
            except BaseException as error:
                source.refused(self, request, began, error)
                raise
            if request:
                source.served(self, request, connection)
            else:
                source.lent(began, connection)
            return connection

        return getconn

    return wrap


def _putconn(source_of: SourceOf) -> Wrap:
    def wrap(inner: Method) -> Method:
        def putconn(self: Any, conn: Any) -> Any:
            try:
                source = self._poolscope  # `MARK`, and the quickest way to it
            except AttributeError:
                source = source_of(self)
            if source is None:
                return inner(self, conn)
            try:
                before = conn.pgconn.transaction_status
            except AttributeError:
                before = None  # the pool will say that this is no connection
            source.released(conn)
            if before == GONE:
                source.broken(self, conn)
            try:
                result = inner(self, conn)
            except BaseException:
                source.not_taken_back(self, conn, before)
                raise
            if conn.pgconn.transaction_status == GONE:
                source.left(self, conn, before)
            return result

        return putconn

    return wrap
