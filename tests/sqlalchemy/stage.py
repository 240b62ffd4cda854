"""An engine on a real database, under threads or asyncio, and what its pool tells."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import await_only, greenlet_spawn

from poolscope import events as e
from poolscope.bus import ROOT
from poolscope.sqlalchemy import AsyncObservedPool, ObservedPool
from poolscope.testing.laws import Replay
from poolscope.testing.server import PrivateServer
from tests.support import run


class Stage:
    """Runs one body on an engine of its kind: as it is, or in a greenlet of an event loop."""

    def __init__(self, driver: str, url: str, server: PrivateServer | None = None) -> None:
        self.server = server
        self.url: URL = make_url(url).set(drivername=driver)
        self.is_async: bool = self.url.get_dialect().is_async
        self.events: list[e.Event] = []
        self.others = {client.id for client in server.clients()} if server else set()

    def engine(self, **options: Any) -> Any:
        """Return an engine for threads, or one for asyncio."""
        if self.is_async:
            return create_async_engine(self.url, poolclass=AsyncObservedPool, **options)
        return create_engine(self.url, poolclass=ObservedPool, **options)

    def run(self, body: Callable[[Engine], None], *, audit: bool = True, **options: Any) -> None:
        """Call `body(engine)`; then the pool must have kept all laws, and left nothing open.

        Threads may tell of a pool that was disposed of after its successor has opened under the
        same name: then nobody can tell their books apart, and there is no `audit`.
        """

        async def spawned() -> None:
            engine = self.engine(**options)
            try:
                await greenlet_spawn(body, engine.sync_engine)
            finally:
                await engine.dispose()

        with self.watched(audit):
            if self.is_async:
                return run(spawned())
            engine = self.engine(**options)
            try:
                body(engine)
            finally:
                engine.dispose()

    @contextmanager
    def watched(self, audit: bool = True) -> Iterator[None]:
        with ROOT.subscribe(self.events.append):
            yield
        for replay in self.replays() if audit else ():
            assert not replay.faults
            left = replay.open, replay.leases, replay.requests, replay.connecting
            assert left == (set(), {}, set(), set())

    def replays(self) -> list[Replay]:
        """Return the books of each pool there was."""
        books: dict[tuple[str, int], list[e.Event]] = {}
        opened: Counter[str] = Counter()
        for event in self.events:
            opened[event.pool] += isinstance(event, e.PoolOpened)
            books.setdefault((event.pool, opened[event.pool]), []).append(event)
        replays = []
        for pool in books.values():
            replays.append(Replay())
            for event in sorted(pool, key=lambda each: each.sequence):
                replays[-1](event)
        return replays

    def of(self, *kinds: type[e.Event]) -> list[Any]:
        """Return what the pool told of these kinds."""
        return [event for event in self.events if isinstance(event, kinds)]

    def reasons(self) -> list[e.CloseReason]:
        """Return why connections were closed, in order."""
        return [event.reason for event in self.of(e.ConnectionClosed)]

    def expect_clients(self, engine: Engine, number: int) -> None:
        """The server must have so many connections, as the pool says; it may need a moment."""
        assert self.server is not None
        before = self.others
        for _ in range(200):
            seen = {client.id for client in self.server.clients()} - before
            if len(seen) == number:
                break
            self.pause(0.01)
        stats = engine.pool.stats()
        assert len(seen) == number == (stats.size if stats else 0)

    def kill(self) -> None:
        """Let the server end all connections of this test."""
        assert self.server is not None
        before = {client.id for client in self.server.clients()} - self.others
        self.server.disconnect(*before)
        for _ in range(200):
            if not before & {client.id for client in self.server.clients()}:
                break
            self.pause(0.01)

    def pause(self, seconds: float) -> None:
        """Let time pass, and the loop turn."""
        if self.is_async:
            await_only(asyncio.sleep(seconds))
        else:
            time.sleep(seconds)
