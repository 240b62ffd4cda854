"""What is private of redis-py's pools, read here alone."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from poolscope.instrument.levels import Levels
from poolscope.instrument.library import MARK
from poolscope.instrument.redis.watched import Watched, is_open

_NO_LIMIT = 2**31
"""What `max_connections` is if nobody set it, up to redis-py 7."""
_PATIENCE = 5
"""Tries to read what other threads change."""


def levels(pool_ref: weakref.ref[Any]) -> Levels:
    """Return the levels of a pool: of open sockets, and of what is lent."""
    pool = pool_ref()
    if pool is None:
        return Levels(state="closed")
    source: Watched | None = pool.__dict__.get(MARK)
    limit = 0 if is_unlimited(pool) else pool.max_connections
    read = Levels(max_size=limit, max_idle=limit, acquire_timeout=getattr(pool, "timeout", 0) or 0)
    idle, taken = parts(pool)
    if source is None:
        read.idle, read.in_use = sum(map(is_open, idle)), sum(map(is_open, taken))
        return read
    inherited, opening, leases = source.inherited, source.opening, source.leases
    read.idle = sum(is_open(each) and id(each) not in inherited for each in idle)
    for each in taken:
        key = id(each)
        if key in leases:
            read.in_use += 1
        elif key in opening:
            read.connecting += 1
        elif key not in inherited:
            read.in_use += is_open(each)
    return read


def is_unlimited(pool: Any) -> bool:
    """Tell whether a pool opens as many as are asked for."""
    return bool(pool.max_connections >= _NO_LIMIT)


def members(pool: Any) -> list[Any]:
    """Return the connections of a pool, open or not."""
    idle, taken = parts(pool)
    return idle + taken


def must_wait(pool: Any) -> bool:
    """Tell whether all of a blocking pool for threads is lent."""
    return not pool.pool.queue


def must_wait_in_loop(pool: Any) -> bool:
    """Tell the same of one for asyncio, where others may be before us, too."""
    return pool._condition.locked() or not pool.can_get_connection()


def physical(connection: Any) -> Any:
    """Return what has the socket: what answers from a cache has it from another."""
    return connection.__dict__.get("_conn", connection)


def parts(pool: Any) -> tuple[list[Any], list[Any]]:
    """Return the connections in a pool, and those taken from it."""
    if hasattr(pool, "_connections"):
        made = [physical(each) for each in list(pool._connections)]
        queue = [each for each in list(pool.pool.queue) if each is not None]
        idle = list({id(each): each for each in map(physical, queue)}.values())
        free = {id(each) for each in idle}
        return idle, [each for each in made if id(each) not in free]
    idle = [physical(each) for each in list(pool._available_connections)]
    return idle, [physical(each) for each in _listed(pool._in_use_connections)]


def _listed(connections: Iterable[Any]) -> list[Any]:
    """Return what is in a set. A weak one cannot be read while another thread changes it."""
    for _ in range(_PATIENCE):
        try:
            return list(connections)
        except RuntimeError:
            continue
    return []
