"""What all pools of ours show, whatever drives them."""

from __future__ import annotations

import math
from typing import Any, Generic, TypeVar

from poolscope.bus import EventBus
from poolscope.engine import BaseEngine
from poolscope.faults import shown
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.settings import ConnectionPoolSettings
from poolscope.stats import PoolStats

C = TypeVar("C")


class BasePool(Generic[C]):
    """A pool as one looks at it. All of this is safe from any thread."""

    _driver: BaseEngine[C]

    @property
    def name(self) -> str:
        """Return the name on every event and metric of this pool, unique in this process."""
        return self._driver.name

    @property
    def bus(self) -> EventBus:
        """Return the bus on which this pool tells what happens."""
        return self._driver.bus

    @property
    def settings(self) -> ConnectionPoolSettings:
        """Return a copy of the settings in force."""
        return self._driver.settings.copy()

    def stats(self) -> PoolStats:
        """Return all levels in one consistent snapshot. Safe from any thread."""
        return self._driver.stats()

    def get_metrics(self) -> ConnectionPoolMetrics:
        """Return what was counted. Safe from any thread."""
        return self._driver.metrics

    @property
    def pool_size(self) -> int:
        """Return how many connections are idle."""
        return self.stats().idle

    @property
    def active_connections(self) -> int:
        """Return how many connections are in use."""
        return self.stats().in_use

    def __repr__(self) -> str:
        """Return the state of the pool as one line of a dashboard."""
        stats, metrics = self.stats(), self.get_metrics()
        return (
            f"<{type(self).__name__} {self.name!r} {stats.state}: {stats} | "
            f"{metrics.connection_requests} requests, {metrics.error_rate:.1%} failed, "
            f"wait p99 {metrics.wait.quantile(0.99) * 1000:.1f} ms, "
            f"use p99 {metrics.use.quantile(0.99) * 1000:.1f} ms>"
        )

    def _limit(self, timeout: float | None) -> float:
        return self._driver.timeout if timeout is None else checked(timeout)


def checked(timeout: Any) -> float:
    """Return a timeout in seconds. Raises ValueError if it cannot be one."""
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not number or math.isnan(timeout) or timeout < 0:
        raise ValueError(f"timeout must be a number of seconds of at least 0: got {shown(timeout)}")
    return float(timeout)


def checked_settings(settings: ConnectionPoolSettings | None) -> ConnectionPoolSettings:
    """Return settings, by default those of the class. Raises ValueError if they are none."""
    if settings is not None and not isinstance(settings, ConnectionPoolSettings):
        kind = type(settings).__name__
        raise ValueError(f"settings must be ConnectionPoolSettings: got a {kind}")
    return settings or ConnectionPoolSettings()
