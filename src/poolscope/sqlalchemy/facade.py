"""The outside of both pools for SQLAlchemy: arguments, beginning and end, numbers."""

from __future__ import annotations

import math
from types import FrameType
from typing import Any, Self

from poolscope import registry
from poolscope.bus import ROOT, EventBus
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.settings import ConnectionPoolSettings
from poolscope.sqlalchemy import naming
from poolscope.sqlalchemy.records import Owner
from poolscope.stats import PoolStats

FIRST_LIMIT = 16
"""Where the limit of a pool begins that has none: it doubles whenever it is reached."""
SHORTEST_LIFE = 1e-6
"""Seconds. What `pool_recycle=0` means: each connection serves once."""


class Facade(Owner):
    """One of SQLAlchemy's pools outside, one of ours inside.

    That is made with the first connection, and ends with `dispose()`; if this one is
    used again, another is made.
    """

    _driver: Any = None
    """What drives the pool inside, while there is one."""
    _metrics: ConnectionPoolMetrics | None = None
    _disposed = False
    _heir: Self | None = None
    """The pool made after this one was disposed of."""

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
        self._settings = ConnectionPoolSettings(
            name=name or self._orig_logging_name,
            min_size=min_size,
            max_size=max(1, min_size, self._limit()),
            max_waiting=max_waiting,
            idle_timeout=idle_timeout,
            connect_timeout=connect_timeout,
            validate_timeout=validate_timeout,
            close_timeout=close_timeout,
            lifetime_jitter=lifetime_jitter,
            leak_threshold=leak_threshold,
            **self._mapped(),
        )

    def _limit(self) -> int:
        if self._max_overflow < 0:
            return max(FIRST_LIMIT, 2 * self._pool_size)
        return self._pool_size + self._max_overflow

    def _mapped(self) -> dict[str, Any]:
        """Return the settings which follow from SQLAlchemy's arguments alone."""
        return {
            "max_idle": self._pool_size or 2**31,
            "max_lifetime": math.inf if self._recycle < 0 else self._recycle or SHORTEST_LIFE,
            "acquire_timeout": math.inf if self._timeout is None else self._timeout,
            "max_connecting": 2**31,
            "retry_limit": 0,
            "retry_delay": 0.0,
        }

    # Beginning and end

    def _open(self, frame: FrameType | None = None) -> Any:
        settings, url = self._settings, naming.address(self, frame)
        with registry.naming:  # for the first requests may come at the same time
            if self._driver is None:
                if url is not None:
                    settings.target = target = naming.target(url)
                    settings.name = settings.name or naming.name(url, target)
                driver = self._start(settings)
                # Who finds room gets a connection, however little patience those have who wait.
                driver.patience = max(driver.timeout, settings.connect_timeout)
                self._driver = driver
            return self._driver

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
        pool._settings, pool._bus = self._settings, self._bus
        with registry.naming:
            driver = self._driver
            if self._disposed:
                pool._metrics, pool._driver = self._metrics, driver  # opened by those who waited
                self._driver, self._heir = None, pool
            elif driver is not None and driver._forked:
                registry.release(driver.name, driver)
        return pool

    def dispose(self) -> None:
        """Close the pool inside. What is lent stays usable, and is closed when it is given back.

        There is room for others at once: what is lent counts no more, as if it were detached.
        """
        with registry.naming:
            driver, self._driver, self._disposed = self._driver, None, True
        if driver is not None:
            self._end(driver)
        self.logger.info("Pool disposed. %s", self.status())

    # Looking

    @property
    def bus(self) -> EventBus:
        """Return the bus on which this pool, and those that come after it, tell what happens."""
        return self._bus

    def get_metrics(self) -> ConnectionPoolMetrics:
        """Return what was counted, before the last `dispose()` too. Safe from any thread."""
        with registry.naming:
            if self._metrics is None:
                self._metrics = ConnectionPoolMetrics()
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

    # What the two kinds of pool do each in its own way

    def _start(self, settings: ConnectionPoolSettings) -> Any:
        """Return a new driver with these settings."""
        raise NotImplementedError

    def _end(self, driver: Any) -> None:
        """Let go of what is lent, and close the pool inside."""
        raise NotImplementedError
