"""What both pools for SQLAlchemy have in common: one of SQLAlchemy's outside, ours inside."""

from __future__ import annotations

import math
import time
from sys import _getframe
from types import FrameType
from typing import Any, Self

from sqlalchemy.exc import DisconnectionError, InvalidatePoolError, InvalidRequestError
from sqlalchemy.pool import PoolProxiedConnection

from poolscope import errors, registry
from poolscope.bus import ROOT, EventBus
from poolscope.events import CloseReason
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.settings import ConnectionPoolSettings
from poolscope.sqlalchemy import naming
from poolscope.sqlalchemy.errors import PoolTimeoutError
from poolscope.sqlalchemy.records import Fairy, Owner, Record
from poolscope.stats import PoolStats

CHECKOUTS = 2
"""Connections that listeners of "checkout" may refuse before the caller is told."""
FIRST_LIMIT = 16
"""Where the limit of a pool begins that has none: it doubles whenever it is reached."""
SHORTEST_LIFE = 1e-6
"""Seconds. What `pool_recycle=0` means: each connection serves once."""


class BasePool(Owner):
    """Turns what SQLAlchemy asks of a pool into requests, leases and their ends.

    The pool inside is made with the first connection, and ends with `dispose()`; if this one is
    used again, another is made.
    """

    _driver: Any = None
    """What drives the pool inside, while there is one."""

    def __init__(
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float | None = 30.0,
        use_lifo: bool = False,
        name: str | None = None,
        min_size: int = 0,
        max_waiting: int | None = None,
        idle_timeout: float = math.inf,
        leak_threshold: float | None = 60.0,
        lifetime_jitter: float = 0.1,
        connect_timeout: float = 30.0,
        validate_timeout: float = 5.0,
        close_timeout: float = 5.0,
        **options: Any,
    ) -> None:
        """Make a pool, as `create_engine` does; docs/sqlalchemy.md explains the arguments.

        Raises:
            ValueError: an argument cannot be what it should be.
        """
        super().__init__(creator, **options)
        self._pool_size = pool_size
        self._max_overflow = -1 if pool_size == 0 else max_overflow
        self._timeout = timeout
        self._use_lifo = use_lifo
        self.left_infos = []
        self._bus = EventBus(ROOT)
        self._metrics = ConnectionPoolMetrics()
        unlimited = self._max_overflow < 0
        limit = max(FIRST_LIMIT, 2 * pool_size) if unlimited else pool_size + max_overflow
        self._settings = ConnectionPoolSettings(
            name=name or self._orig_logging_name,
            min_size=min_size,
            max_size=max(1, min_size, limit),
            max_idle=pool_size or 2**31,
            max_lifetime=math.inf if self._recycle < 0 else self._recycle or SHORTEST_LIFE,
            acquire_timeout=math.inf if timeout is None else timeout,
            idle_timeout=idle_timeout,
            retry_limit=0,
            retry_delay=0.0,
            max_waiting=max_waiting,
            max_connecting=2**31,
            connect_timeout=connect_timeout,
            validate_timeout=validate_timeout,
            close_timeout=close_timeout,
            lifetime_jitter=lifetime_jitter,
            leak_threshold=leak_threshold,
        )

    # Lending

    def connect(self) -> PoolProxiedConnection:
        """Lend a connection; its `close()` gives it back.

        Raises:
            PoolTimeoutError: none could be had within `pool_timeout`; also `sqlalchemy.exc`'s.
            The driver's own error: it could not connect.
        """
        if self._driver is None:
            self._open(_getframe(1))
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

    def _start(self, settings: ConnectionPoolSettings) -> Any:
        """Return a new driver with these settings."""
        raise NotImplementedError

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

    def _end(self, driver: Any) -> None:
        """Let go of what is lent, and close the pool inside."""
        raise NotImplementedError

    # Beginning and end

    def _open(self, frame: FrameType | None = None) -> Any:
        settings, url = self._settings, naming.address(self, frame)
        if url is not None:
            settings.target = target = naming.target(url)
            settings.name = settings.name or naming.name(url, target)
        driver = self._start(settings)
        # Who finds room gets a connection, however little patience those have who have to wait.
        driver.patience = max(driver.timeout, settings.connect_timeout)
        self._driver = driver
        return driver

    def recreate(self) -> Self:
        """Return a new pool like this one; after `dispose()` it goes on where this one ended."""
        self.logger.info("Pool recreating")
        pool = self.__class__(
            self._creator,
            pool_size=self._pool_size,
            max_overflow=self._max_overflow,
            timeout=self._timeout,
            use_lifo=self._use_lifo,
            recycle=self._recycle,
            pre_ping=self._pre_ping,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            dialect=self._dialect,
            _dispatch=self.dispatch,
        )
        pool._settings, pool._bus, driver = self._settings, self._bus, self._driver
        if driver is None:
            pool._metrics = self._metrics
        elif driver._forked:
            registry.release(driver.name, driver)
        return pool

    def dispose(self) -> None:
        """Close the pool inside. What is lent stays usable, and is closed when it is given back.

        There is room for others at once: what is lent counts no more, as if it were detached.
        """
        driver, self._driver = self._driver, None
        if driver is not None:
            self._end(driver)
        self.logger.info("Pool disposed. %s", self.status())

    # Looking

    @property
    def bus(self) -> EventBus:
        """Return the bus on which this pool, and those that come after it, tell what happens."""
        return self._bus

    def get_metrics(self) -> ConnectionPoolMetrics:
        """Return what was counted. Safe from any thread."""
        return self._metrics

    def stats(self) -> PoolStats | None:
        """Return all levels in one consistent snapshot; None before the first connection.

        Safe from any thread.
        """
        driver = self._driver
        return driver.stats() if driver is not None else None

    def status(self) -> str:
        """Return size, idle connections, overflow and connections in use as a sentence."""
        return (
            f"Pool size: {self.size()}  Connections in pool: {self.checkedin()} "
            f"Current Overflow: {self.overflow()} Current Checked out connections: "
            f"{self.checkedout()}"
        )

    def size(self) -> int:
        """Return `pool_size`: how many idle connections are kept."""
        return self._pool_size

    def timeout(self) -> float | None:
        """Return `pool_timeout`, in seconds."""
        return self._timeout

    def checkedin(self) -> int:
        """Return how many connections are idle."""
        stats = self.stats()
        return stats.idle if stats else 0

    def checkedout(self) -> int:
        """Return how many connections are in use."""
        stats = self.stats()
        return stats.in_use if stats else 0

    def overflow(self) -> int:
        """Return how many connections there are beyond `pool_size`; below, it is negative."""
        stats = self.stats()
        return (stats.size if stats else 0) - self._pool_size if self._pool_size else 0
