"""The methods of pools for threads, and what each reports."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

from poolscope.events import CloseReason
from poolscope.instrument.library import MARK, Library
from poolscope.instrument.patches import Patches
from poolscope.instrument.redis.reading import must_wait, parts, physical
from poolscope.instrument.redis.watched import (
    LENDING,
    Watched,
    closing,
    is_open,
    why_failed,
    why_severed,
)

Inner = Callable[..., Any]


def patch(patches: Patches, library: Library, plain: type, blocking: type) -> None:
    """Replace the methods of both kinds of pools."""
    for kind in (plain, blocking):
        peek = must_wait if kind is blocking else None
        patches.wrap(kind, "__init__", partial(meeting, library))
        patches.wrap(kind, "get_connection", partial(_lending, library, peek))
        patches.wrap(kind, "release", partial(_taking_back, library))
        patches.wrap(kind, "make_connection", marking)
        patches.wrap(kind, "reset", resetting)
        patches.wrap(kind, "disconnect", partial(_disconnecting, CloseReason.STALE))
    patches.wrap(plain, "close", partial(_disconnecting, CloseReason.POOL_CLOSED))


def patch_connection(patches: Patches, kind: type) -> None:
    """Replace what opens and closes a socket."""
    patches.wrap(kind, opener(kind), _connecting)
    patches.wrap(kind, "disconnect", _severing)


def patch_client(patches: Patches, kind: type) -> None:
    """Replace what closes a client, and its pool if that is its own."""
    patches.wrap(kind, "close", _client_closing)


def opener(kind: type) -> str:
    """Return the name of what opens a socket, if there is none."""
    return "connect_check_health" if hasattr(kind, "connect_check_health") else "connect"


def meeting(library: Library, inner: Inner) -> Inner:
    """Have a pool observed as soon as it is made, if each is."""

    def init(self: Any, *args: Any, **options: Any) -> None:
        inner(self, *args, **options)
        if type(self).__init__ is init:  # else a subclass has more to do, and it is met later
            library.source_of(self)

    return init


def _lending(library: Library, peek: Callable[[Any], bool] | None, inner: Inner) -> Inner:
    source_of = library.source_of

    def get_connection(self: Any, *args: Any, **options: Any) -> Any:
        try:
            source = self.__dict__[MARK]
        except KeyError:
            source = source_of(self)
        if source is None:
            return inner(self, *args, **options)
        request = source.requested()
        try:
            if peek is not None and peek(self):
                source.queued(request)
            connection = inner(self, *args, **options) if args or options else inner(self)
        except BaseException as error:
            source.failed(request, error, why_failed(error))
            raise
        source.acquired(request, connection._conn if source.is_cached else connection)
        return connection

    LENDING.add(get_connection.__code__)
    return get_connection


def _taking_back(library: Library, inner: Inner) -> Inner:
    source_of = library.source_of

    def release(self: Any, connection: Any) -> Any:
        try:
            source = self.__dict__[MARK]
        except KeyError:
            source = source_of(self)
        if source is not None:
            lent = physical(connection) if source.is_cached else connection
            source.released(lent)
            if source.broken:
                source.settle(lent)
        return inner(self, connection)

    return release


def marking(inner: Inner) -> Inner:
    """Have connections know what to report to."""

    def make_connection(self: Any) -> Any:
        connection = inner(self)
        source = self.__dict__.get(MARK)
        if source is not None:
            physical(connection).__dict__[MARK] = source
        return connection

    return make_connection


def resetting(inner: Inner) -> Inner:
    """Tell that a pool lets go of all it has. A new pool has nothing yet."""

    def reset(self: Any) -> Any:
        source: Watched | None = self.__dict__.get(MARK)
        if source is not None:
            idle, taken = parts(self)
            source.forget(idle, taken)
            for connection in idle + taken:
                connection.__dict__.pop(MARK, None)
        return inner(self)

    return reset


def _disconnecting(reason: CloseReason, inner: Inner) -> Inner:
    def disconnect(self: Any, *args: Any, **options: Any) -> Any:
        source: Watched | None = self.__dict__.get(MARK)
        if source is None:
            return inner(self, *args, **options)
        with closing(source, reason):
            result = inner(self, *args, **options)
        if reason is CloseReason.POOL_CLOSED:
            source.retire()
        return result

    return disconnect


def _client_closing(inner: Inner) -> Inner:
    def close(self: Any, *args: Any, **options: Any) -> Any:
        pool = self.__dict__.get("connection_pool")
        source: Watched | None = getattr(pool, "__dict__", {}).get(MARK)
        if source is None or not self.__dict__.get("auto_close_connection_pool"):
            return inner(self, *args, **options)
        with closing(source, CloseReason.POOL_CLOSED):
            result = inner(self, *args, **options)
        source.retire()
        return result

    return close


def _connecting(inner: Inner) -> Inner:
    # Each cycle calls it, so it takes exactly what there is to be taken, where that is known.
    def connect(self: Any) -> Any:
        if self._sock is not None or MARK not in self.__dict__:
            return inner(self)
        return _connect(self, inner)

    def connect_check_health(
        self: Any, check_health: bool = True, retry_socket_connect: bool = True
    ) -> Any:
        if self._sock is not None or MARK not in self.__dict__:
            return inner(self, check_health, retry_socket_connect)
        return _connect(self, inner, check_health, retry_socket_connect)

    def connect_somehow(self: Any, *args: Any, **options: Any) -> Any:
        if self._sock is not None or MARK not in self.__dict__:
            return inner(self, *args, **options)
        return _connect(self, inner, *args, **options)

    for each in (connect, connect_check_health):
        if [*signature(inner).parameters] == [*signature(each).parameters]:
            return each
    return connect_somehow


def _connect(connection: Any, inner: Inner, *args: Any, **options: Any) -> Any:
    source: Watched | None = connection.__dict__.get(MARK)
    if source is None or (new := source.begin_connect(connection)) is None:
        return inner(connection, *args, **options)
    try:
        result = inner(connection, *args, **options)
    except BaseException as error:
        source.end_connect(new, connection, error)
        raise
    source.end_connect(new, connection, None)
    return result


def _severing(inner: Inner) -> Inner:
    def disconnect(self: Any, *args: Any, **options: Any) -> Any:
        source: Watched | None = self.__dict__.get(MARK)
        if source is not None and source.state != "closed" and is_open(self):
            # Before it is, for then another thread may open it again.
            source.sever(self, why_severed(source, self, options))
        return inner(self, *args, **options)

    return disconnect
