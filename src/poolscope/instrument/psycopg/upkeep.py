"""Replaces what opens, closes and resizes, alike in pools for threads and for asyncio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from poolscope.events import CloseReason
from poolscope.instrument.around import around, reporting
from poolscope.instrument.library import MARK
from poolscope.instrument.patches import Patches, Wrap
from poolscope.instrument.psycopg.source import PsycopgPool
from poolscope.instrument.psycopg.state import GONE

SourceOf = Callable[[Any], Any]
Then = Callable[[PsycopgPool, Any], None]


def patch(patches: Patches, source_of: SourceOf, pool: type, null: type, task: type) -> None:
    """Replace methods of a pool, of one that keeps nothing, and of the task that takes back.

    Raises AttributeError if one is not there.
    """

    def source(pool: Any) -> Any:
        return pool.__dict__.get(MARK) or source_of(pool)

    patches.wrap(pool, "_open", reporting(source))
    patches.wrap(pool, "_connect", _connecting(source))
    patches.wrap(task, "_run", _taking_back(source))
    for name in ("_maybe_close_connection", "_add_to_pool"):
        patches.wrap(null, name, _passing_on(source))
    patches.wrap(pool, "_shrink_pool", _closing(source, CloseReason.IDLE))
    patches.wrap(pool, "check", _closing(source, CloseReason.VALIDATION))
    patches.wrap(pool, "close", _closing(source, CloseReason.POOL_CLOSED, PsycopgPool.ended))
    if hasattr(pool, "drain"):
        patches.wrap(pool, "drain", _closing(source, CloseReason.STALE, PsycopgPool.drained))
    for owner in (pool, null):
        patches.wrap(owner, "resize", _resizing(source))


def _connecting(source_of: SourceOf) -> Wrap:
    def begin(pool: Any, timeout: float | None = None) -> tuple[Any, ...] | None:
        source = source_of(pool)
        return (source, source.started(timeout)) if source is not None else None

    return around(begin, PsycopgPool.opened, PsycopgPool.not_opened)


def _taking_back(source_of: SourceOf) -> Wrap:
    def begin(task: Any, pool: Any) -> tuple[Any, ...] | None:
        source = source_of(pool)
        if source is None:
            return None
        return source, pool, task, task.conn, task.conn.pgconn.transaction_status

    def end(source: PsycopgPool, pool: Any, task: Any, conn: Any, before: int, _: object) -> None:
        if conn.pgconn.transaction_status == GONE:
            source.dropped(pool, conn, before, task.from_getconn)

    return around(begin, end, end)


def _passing_on(source_of: SourceOf) -> Wrap:
    """A null pool has got a connection, which it closes unless somebody waits."""

    def begin(pool: Any, conn: Any) -> tuple[Any, ...] | None:
        source = source_of(pool)
        return (source, pool, conn, conn.pgconn.transaction_status) if source is not None else None

    def end(source: PsycopgPool, pool: Any, conn: Any, before: int, _: object) -> None:
        if before != GONE == conn.pgconn.transaction_status:
            source.not_kept(pool, conn)

    return around(begin, end, end)


def _closing(source_of: SourceOf, reason: CloseReason, then: Then | None = None) -> Wrap:
    """What may close idle connections, all for one reason."""

    def begin(pool: Any, *_: Any) -> tuple[Any, ...] | None:
        source = source_of(pool)
        return (source, pool, source.look_around(pool)) if source is not None else None

    def end(source: PsycopgPool, pool: Any, there: list[Any], _: object) -> None:
        source.sweep(pool, there, reason)
        if then is not None:
            then(source, pool)

    return around(begin, end, end)


def _resizing(source_of: SourceOf) -> Wrap:
    def resized(pool: Any) -> None:
        if (source := source_of(pool)) is not None:
            source.resized(pool)

    return reporting(then=resized)
