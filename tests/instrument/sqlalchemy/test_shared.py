"""Pools that lend one connection several times at once: leases are counted, and connections."""

import gc
import threading
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from poolscope.events import (
    CloseReason,
    ConnectionAcquired,
    ConnectionClosed,
    ConnectionDetached,
    ConnectionReleased,
    Event,
)
from poolscope.instrument import observe
from poolscope.instrument.source import ForeignPool
from tests.instrument.sqlalchemy.stage import levels

KINDS = [SingletonThreadPool, StaticPool]


class Shared:
    """An engine on one connection in memory."""

    def __init__(self, kind: Any) -> None:
        # Whoever disposes of it closes connections of other threads.
        self.engine: Engine = create_engine(
            "sqlite://", poolclass=kind, connect_args={"check_same_thread": False}
        )
        self.source: ForeignPool = observe(self.engine)
        self.events: list[Any] = []
        self.source.bus.subscribe(self.events.append)

    def count(self, kind: type[Event]) -> int:
        return sum(type(event) is kind for event in self.events)

    def expect(self, idle: int, in_use: int, acquired: int, released: int) -> None:
        assert levels(self.source) == (idle, in_use, 0, 0)
        assert self.count(ConnectionAcquired) == acquired
        assert self.count(ConnectionReleased) == released

    def end(self) -> None:
        self.engine.dispose()
        assert levels(self.source) == (0, 0, 0, 0)
        metrics = self.source.metrics
        assert metrics.opened == metrics.closed.total() + metrics.detached
        assert metrics.wait.count == metrics.use.count
        self.source.close()


@pytest.mark.parametrize("kind", KINDS)
def test_each_checkout_is_a_lease_of_its_own(kind: Any) -> None:
    on = Shared(kind)
    with on.engine.connect() as first:
        with on.engine.connect() as second:
            assert first.scalar(text("select 1")) == second.scalar(text("select 1"))
            on.expect(0, 1, 2, 0)
        on.expect(0, 1, 2, 1)
    on.expect(1, 0, 2, 2)
    acquired = [event for event in on.events if isinstance(event, ConnectionAcquired)]
    assert len({event.connection_id for event in acquired}) == 1
    on.end()


@pytest.mark.parametrize("kind", KINDS)
def test_leases_may_end_in_any_order(kind: Any) -> None:
    on = Shared(kind)
    first, second = on.engine.connect(), on.engine.connect()
    first.close()
    on.expect(0, 1, 2, 1)
    third = on.engine.connect()
    second.close()
    on.expect(0, 1, 3, 2)
    third.close()
    on.expect(1, 0, 3, 3)
    on.end()


@pytest.mark.parametrize("kind", KINDS)
def test_what_breaks_ends_the_leases_of_all(kind: Any) -> None:
    on = Shared(kind)
    first, second = on.engine.connect(), on.engine.connect()
    second.invalidate()
    on.expect(0, 0, 2, 2)
    first.close()
    second.close()
    on.expect(0, 0, 2, 2)
    (closed,) = [event for event in on.events if isinstance(event, ConnectionClosed)]
    assert closed.reason is CloseReason.BROKEN
    with on.engine.connect():
        on.expect(0, 1, 3, 2)
    on.end()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_detached_is_so_once(kind: Any) -> None:
    on = Shared(kind)
    lent = [on.engine.connect(), on.engine.connect()]
    lent[1].detach()
    on.expect(0, 0, 2, 1)
    assert on.count(ConnectionDetached) == 1
    for each in lent:
        each.close()
    on.expect(0, 0, 2, 1)
    on.end()


@pytest.mark.parametrize("kind", KINDS)
def test_forgotten_leases_end(kind: Any) -> None:
    on = Shared(kind)
    first: Any = on.engine.raw_connection()
    second: Any = on.engine.raw_connection()
    assert second.dbapi_connection is first.dbapi_connection
    del first, second
    gc.collect()
    on.expect(1, 0, 2, 2)
    on.end()


def test_each_thread_has_a_connection_of_its_own() -> None:
    on = Shared(SingletonThreadPool)

    def elsewhere() -> None:
        with on.engine.connect():
            on.expect(0, 2, 2, 0)

    with on.engine.connect():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        on.expect(1, 1, 2, 1)
    on.expect(2, 0, 2, 2)
    on.end()


@pytest.mark.parametrize("kind", KINDS)
def test_shared_connections_are_found_late(kind: Any) -> None:
    engine = create_engine("sqlite://", poolclass=kind)
    with engine.connect():
        source = observe(engine)
        assert levels(source) == (0, 1, 0, 0)
    assert levels(source) == (1, 0, 0, 0)
    engine.dispose()
    assert levels(source) == (0, 0, 0, 0)
    source.close()
