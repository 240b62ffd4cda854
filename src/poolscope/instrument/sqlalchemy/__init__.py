"""Pools of SQLAlchemy's engines, those of threads and those of asyncio.

What a pool does is seen where all its ways meet: `Pool.connect` is a request, with its pings,
retries and reconnects; `_ConnectionRecord` opens and closes what is lent. A record is what names a
connection here, for as long as that is open.
"""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

from poolscope.instrument.library import MARK, Library
from poolscope.instrument.naming import pool_name
from poolscope.instrument.patches import Patches
from poolscope.instrument.source import ForeignPool
from poolscope.instrument.sqlalchemy.addresses import Address


class SqlAlchemyLibrary(Library):
    """Observes pools of SQLAlchemy's own classes, and of classes made from them."""

    name = "sqlalchemy"
    distribution = "SQLAlchemy"
    tried = "2.0.0 to 2.1.9"

    def __init__(self) -> None:
        """Know of no engine."""
        super().__init__()
        self._addresses: weakref.WeakKeyDictionary[Any, Address] = weakref.WeakKeyDictionary()
        """What pools connect to, as their engines say: a pool does not know its engine."""
        self._unused: Any = None
        """The pool of the engine that is just being made."""
        self._shares = False
        """Whether what shared connections need is replaced, too."""

    def kinds(self) -> tuple[type, ...]:
        """Return the classes of pools that behave as we know."""
        from sqlalchemy import pool

        return (
            pool.QueuePool,
            pool.NullPool,
            pool.SingletonThreadPool,
            pool.StaticPool,
            pool.AssertionPool,
        )

    def patch(self, patches: Patches) -> None:
        """Replace what lends, takes back, opens and closes."""
        from poolscope.instrument.sqlalchemy import wrappers

        self._shares = False
        wrappers.patch(patches, self.kinds())

    def begin(self, pool: Any, name: str | None) -> ForeignPool:
        """Return a source; it meets the connections that are there."""
        from poolscope.instrument.sqlalchemy import private, wrappers
        from poolscope.instrument.sqlalchemy.source import PoolSource

        if private.is_shared(pool) and not self._shares:
            wrappers.patch_shared(self._patches)
            self._shares = True

        address = self._addresses.get(pool, Address())
        application = address.application or private.application(pool)
        name = pool_name(name or pool.logging_name, application, address.target)
        source = PoolSource(name, address.target, pool)
        for record in private.records(pool, unused=pool is self._unused):
            source.meet(record)
        return source

    def instrument(self) -> bool:
        """Observe each pool there will be. What those that are there connect to is looked up."""
        observed = super().instrument()
        if observed:
            self._look_for_engines()
        return observed

    def observe(self, pool: Any, name: str | None) -> ForeignPool | None:
        """Observe one pool; None if this version of the library does not let us."""
        if pool not in self._addresses:
            self._look_for_engines()
        return super().observe(pool, name)

    def pool_of(self, thing: Any) -> Any:
        """Return the pool of an engine, or that pool itself.

        Raises:
            TypeError: it is a pool of another kind.
        """
        from sqlalchemy import Engine
        from sqlalchemy.pool import Pool

        asyncio = sys.modules.get("sqlalchemy.ext.asyncio")  # which not all can import
        if asyncio is not None and isinstance(thing, asyncio.AsyncEngine):
            thing = thing.sync_engine
        pool = thing.pool if isinstance(thing, Engine) else thing
        if not isinstance(pool, Pool):
            return None
        if not isinstance(pool, self.kinds()):
            raise TypeError(
                f"a pool of the class {type(pool).__name__} cannot be observed, only pools of "
                f"{', '.join(kind.__name__ for kind in self.kinds())} and of classes made from "
                "them. Those of poolscope.sqlalchemy need not be: they tell all by themselves"
            )
        if isinstance(thing, Engine):
            self._note(thing)
        return pool

    def source_of(self, pool: Any) -> ForeignPool | None:
        """Return what to report to, if the pool is observed, or is to be."""
        source: ForeignPool | None = pool.__dict__.get(MARK)
        if source is None and self.everywhere and issubclass(type(pool), self.kinds()):
            return super().source_of(pool)
        return source

    def adopt(self, pool: Any, source: Any) -> None:
        """Have a pool report to a source, and the pools it took the place of as well."""
        with self._lock:
            super().adopt(pool, source)
            source.end = source.books.succeed(pool, source.end)

    def hand_on(self, old: Any, new: Any) -> None:
        """Have the pool that takes the place of another report to the same source."""
        with self._lock:
            if (address := self._addresses.get(old)) is not None:
                self._addresses[new] = address
            if (source := self._sources.get(old)) is not None:
                self.adopt(new, source)
            elif old in self._left:
                self._left.add(new)

    def introduce(self, engine: Any) -> None:
        """Hear that an engine was made."""
        with self._lock:
            self._note(engine)
            self._unused = engine.pool
            try:
                self.source_of(engine.pool)
            finally:
                self._unused = None

    def _look_for_engines(self) -> None:
        from sqlalchemy import Engine

        for thing in gc.get_objects():
            if issubclass(type(thing), Engine):  # the `__class__` of a proxy may run code
                self._note(thing)

    def _note(self, engine: Any) -> None:
        pool = getattr(engine, "pool", None)  # one that another thread is making has none
        if issubclass(type(pool), self.kinds()) and pool not in self._addresses:
            self._addresses[pool] = Address.of(engine.url)


LIBRARY = SqlAlchemyLibrary()
