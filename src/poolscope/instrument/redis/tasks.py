"""The methods of pools for asyncio, and what each reports."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from poolscope.events import CloseReason
from poolscope.instrument.library import MARK, Library
from poolscope.instrument.patches import Patches
from poolscope.instrument.redis.reading import must_wait_in_loop
from poolscope.instrument.redis.threads import Inner, marking, meeting, opener, resetting
from poolscope.instrument.redis.watched import (
    LENDING,
    Watched,
    closing,
    why_failed,
    why_severed,
)


def patch(patches: Patches, library: Library, plain: type, blocking: type) -> None:
    """Replace the methods of both kinds of pools."""
    # Of two, the blocking one calls the other to take back; some versions do so to lend.
    patches.wrap(blocking, "__init__", partial(meeting, library))
    patches.wrap(blocking, "get_connection", partial(_lending, library, None, must_wait_in_loop))
    patches.wrap(plain, "__init__", partial(meeting, library))
    patches.wrap(plain, "get_connection", partial(_lending, library, blocking, None))
    patches.wrap(plain, "release", partial(_taking_back, library))
    patches.wrap(plain, "make_connection", marking)
    patches.wrap(plain, "reset", resetting)
    patches.wrap(plain, "disconnect", partial(_disconnecting, CloseReason.STALE))
    patches.wrap(plain, "aclose", partial(_disconnecting, CloseReason.POOL_CLOSED))


def patch_connection(patches: Patches, kind: type) -> None:
    """Replace what opens and closes a socket."""
    patches.wrap(kind, opener(kind), _connecting)
    patches.wrap(kind, "disconnect", _severing)


def patch_client(patches: Patches, kind: type) -> None:
    """Replace what closes a client, and its pool if that is its own."""
    patches.wrap(kind, "aclose", _client_closing)


def _lending(
    library: Library, other: type | None, peek: Callable[[Any], bool] | None, inner: Inner
) -> Inner:
    source_of = library.source_of

    async def get_connection(self: Any, *args: Any, **options: Any) -> Any:
        try:
            source = self.__dict__[MARK]
        except KeyError:
            source = source_of(self)
        if source is None or (other is not None and isinstance(self, other)):
            return await inner(self, *args, **options)
        request = source.requested()
        try:
            if peek is not None and peek(self):
                source.queued(request)
            connection = await inner(self, *args, **options)
        except BaseException as error:
            source.failed(request, error, why_failed(error))
            raise
        source.acquired(request, connection)
        return connection

    LENDING.add(get_connection.__code__)
    return get_connection


def _taking_back(library: Library, inner: Inner) -> Inner:
    source_of = library.source_of

    async def release(self: Any, connection: Any) -> Any:
        try:
            source = self.__dict__[MARK]
        except KeyError:
            source = source_of(self)
        if source is not None:
            source.released(connection)
            if source.broken:
                source.settle(connection)
        return await inner(self, connection)

    return release


def _disconnecting(reason: CloseReason, inner: Inner) -> Inner:
    async def disconnect(self: Any, *args: Any, **options: Any) -> Any:
        source: Watched | None = self.__dict__.get(MARK)
        if source is None:
            return await inner(self, *args, **options)
        with closing(source, reason):
            result = await inner(self, *args, **options)
        if reason is CloseReason.POOL_CLOSED:
            source.retire()
        return result

    return disconnect


def _client_closing(inner: Inner) -> Inner:
    async def aclose(self: Any, close_connection_pool: bool | None = None) -> Any:
        source: Watched | None = getattr(self.connection_pool, "__dict__", {}).get(MARK)
        closes = close_connection_pool
        if closes is None:
            closes = self.auto_close_connection_pool
        if source is None or not closes:
            return await inner(self, close_connection_pool)
        with closing(source, CloseReason.POOL_CLOSED):
            result = await inner(self, close_connection_pool)
        source.retire()
        return result

    return aclose


def _connecting(inner: Inner) -> Inner:
    async def connect(self: Any, *args: Any, **options: Any) -> Any:
        source: Watched | None = self.__dict__.get(MARK)
        if source is None or self.is_connected or (new := source.begin_connect(self)) is None:
            return await inner(self, *args, **options)
        try:
            result = await inner(self, *args, **options)
        except BaseException as error:
            source.end_connect(new, self, error)
            raise
        source.end_connect(new, self, None)
        return result

    return connect


def _severing(inner: Inner) -> Inner:
    async def disconnect(self: Any, *args: Any, **options: Any) -> Any:
        source: Watched | None = self.__dict__.get(MARK)
        if source is None or source.state == "closed" or not self.is_connected:
            return await inner(self, *args, **options)
        reason = why_severed(source, self, options)
        try:
            return await inner(self, *args, **options)
        finally:
            if not self.is_connected:
                source.sever(self, reason)

    return disconnect
