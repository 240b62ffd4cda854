"""Pools of asyncpg.

A pool consists of holders: each has a place for one connection, opens it, lends it and takes it
back. Their methods tell what happens; of its end, by whomever, a connection tells itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asyncpg import Connection
from asyncpg.pool import Pool, PoolConnectionHolder

from poolscope.instrument.asyncpg.source import (
    Holders,
    Source,
    asking,
    has_to_wait,
    look_for_all,
    owner_of,
    why_closed,
)
from poolscope.instrument.library import MARK, Library
from poolscope.instrument.patches import Patches
from poolscope.instrument.source import ForeignPool

Inner = Callable[..., Any]


class AsyncpgLibrary(Library):
    """Observes `asyncpg.Pool`, each from when it is initialized."""

    name = "asyncpg"
    distribution = "asyncpg"
    tried = "0.29.0 to 0.32.0"

    def kinds(self) -> tuple[type, ...]:
        """Return the one class there is."""
        return (Pool,)

    def patch(self, patches: Patches) -> None:
        """Replace what lends, takes back, opens and closes."""
        look_for_all()
        patches.wrap(Pool, "_async__init__", _initialize)
        patches.wrap(Pool, "_acquire", _acquire)
        patches.wrap(Pool, "close", _close)
        patches.wrap(Pool, "terminate", _terminate)
        patches.wrap(PoolConnectionHolder, "connect", _connect)
        patches.wrap(PoolConnectionHolder, "_release", _free)
        patches.wrap(Connection, "close", _say_goodbye)
        patches.wrap(Connection, "_cleanup", _end)

    def anchor(self, pool: Any) -> Holders:
        """Return its holders, in a list that a source can be found by."""
        holders = pool._holders
        if type(holders) is not Holders:
            pool._holders = holders = Holders(holders)
        return holders

    def source_of(self, pool: Any) -> Source | None:
        """Return what to report to; unless it was asked for, not before the pool has begun."""
        holders = pool._holders
        source: Any = getattr(holders, MARK, None)
        if source is None and self.everywhere and _is_begun(pool):
            source = super().source_of(pool)
        return source  # type: ignore[no-any-return]

    def begin(self, pool: Any, name: str | None) -> ForeignPool:
        """Return a new source."""
        return Source(pool, self.anchor(pool), name)

    def uninstrument(self) -> None:
        """Observe no pool any more, and put back all that was replaced."""
        with self._lock:
            anchors = [*self._sources, *self._left]
            super().uninstrument()
            for holders in anchors:
                if holders:
                    holders[0]._pool._holders = list(holders)


def _is_begun(pool: Any) -> bool:
    """Tell whether a pool has all its holders: another thread may be about to add them."""
    return len(pool._holders) == pool.get_max_size() and not pool.is_closing()


LIBRARY = AsyncpgLibrary()


def _initialize(inner: Inner) -> Inner:
    async def initialize(pool: Any) -> Any:
        try:
            return await inner(pool)
        finally:
            source = LIBRARY.source_of(pool)
            if source is not None and pool.is_closing():  # it failed
                source.retire()

    return initialize


def _acquire(inner: Inner) -> Inner:
    async def acquire(pool: Any, timeout: Any) -> Any:
        source = getattr(pool._holders, MARK, None) or LIBRARY.source_of(pool)
        if source is None:
            return await inner(pool, timeout)
        request = source.requested()
        asking.set(request)
        if has_to_wait(pool):
            source.queued(request)
        try:
            proxy = await inner(pool, timeout)
        except BaseException as error:
            source.lent_nothing(request, error, pool, timeout is not None)
            raise
        source.lent(request, proxy)
        return proxy

    return acquire


def _free(inner: Inner) -> Inner:
    def free(holder: Any) -> Any:
        if holder._in_use is not None:
            pool = holder._pool
            source = getattr(pool._holders, MARK, None) or LIBRARY.source_of(pool)
            if source is not None:
                source.released(holder._con)
        return inner(holder)

    return free


def _connect(inner: Inner) -> Inner:
    async def connect(holder: Any) -> Any:
        pool = holder._pool
        source = LIBRARY.source_of(pool)
        if source is None:
            return await inner(holder)
        new, request = source.connects(pool)
        try:
            result = await inner(holder)
        except BaseException as error:
            source.not_connected(new, request, error, pool.is_closing())
            raise
        source.connected(new, holder._con)
        return result

    return connect


def _say_goodbye(inner: Inner) -> Inner:
    async def close(con: Any, **options: Any) -> Any:
        closing = inner(con, **options)  # which fails for options it does not know
        if (source := owner_of(con)) is not None:
            source.ends(con, why_closed(con))
        return await closing

    return close


def _end(inner: Inner) -> Inner:
    def end(con: Any) -> Any:
        if (source := owner_of(con)) is not None:
            source.ends(con, why_closed(con))
        return inner(con)

    return end


def _close(inner: Inner) -> Inner:
    async def close(pool: Any) -> Any:
        try:
            return await inner(pool)
        finally:
            source = LIBRARY.source_of(pool)
            if source is not None and pool.is_closing():
                source.retire()

    return close


def _terminate(inner: Inner) -> Inner:
    def terminate(pool: Any) -> Any:
        source = LIBRARY.source_of(pool)
        if source is None:
            return inner(pool)
        try:
            return inner(pool)
        finally:
            if pool.is_closing():
                source.retire()

    return terminate
