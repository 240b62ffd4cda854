"""redis-py and its kin: libraries of the same make under another name."""

from __future__ import annotations

import weakref
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

from poolscope.instrument.library import MARK, Library
from poolscope.instrument.naming import pool_name
from poolscope.instrument.patches import Patches
from poolscope.instrument.redis import tasks, threads
from poolscope.instrument.redis.reading import is_unlimited, levels, members
from poolscope.instrument.redis.watched import Watched, is_open
from poolscope.instrument.source import UNKNOWN, ForeignPool
from poolscope.target import Target
from poolscope.telemetry import catalog

_LIMITS = frozenset({catalog.MAX.name, catalog.IDLE_MAX.name})
_PATIENCE = frozenset({catalog.ACQUIRE_TIMEOUT.name})


class Family(Library):
    """Observes `ConnectionPool`, `BlockingConnectionPool` and their subclasses, both of each."""

    client: ClassVar[str]
    """The name of the class of its clients."""

    def kinds(self) -> tuple[type, ...]:
        """Return the pool for threads, and the one for asyncio."""
        return self._classes("connection", "ConnectionPool")

    def _classes(self, module: str, name: str) -> tuple[type, ...]:
        modules = (f"{self.name}.{module}", f"{self.name}.asyncio.{module}")
        return tuple(getattr(import_module(each), name) for each in modules)

    def pool_of(self, thing: Any) -> Any:
        """Return the pool, or that of a client."""
        clients: tuple[type[Any], ...] = self._classes("client", self.client)
        return super().pool_of(thing.connection_pool if isinstance(thing, clients) else thing)

    def patch(self, patches: Patches) -> None:
        """Replace what lends, takes back, opens and closes."""
        for library, pool, blocking, connection, client in zip(
            (threads, tasks),
            self.kinds(),
            self._classes("connection", "BlockingConnectionPool"),
            self._classes("connection", "AbstractConnection"),
            self._classes("client", self.client),
            strict=True,
        ):
            library.patch(patches, self, pool, blocking)
            library.patch_connection(patches, connection)
            library.patch_client(patches, client)

    def begin(self, pool: Any, name: str | None) -> ForeignPool:
        """Return a source; it meets the connections that are there."""
        options = pool.connection_kwargs
        target = self._target(pool, options)
        omits = UNKNOWN
        if is_unlimited(pool):
            omits |= _LIMITS
        if not getattr(pool, "timeout", None):
            omits |= _PATIENCE
        source = Watched(
            pool_name(name, options.get("client_name"), target),
            target,
            partial(levels, weakref.ref(pool)),
            omits,
        )
        source.is_cached = getattr(pool, "cache", None) is not None
        for connection in members(pool):
            connection.__dict__[MARK] = source
            if is_open(connection):
                source.meet(connection)
        return source

    def _target(self, pool: Any, options: dict[str, Any]) -> Target:
        # Behind sentinels, servers come and go; the service has a name.
        service = getattr(pool, "service_name", None)
        path = options.get("path")
        address = service or path or options.get("host", "localhost")
        port = None if service or path else options.get("port", 6379)
        return Target(
            self.name,
            str(address),
            int(port) if port is not None else None,
            str(options.get("db") or 0),
        )

    def _leave(self, pool_ref: weakref.ref[Any], finalizer: weakref.finalize[..., Any]) -> None:
        with self._lock:
            pool = pool_ref()
            source = self._sources.get(pool) if pool is not None else None
            super()._leave(pool_ref, finalizer)
            if source is None:
                return
            for connection in members(pool):
                connection.__dict__.pop(MARK, None)
            if source.retired:  # a closed pool may be used again, as if it were new
                self._left.discard(pool)
