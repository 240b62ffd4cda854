"""Several pools by name, opened and closed together."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from poolscope.errors import PoolTimeoutError
from poolscope.events import ConnectFailed, ConnectionOpened
from poolscope.functions import Factory, Function
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.pool import ConnectionPool
from poolscope.reasons import ConnectFault
from poolscope.settings import ConnectionPoolSettings
from poolscope.stats import PoolStats


class PoolManager:
    """Keep pools by name. Use it on one event loop; `async with` closes all pools at the end."""

    def __init__(self, metrics_enabled: bool = True) -> None:
        """Manage no pools yet. Without metrics the pools of `create_pool` count nothing."""
        self._metrics_enabled = metrics_enabled
        self._pools: dict[str, ConnectionPool[Any]] = {}
        self._connects: dict[str, _Connects] = {}

    async def create_pool(
        self,
        name: str,
        factory: Factory[Any],
        settings: ConnectionPoolSettings | None = None,
        validate_func: Function[Any] | None = None,
        close_func: Function[Any] | None = None,
        *,
        reset_func: Function[Any] | None = None,
        terminate_func: Function[Any] | None = None,
        required: bool = True,
    ) -> ConnectionPool[Any]:
        """Make and open a pool; one that is not `required` goes on trying in the background.

        Raises:
            ValueError: there is a pool of that name already.
            ConnectFailedError, PoolTimeoutError: as `ConnectionPool.initialize`, if the pool is
                required; nothing is kept.
        """
        settings = (settings or ConnectionPoolSettings()).copy(name=name)
        pool: ConnectionPool[Any] = ConnectionPool(
            factory,
            settings,
            validate_func,
            close_func,
            reset_func=reset_func,
            terminate_func=terminate_func,
        )
        if not self._metrics_enabled:
            pool.get_metrics().unsubscribe()
        self._add(name, pool)
        try:
            if required:
                await pool.initialize()
            else:
                with suppress(PoolTimeoutError):
                    await pool.wait_ready(0)
        except BaseException:
            self._forget(name)
            raise
        return pool

    def add_pool(self, pool: ConnectionPool[Any]) -> None:
        """Manage a pool made elsewhere, under its own name.

        Raises:
            ValueError: there is a pool of that name already.
        """
        self._add(pool.name, pool)

    def _add(self, name: str, pool: ConnectionPool[Any]) -> None:
        if name in self._pools:
            raise ValueError(
                f"there is a pool named {name!r} already; close_pool({name!r}) first, or choose "
                "another name"
            )
        self._pools[name] = pool
        self._connects[name] = _Connects(pool)

    def _forget(self, name: str) -> ConnectionPool[Any] | None:
        if (connects := self._connects.pop(name, None)) is not None:
            connects.subscription.unsubscribe()
        return self._pools.pop(name, None)

    async def get_pool(self, name: str) -> ConnectionPool[Any] | None:
        """Return the pool of that name, None if there is none."""
        return self._pools.get(name)

    async def close_pool(self, name: str) -> None:
        """Close a pool and forget it. An unknown name is no error."""
        pool = self._forget(name)
        if pool is not None:
            await pool.close()

    async def close_all(self) -> None:
        """Close all pools at the same time and forget them."""
        pools = [pool for name in list(self._pools) if (pool := self._forget(name)) is not None]
        await asyncio.gather(*(pool.close() for pool in pools))

    async def close_all_pools(self) -> None:
        """Close all pools, as `close_all`."""
        await self.close_all()

    def get_metrics(self) -> dict[str, ConnectionPoolMetrics]:
        """Return the metrics of each pool, by name."""
        return {name: pool.get_metrics() for name, pool in self._pools.items()}

    def get_health(self) -> dict[str, PoolHealth]:
        """Return the state of each pool and how connecting goes, by name. Asks no server."""
        return {name: self._connects[name].health(pool) for name, pool in self._pools.items()}

    def print_summary(self) -> None:
        """Print the metrics of each pool."""
        for name, metrics in self.get_metrics().items():
            print(f"pool {name}")
            metrics.print_summary()

    def print_metrics(self) -> None:
        """Print the metrics of each pool, as `print_summary`."""
        self.print_summary()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close_all()


@dataclass(frozen=True, slots=True)
class PoolHealth:
    """Say where a pool's connections are, and whether it can open some. Times are in seconds."""

    stats: PoolStats
    opened: bool
    """Whether a connection was ever opened."""
    fault: ConnectFault | None
    """Why connects fail; None if the last one did not."""
    failing_for: float
    """How long connects have been failing; 0 if they do not."""
    last_failure: float
    """How long ago the last one failed; infinite if connects do not."""


class _Connects:
    """How the connects of one pool went, since it came to a manager."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._opened = pool.stats().idle + pool.stats().in_use > 0
        self._fault: ConnectFault | None = None
        self._since = self._last = 0.0
        self.subscription = pool.bus.tap(
            {ConnectionOpened: self._succeeded, ConnectFailed: self._failed}
        )

    def _succeeded(self, *_: object) -> None:
        self._opened, self._fault = True, None

    def _failed(self, _pool: str, moment: float, *fields: Any) -> None:
        fault: ConnectFault = fields[-1]
        if fault is ConnectFault.ABANDONED:
            return
        if self._fault is None:
            self._since = moment
        self._fault, self._last = fault, moment

    def health(self, pool: ConnectionPool[Any]) -> PoolHealth:
        stats = pool.stats()
        if self._fault is None:
            return PoolHealth(stats, self._opened, None, 0.0, math.inf)
        since, last = stats.time - self._since, stats.time - self._last
        return PoolHealth(stats, self._opened, self._fault, max(0.0, since), max(0.0, last))
