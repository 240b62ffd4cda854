"""Replaces methods of the pools for threads. Its twin is `tasks`."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from psycopg_pool import ConnectionPool, NullConnectionPool
from psycopg_pool.pool import ReturnConnection

from poolscope.events import CloseReason
from poolscope.instrument.library import MARK
from poolscope.instrument.patches import Patches, Wrap
from poolscope.instrument.psycopg.source import PsycopgPool
from poolscope.instrument.psycopg.state import GONE

Method = Callable[..., Any]
SourceOf = Callable[[Any], Any]
Then = Callable[[PsycopgPool, Any], None]


def patch(patches: Patches, source_of: SourceOf) -> None:
    """Replace them. Raises AttributeError if one is not there."""
    pool, null = ConnectionPool, NullConnectionPool
    patches.wrap(pool, "getconn", _getconn(source_of))
    patches.wrap(pool, "putconn", _putconn(source_of))
    patches.wrap(pool, "_open", _open(source_of))
    patches.wrap(pool, "_connect", _connect(source_of))
    patches.wrap(ReturnConnection, "_run", _return_later(source_of))
    for name in ("_maybe_close_connection", "_add_to_pool"):
        patches.wrap(null, name, _pass_on(source_of))
    patches.wrap(pool, "_shrink_pool", _closing(source_of, CloseReason.IDLE))
    patches.wrap(pool, "check", _closing(source_of, CloseReason.VALIDATION))
    patches.wrap(pool, "close", _closing(source_of, CloseReason.POOL_CLOSED, PsycopgPool.ended))
    if hasattr(pool, "drain"):
        patches.wrap(pool, "drain", _closing(source_of, CloseReason.STALE, PsycopgPool.drained))
    for owner in (pool, null):
        patches.wrap(owner, "resize", _resize(source_of))


def _open(source_of: SourceOf) -> Wrap:
    def wrap(inner: Method) -> Method:
        def _open(self: Any) -> Any:
            source_of(self)
            return inner(self)

        return _open

    return wrap


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


def _return_later(source_of: SourceOf) -> Wrap:
    def wrap(inner: Method) -> Method:
        def _run(self: Any, pool: Any) -> Any:
            source = pool.__dict__.get(MARK) or source_of(pool)
            if source is None:
                return inner(self, pool)
            conn, before = self.conn, self.conn.pgconn.transaction_status
            try:
                return inner(self, pool)
            finally:
                if conn.pgconn.transaction_status == GONE:
                    source.dropped(pool, conn, before, self.from_getconn)

        return _run

    return wrap


def _pass_on(source_of: SourceOf) -> Wrap:
    """A null pool has got a connection, which it closes unless somebody waits."""

    def wrap(inner: Method) -> Method:
        def method(self: Any, conn: Any) -> Any:
            source = self.__dict__.get(MARK) or source_of(self)
            if source is None:
                return inner(self, conn)
            before = conn.pgconn.transaction_status
            try:
                return inner(self, conn)
            finally:
                if before != GONE == conn.pgconn.transaction_status:
                    source.not_kept(self, conn)

        return method

    return wrap


def _connect(source_of: SourceOf) -> Wrap:
    def wrap(inner: Method) -> Method:
        def _connect(self: Any, timeout: float | None = None) -> Any:
            source = self.__dict__.get(MARK) or source_of(self)
            if source is None:
                return inner(self, timeout=timeout)
            new = source.started(timeout)
            try:
                connection = inner(self, timeout=timeout)
            except BaseException as error:
                source.not_opened(new, error)
                raise
            source.opened(new, connection)
            return connection

        return _connect

    return wrap


def _closing(source_of: SourceOf, reason: CloseReason, then: Then | None = None) -> Wrap:
    """What may close idle connections, all for one reason."""

    def wrap(inner: Method) -> Method:
        def method(self: Any, *args: Any, **options: Any) -> Any:
            source = self.__dict__.get(MARK) or source_of(self)
            if source is None:
                return inner(self, *args, **options)
            there = source.look_around(self)
            try:
                return inner(self, *args, **options)
            finally:
                source.sweep(self, there, reason)
                if then is not None:
                    then(source, self)

        return method

    return wrap


def _resize(source_of: SourceOf) -> Wrap:
    def wrap(inner: Method) -> Method:
        def resize(self: Any, min_size: int, max_size: int | None = None) -> Any:
            result = inner(self, min_size, max_size)
            if (source := self.__dict__.get(MARK) or source_of(self)) is not None:
                source.resized(self)
            return result

        return resize

    return wrap
