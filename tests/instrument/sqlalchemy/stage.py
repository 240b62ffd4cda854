"""An observed engine, on a real database, under threads or asyncio, and what all of them say."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import await_only, greenlet_spawn

from poolscope import events as e
from poolscope.instrument import observe
from poolscope.instrument.source import ForeignPool
from poolscope.stats import PoolStats
from poolscope.testing.laws import Replay
from poolscope.testing.server import PrivateServer
from tests.support import run

Levels = tuple[int, int, int, int]


def levels(source: ForeignPool) -> Levels:
    """Idle, in use, connecting, waiting."""
    stats = source.stats()
    return stats.idle, stats.in_use, stats.connecting, stats.waiting


class Books(Replay):
    """Knows that the clock of a foreign pool is read again for each event."""

    def _SaturationEnded(self, event: e.SaturationEnded) -> None:
        self._expect(self.saturation is not None, f"never began: {event}")
        self.saturation = None

    def _check_saturation(self, stats: PoolStats) -> None:
        self._expect(self.saturation is None or stats.saturated_for > 0, f"{stats}")


class On:
    """An engine and its source, while a body of a test runs."""

    def __init__(self, engine: Engine, source: ForeignPool, stage: "Stage") -> None:
        self.engine = engine
        self.source = source
        self.events: list[Any] = []
        self.replay = Books()
        self._stage = stage
        source.bus.subscribe(self.events.append)
        source.bus.subscribe(self.replay)

    @property
    def levels(self) -> Levels:
        return levels(self.source)

    def of(self, *kinds: type[e.Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]

    def kinds(self) -> list[str]:
        """The types of the events since it was last asked."""
        kinds = [type(event).__name__ for event in self.events]
        self.events.clear()
        return kinds

    def closed(self) -> list[e.CloseReason]:
        return [event.reason for event in self.of(e.ConnectionClosed)]

    def expect(self, idle: int, in_use: int) -> None:
        """So it must be by the pool, by the events, and by the server, which may need a moment."""
        assert self.levels == (idle, in_use, 0, 0)
        self.replay.check(self.source.stats())
        seen = self._stage.seen(idle + in_use)
        assert seen == idle + in_use

    def expect_waiting(self) -> None:
        """One must wait for the one connection there is."""
        assert self.levels == (0, 1, 0, 1)
        self.replay.check(self.source.stats())


class Stage:
    """Runs one body on an engine of its kind: as it is, or in a greenlet of an event loop."""

    def __init__(self, driver: str, server: PrivateServer) -> None:
        self.server = server
        self.url: URL = make_url(server.url).set(drivername=driver)
        self.is_async: bool = self.url.get_dialect().is_async
        self.others = {client.id for client in server.clients()}

    def engine(self, **options: Any) -> Any:
        """Return an engine for threads, or one for asyncio."""
        make = create_async_engine if self.is_async else create_engine
        return make(self.url, **options)

    def run(self, body: Callable[[On], None], **options: Any) -> None:
        """Call `body`; then the pool must have kept all laws, and left nothing open."""

        def begin(engine: Engine) -> None:
            on = On(engine, observe(engine), self)
            try:
                body(on)
            finally:
                engine.dispose()
            on.expect(0, 0)
            on.source.close()

        self.bare(begin, **options)

    def bare(self, body: Callable[[Engine], None], **options: Any) -> None:
        """Call `body` with an engine that is not observed."""

        async def spawned() -> None:
            engine = self.engine(**options)
            try:
                await greenlet_spawn(body, engine.sync_engine)
            finally:
                await engine.dispose()

        if self.is_async:
            return run(spawned())
        engine = self.engine(**options)
        try:
            body(engine)
        finally:
            engine.dispose()

    def seen(self, number: int) -> int:
        """Return how many connections the server has, after waiting until there are so many."""
        for _ in range(500):
            seen = {client.id for client in self.server.clients()} - self.others
            if len(seen) == number:
                break
            self.pause(0.01)
        return len(seen)

    def kill(self) -> None:
        """Let the server end all connections of this test."""
        self.server.disconnect(*{client.id for client in self.server.clients()} - self.others)
        assert self.seen(0) == 0

    def pause(self, seconds: float) -> None:
        """Let time pass, and the loop turn."""
        if self.is_async:
            await_only(asyncio.sleep(seconds))
        else:
            time.sleep(seconds)
