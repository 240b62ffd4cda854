"""The observed pool of a client, and what happens to it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic, sleep
from typing import Any

from pymongo import AsyncMongoClient, MongoClient

from poolscope.events import CloseReason, ConnectionClosed, Event
from poolscope.instrument import observe
from poolscope.instrument.source import ForeignPool
from tests.servers.proxy import FaultProxy

PING = {"ping": 1}


def options(proxy: FaultProxy, **more: Any) -> dict[str, Any]:
    return {
        "host": "127.0.0.1",
        "port": proxy.port,
        "serverSelectionTimeoutMS": 2000,
        "connectTimeoutMS": 1000,
        "retryReads": False,
        **more,
    }


class Stage:
    """A client's pool, and its events."""

    def __init__(self, client: Any, proxy: FaultProxy, source: ForeignPool) -> None:
        self.client = client
        self.proxy = proxy
        self.source = source
        (server,) = client._topology._servers.values()
        self.pool = server.pool
        self.events: list[Event] = []
        self.subscription = source.bus.subscribe(self.events.append)

    def kinds(self) -> list[str]:
        """The types of the events since it was last asked."""
        kinds = [type(event).__name__ for event in self.events]
        self.events.clear()
        return kinds

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if type(event) is kind]

    def closed(self) -> list[CloseReason]:
        return [event.reason for event in self.of(ConnectionClosed)]

    def levels(self) -> tuple[int, int, int, int]:
        """Idle, in use, connecting, waiting."""
        stats = self.source.stats()
        return stats.idle, stats.in_use, stats.connecting, stats.waiting

    def check(self) -> None:
        idle, in_use, _, waiting = self.levels()
        counts = self.source.metrics
        failed = sum(counts.failures.values())
        assert counts.connection_requests == counts.acquired + failed + waiting
        assert counts.acquired == counts.released + in_use
        assert counts.opened == sum(counts.closed.values()) + idle + in_use


@contextmanager
def stage(proxy: FaultProxy, **more: Any) -> Iterator[Stage]:
    """A client that found its server; nobody has asked that anything yet."""
    with MongoClient(**options(proxy, **more)) as client:
        client._get_topology().select_server(lambda selection: selection, "test")
        on = Stage(client, proxy, observe(client))
        yield on


@asynccontextmanager
async def async_stage(proxy: FaultProxy, **more: Any) -> AsyncIterator[Stage]:
    async with AsyncMongoClient(**options(proxy, **more)) as client:
        topology = await client._get_topology()
        await topology.select_server(lambda selection: selection, "test")
        yield Stage(client, proxy, observe(client))


def until(holds: Callable[[], bool]) -> None:
    end = monotonic() + 10
    while not holds():
        assert monotonic() < end
        sleep(0.005)
