"""Several pools by name, opened and closed together."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from poolscope.aio.connector import Factory, Function
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.pool import ConnectionPool
from poolscope.settings import ConnectionPoolSettings


class PoolManager:
    """Keep pools by name. Use it on one event loop; `async with` closes all pools at the end."""

    def __init__(self, metrics_enabled: bool = True) -> None:
        """Manage no pools yet. Without metrics the pools of `create_pool` count nothing."""
        self._metrics_enabled = metrics_enabled
        self._pools: dict[str, ConnectionPool[Any]] = {}

    async def create_pool(
        self,
        name: str,
        factory: Factory[Any],
        settings: ConnectionPoolSettings | None = None,
        validate_func: Function[Any] | None = None,
        close_func: Function[Any] | None = None,
        *,
        reset_func: Function[Any] | None = None,
    ) -> ConnectionPool[Any]:
        """Make and open a pool.

        Raises:
            ValueError: there is a pool of that name already.
            ConnectFailedError, PoolTimeoutError: as `ConnectionPool.initialize`; nothing is kept.
        """
        settings = (settings or ConnectionPoolSettings()).copy(name=name)
        pool: ConnectionPool[Any] = ConnectionPool(
            factory, settings, validate_func, close_func, reset_func=reset_func
        )
        if not self._metrics_enabled:
            pool.get_metrics().unsubscribe()
        self._add(name, pool)
        try:
            await pool.initialize()
        except BaseException:
            self._pools.pop(name, None)
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

    async def get_pool(self, name: str) -> ConnectionPool[Any] | None:
        """Return the pool of that name, None if there is none."""
        return self._pools.get(name)

    async def close_pool(self, name: str) -> None:
        """Close a pool and forget it. An unknown name is no error."""
        pool = self._pools.pop(name, None)
        if pool is not None:
            await pool.close()

    async def close_all(self) -> None:
        """Close all pools at the same time and forget them."""
        pools, self._pools = self._pools, {}
        await asyncio.gather(*(pool.close() for pool in pools.values()))

    async def close_all_pools(self) -> None:
        """Close all pools, as `close_all`."""
        await self.close_all()

    def get_metrics(self) -> dict[str, ConnectionPoolMetrics]:
        """Return the metrics of each pool, by name."""
        return {name: pool.get_metrics() for name, pool in self._pools.items()}

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
