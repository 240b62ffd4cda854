"""How both pools for SQLAlchemy lend connections, and take them back."""

from __future__ import annotations

import time
from sys import _getframe
from typing import Any

from sqlalchemy.exc import DisconnectionError, InvalidatePoolError, InvalidRequestError
from sqlalchemy.pool import PoolProxiedConnection

from poolscope import errors
from poolscope.events import CloseReason
from poolscope.sqlalchemy.errors import PoolTimeoutError
from poolscope.sqlalchemy.facade import Facade
from poolscope.sqlalchemy.records import Fairy, Record

CHECKOUTS = 2
"""Connections that listeners of "checkout" may refuse before the caller is told."""


class BasePool(Facade):
    """Turns what SQLAlchemy asks of a pool into requests, leases and their ends."""

    # Lending

    def connect(self) -> PoolProxiedConnection:
        """Lend a connection; its `close()` gives it back.

        Raises:
            PoolTimeoutError: none could be had within `pool_timeout`; also `sqlalchemy.exc`'s.
            The driver's own error: it could not connect.
        """
        if self._driver is None:
            self._open(_getframe().f_back)
        refused = 0
        while refused < CHECKOUTS:
            record = self._do_get()
            try:
                if echo := self._should_log_debug():
                    what = record.dbapi_connection
                    self.logger.debug("Connection %r checked out from pool", what)
                fairy = Fairy(self, record, echo)
            except BaseException:  # interrupted before anybody could have used it
                self._give_back(record, None)
                raise
            if not self.dispatch.checkout or self._is_welcome(fairy):
                return fairy
            refused += 1
        self.logger.info("Reconnection attempts exhausted on checkout")
        raise InvalidRequestError("This connection is closed")

    def _is_welcome(self, fairy: Fairy) -> bool:
        """Show listeners what is lent; False if they took it for broken, and it was taken back."""
        record: Any = fairy._connection_record
        try:
            self.dispatch.checkout(fairy.dbapi_connection, record, fairy)
        except DisconnectionError as error:
            whose = "all pooled connections" if error.invalidate_pool else "this connection"
            self.logger.info("Disconnection detected on checkout, invalidating %s", whose)
            self._take_back(fairy, error)
            return False
        except BaseException as error:
            record._checkin_failed(error)
            raise
        return True

    def _take_back(self, fairy: Fairy, error: DisconnectionError) -> None:
        """Close what a caller never saw, and let its lease end, without a "checkin"."""
        record: Any = fairy._connection_record
        try:
            if error.invalidate_pool:
                self._outdate(record)
            record.invalidate(error)
        finally:
            record.fairy_ref = None
            fairy.dbapi_connection = None  # type: ignore[assignment]
            fairy._connection_record = None
            self._return_conn(record)

    def _create_connection(self) -> Record:
        return Record(self)

    def _do_get(self) -> Record:
        while True:
            driver = self._driver or self._open()
            try:
                record = self._borrow(driver)
            except errors.PoolError as error:
                verdict = self._verdict(driver, error)
            else:
                if record.dbapi_connection is None or record.ending is not None:
                    # Closed while it lay idle, by somebody who had kept it from an earlier lease.
                    self._give_back(record, record.ending or CloseReason.BROKEN)
                elif not self._pre_ping or self._is_alive(record):
                    return record
                continue
            if verdict is not None:
                raise verdict  # outside the handler, so that it does not show as part of itself
            if self._heir is not None:
                return self._heir._do_get()

    def _verdict(self, driver: Any, error: errors.PoolError) -> BaseException | None:
        """Return what SQLAlchemy's callers expect; None if they should ask again."""
        if isinstance(error, errors.PoolTimeoutError):
            return PoolTimeoutError.of(error)
        if isinstance(error, errors.PoolClosedError) and driver is not self._driver:
            return None  # it was disposed of meanwhile
        if isinstance(error, errors.ConnectFailedError):
            return error.__cause__ or error
        return error

    def _do_return_conn(self, record: Any) -> None:
        if record.dbapi_connection is None or record.ending or record.slot.lease != record.lease:
            self._end_otherwise(record)
        else:
            self._give_back(record, None)

    _return_conn = _do_return_conn

    def _end_otherwise(self, record: Record) -> None:
        """End a lease whose connection is not to be lent again."""
        if record.slot.lease != record.lease:
            record.close()  # the pool was disposed of meanwhile
        elif record.dbapi_connection is None and not record.closed:
            record.pass_on()
            self._let_go(record)
        else:
            self._give_back(record, record.ending)

    # Connections that are no good

    def _is_alive(self, record: Record) -> bool:
        """Ping what is not new. What does not answer is given back, and all of its age with it."""
        if record.fresh:
            record.fresh = False
            return True
        try:
            if self._ping(record):
                return True
        except BaseException as error:
            self._retire(record, error)
            raise
        self.logger.info("Pool pre-ping failed on %r, invalidating pool", record.dbapi_connection)
        self._outdate(record)
        self._retire(record, InvalidatePoolError())
        return False

    def _ping(self, record: Record) -> bool:
        dialect: Any = self._dialect
        return bool(dialect._do_ping_w_event(record.dbapi_connection))

    def _retire(self, record: Record, error: BaseException) -> None:
        try:
            record.invalidate(error)
        finally:
            told = isinstance(error, Exception)
            self._give_back(record, CloseReason.VALIDATION if told else CloseReason.DIRTY)

    def _invalidate(
        self,
        connection: PoolProxiedConnection,
        exception: BaseException | None = None,
        _checkin: bool = True,
    ) -> None:
        """Close all connections as old as this one, as soon as nobody uses them."""
        self._outdate(getattr(connection, "_connection_record", None))
        if _checkin and getattr(connection, "is_valid", False):
            connection.invalidate(exception)

    def _outdate(self, record: Any) -> None:
        """Give up all connections as old as this one, unless that was done before."""
        driver = self._driver
        if driver is not None and (record is None or not record.outdated):
            self._invalidate_time = time.time()
            self._drain(driver)

    # What the two kinds of pool do each in its own way

    def _borrow(self, driver: Any) -> Record:
        """Acquire a connection, and note its place and lease in the record."""
        raise NotImplementedError

    def _give_back(self, record: Record, reason: CloseReason | None) -> None:
        """End a lease; with a reason the connection is closed."""
        raise NotImplementedError

    def _let_go(self, record: Record) -> None:
        """End the lease of a connection that was detached, or lost."""
        raise NotImplementedError

    def _drain(self, driver: Any) -> None:
        """Close what is idle now, and what is lent when it comes back."""
        raise NotImplementedError
