"""What replaces the methods of SQLAlchemy's pools while any is observed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import update_wrapper
from sys import _getframe
from typing import Any

from sqlalchemy import Dialect
from sqlalchemy.pool import AssertionPool, Pool
from sqlalchemy.pool.base import _ConnectionFairy, _ConnectionRecord

from poolscope.events import CloseReason, FailureReason
from poolscope.instrument.library import MARK
from poolscope.instrument.patches import Patches
from poolscope.instrument.reports import why
from poolscope.instrument.sqlalchemy import LIBRARY
from poolscope.instrument.sqlalchemy.private import (
    OUTCOMES,
    has_to_wait,
    is_lost,
    pool_of,
    why_invalid,
    why_renewed,
)

Inner = Callable[..., Any]


def patch(patches: Patches, kinds: tuple[type, ...]) -> None:
    """Replace all there is to replace. Raises AttributeError if something is not there."""
    made = Dialect.__dict__["engine_created"].__func__
    patches.set(Dialect, "engine_created", classmethod(update_wrapper(_engine_created(made), made)))
    for kind in (Pool, *kinds):
        for name, wrap in (("connect", _connect), ("dispose", _dispose), ("recreate", _recreate)):
            if name in kind.__dict__ and (kind is not Pool or name == "connect"):
                patches.wrap(kind, name, wrap)
    patches.wrap(Pool, "_return_conn", _return_conn)
    patches.wrap(_ConnectionFairy, "detach", _detach)
    patches.wrap(_ConnectionRecord, "invalidate", _invalidate)
    patches.wrap(_ConnectionRecord, "_ConnectionRecord__connect", _open)
    patches.wrap(_ConnectionRecord, "_ConnectionRecord__close", _close)


def patch_shared(patches: Patches) -> None:
    """Replace what gives back a connection that others have, too: only tests share them."""
    patches.wrap(_ConnectionFairy, "close", _give_back)
    patches.wrap(_ConnectionFairy, "_close_special", _give_back)


def _source_of(pool: Any) -> Any:
    return pool.__dict__.get(MARK) or LIBRARY.source_of(pool)


# Engines and pools


def _engine_created(inner: Inner) -> Inner:
    # Not `Engine.__init__`: by its code `create_engine` knows which options an engine takes.
    def engine_created(dialect: Any, engine: Any) -> None:
        inner(dialect, engine)
        with suppress(Exception):  # there are tests that make engines of anything
            LIBRARY.introduce(engine)

    return engine_created


def _recreate(inner: Inner) -> Inner:
    def recreate(pool: Any) -> Any:
        new = inner(pool)
        LIBRARY.hand_on(pool, new)
        return new

    return recreate


def _dispose(inner: Inner) -> Inner:
    def dispose(pool: Any) -> Any:
        if (source := _source_of(pool)) is None:
            return inner(pool)
        source.disposing.append(None)
        try:
            return inner(pool)
        finally:
            source.disposing.pop()

    return dispose


# Requests and leases


def _connect(inner: Inner) -> Inner:
    def connect(pool: Any) -> Any:
        source: Any = pool.__dict__.get(MARK) or LIBRARY.source_of(pool)
        if source is None:
            return inner(pool)
        request = source.requested()
        try:
            if source.limited and has_to_wait(pool):
                source.queued(request)
            fairy = inner(pool)
        except BaseException as error:
            source.failed(request, error, _why(pool, error))
            raise
        if source.shared:
            source.acquired_shared(request, fairy)
        else:
            source.acquired(request, fairy._connection_record)
        return fairy

    return connect


_ASKS = _connect(print).__code__
"""What asks a pool for a connection on behalf of one request."""


def _why(pool: Any, error: BaseException) -> FailureReason:
    if isinstance(pool, AssertionPool) and isinstance(error, AssertionError):
        return FailureReason.QUEUE_FULL
    return why(error, *OUTCOMES)


def _return_conn(inner: Inner) -> Inner:
    def return_conn(pool: Any, record: Any) -> Any:
        source: Any = pool.__dict__.get(MARK) or LIBRARY.source_of(pool)
        if source is not None:
            key = id(record)
            if key in source.leases:
                source.released(record)
            elif record.dbapi_connection is not None and key not in source.inherited:
                source.meet(record)  # it was lent before anybody looked
        return inner(pool, record)

    return return_conn


def _give_back(inner: Inner) -> Inner:
    def give_back(fairy: Any, *args: Any, **options: Any) -> Any:
        source = fairy._pool.__dict__.get(MARK)
        if source is not None and source.shared:
            try:
                return inner(fairy, *args, **options)
            finally:
                source.released_shared(id(fairy))
        return inner(fairy, *args, **options)

    return give_back


def _detach(inner: Inner) -> Inner:
    def detach(fairy: Any) -> Any:
        record = fairy._connection_record
        if record is not None and (source := _source_of(fairy._pool)) is not None:
            if is_lost(record):  # under asyncio nobody can reset it
                source.reclaimed(record, CloseReason.LEAK)
            else:
                source.detached(record)
        return inner(fairy)

    return detach


# Connections


def _request(pool: Any) -> int:
    """Return the request for which a pool does what it does; 0 if it is for none."""
    frame = _getframe(2)
    while (caller := frame.f_back) is not None:
        frame = caller
        if frame.f_code is _ASKS and frame.f_locals.get("pool") is pool:
            return int(frame.f_locals.get("request", 0))
    return 0


def _open(inner: Inner) -> Inner:
    def connect(record: Any) -> Any:
        pool = pool_of(record)
        if (source := _source_of(pool)) is None:
            return inner(record)
        new = source.connecting(_request(pool))
        try:
            result = inner(record)
        except BaseException as error:
            source.not_opened(new, error)
            raise
        source.opened(new, record)
        return result

    return connect


def _invalidate(inner: Inner) -> Inner:
    def invalidate(record: Any, e: Any = None, soft: bool = False) -> Any:
        if soft or (source := _source_of(pool_of(record))) is None:
            return inner(record, e, soft)
        source.reasons[id(record)] = why_invalid(e)
        try:
            return inner(record, e, soft)
        finally:
            source.reasons.pop(id(record), None)

    return invalidate


def _close(inner: Inner) -> Inner:
    def close(record: Any, *args: Any, **options: Any) -> Any:
        pool = pool_of(record)
        if (source := _source_of(pool)) is not None:
            reason = source.reasons.get(id(record))
            if reason is None and (args or options):  # to be terminated, but not invalid
                reason = why_renewed(pool, record)
            elif reason is None:
                reason = CloseReason.POOL_CLOSED if source.disposing else CloseReason.EXCESS
            source.broken_off(record, reason)
        return inner(record, *args, **options)

    return close
