"""A library of pools that is as small as can be, and our adapter for it."""

import weakref
from typing import Any

from poolscope.instrument.levels import Levels
from poolscope.instrument.library import MARK, Library
from poolscope.instrument.patches import Patches
from poolscope.instrument.reports import why
from poolscope.instrument.source import ForeignPool
from poolscope.reasons import CloseReason, FailureReason


class ToyConnection:
    pass


class ToyPool:
    """The library: a pool that opens what is missing, and refuses beyond its limit."""

    def __init__(self, size: int = 2) -> None:
        self.size = size
        self.idle: list[ToyConnection] = []
        self.out: list[ToyConnection] = []

    def get(self, wait: float = 0.0) -> ToyConnection:
        """Lend a connection."""
        if not self.idle and len(self.out) >= self.size:
            raise TimeoutError("none is free")
        connection = self.idle.pop() if self.idle else self._connect()
        self.out.append(connection)
        return connection

    def put(self, connection: ToyConnection) -> None:
        """Take a connection back."""
        self.out.remove(connection)
        self.idle.append(connection)

    def close(self) -> None:
        """Close what is idle."""
        self.idle.clear()

    def _connect(self) -> ToyConnection:
        return ToyConnection()


class ToyLibrary(Library):
    """The adapter."""

    name = "toy"
    distribution = "toy-pools"
    tried = "1.0 to 2.0"

    def kinds(self) -> tuple[type, ...]:
        return (ToyPool,)

    def begin(self, pool: ToyPool, name: str | None) -> ForeignPool:
        found = weakref.ref(pool)

        def levels() -> Levels:
            if (pool := found()) is None:
                return Levels(state="closed")
            return Levels(len(pool.idle), len(pool.out), max_size=pool.size)

        return ForeignPool(name, None, levels)

    def patch(self, patches: Patches) -> None:
        patches.wrap(ToyPool, "get", self._get)
        patches.wrap(ToyPool, "put", self._put)
        patches.wrap(ToyPool, "_connect", self._connect)
        patches.wrap(ToyPool, "close", self._close)

    def _find(self, pool: ToyPool) -> ForeignPool | None:
        return pool.__dict__.get(MARK) or self.source_of(pool)

    def _get(self, inner: Any) -> Any:
        def get(pool: ToyPool, *args: Any, **options: Any) -> ToyConnection:
            if (source := self._find(pool)) is None:
                return inner(pool, *args, **options)
            request = source.requested()
            try:
                connection = inner(pool, *args, **options)
            except BaseException as error:
                source.failed(request, error, why(error, (TimeoutError, FailureReason.TIMEOUT)))
                raise
            source.acquired(request, connection)
            return connection

        return get

    def _put(self, inner: Any) -> Any:
        def put(pool: ToyPool, connection: ToyConnection) -> None:
            if (source := self._find(pool)) is not None:
                source.released(connection)
            inner(pool, connection)

        return put

    def _connect(self, inner: Any) -> Any:
        def connect(pool: ToyPool) -> ToyConnection:
            if (source := self._find(pool)) is None:
                return inner(pool)
            new = source.connecting()
            connection = inner(pool)
            source.opened(new, connection)
            return connection

        return connect

    def _close(self, inner: Any) -> Any:
        def close(pool: ToyPool) -> None:
            source = self._find(pool)
            for connection in pool.idle if source is not None else ():
                source.closed(connection, CloseReason.POOL_CLOSED)
            inner(pool)
            if source is not None:
                source.retire()

        return close
