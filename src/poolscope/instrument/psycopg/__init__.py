"""Pools of psycopg_pool, for threads and for asyncio, those that keep nothing included.

Connections are opened by `_connect`, mostly in workers of the pool. They come back by `putconn`;
one that leaves the pool does so there, in a task of a worker, or in one of few methods, and is
then known by the state of its transaction. `state` reads what is private of pools. Each cycle calls
`getconn` and `putconn`, which `threads` and `tasks` replace, each of one kind of pool; `upkeep`
replaces the rest, of either.
"""

from __future__ import annotations

from typing import Any

from poolscope.instrument.library import Library
from poolscope.instrument.patches import Patches
from poolscope.instrument.source import ForeignPool


class PsycopgLibrary(Library):
    """Observes all four kinds of pools."""

    name = "psycopg"
    distribution = "psycopg-pool"
    tried = "3.2.0 to 3.3.3"

    def kinds(self) -> tuple[type, ...]:
        """Return the two classes from which the null pools derive."""
        from psycopg_pool import AsyncConnectionPool, ConnectionPool

        return ConnectionPool, AsyncConnectionPool

    def patch(self, patches: Patches) -> None:
        """Replace what lends, takes back, opens and closes."""
        from poolscope.instrument.psycopg import tasks, threads

        threads.patch(patches, self.source_of)
        tasks.patch(patches, self.source_of)

    def begin(self, pool: Any, name: str | None) -> ForeignPool:
        """Return a source; it meets the connections that are there, those on loan included."""
        from poolscope.instrument.psycopg.source import PsycopgPool

        source = PsycopgPool(pool, name)
        source.look_around(pool, everywhere=True)
        if source.read().state == "closed":
            source.retire()
        return source


LIBRARY = PsycopgLibrary()
