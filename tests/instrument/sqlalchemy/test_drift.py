"""Where numbers that others count up and down drift away from the truth."""

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
from opentelemetry.instrumentation.utils import suppress_instrumentation
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import await_only

from poolscope import instrument, registry
from poolscope.events import (
    AcquireFailed,
    AcquireSource,
    ConnectionAcquired,
    ConnectionReleased,
    FailureReason,
    RequestQueued,
)
from poolscope.instrument import observe, uninstrument
from poolscope.testing.postgres import PostgresServer
from tests.instrument.sqlalchemy.stage import On, Stage, levels
from tests.support import run


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.001)
    assert holds()


def test_detached_connections_are_the_pools_no_more(stage: Stage) -> None:
    def body(on: On) -> None:
        lent = [on.engine.connect() for _ in range(3)]
        for each in lent:
            each.detach()
        assert on.levels == (0, 0, 0, 0)
        assert stage.seen(3) == 3
        assert on.source.metrics.detached == 3
        for each in lent:
            assert each.scalar(text("select 1")) == 1
            each.close()
        on.expect(0, 0)
        assert on.closed() == []
        with on.engine.connect():
            on.expect(0, 1)
        on.expect(1, 0)

    stage.run(body)


def test_what_is_lent_while_the_engine_is_disposed_of_stays_in_use(stage: Stage) -> None:
    def body(on: On) -> None:
        old = on.engine.connect()
        with on.engine.connect():
            pass
        on.expect(1, 1)
        on.engine.dispose()
        on.expect(0, 1)
        with on.engine.connect():
            on.expect(0, 2)
        on.expect(1, 1)
        assert registry.find(on.source.name) is on.source
        old.invalidate()
        old.close()
        on.expect(1, 0)

    stage.run(body)


def test_a_connection_that_comes_back_to_a_lost_pool_is_lost_with_it(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    source = observe(engine)
    old = engine.connect()
    engine.dispose()
    assert levels(source) == (0, 1, 0, 0)
    old.close()
    # SQLAlchemy keeps it open until the collection that finds the pool.
    assert source.stats().in_use == 0
    del old
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    assert levels(source) == (0, 0, 0, 0)
    assert source.metrics.opened == source.metrics.closed.total() == 1
    with engine.connect():
        assert levels(source) == (0, 1, 0, 0)
    engine.dispose()
    source.close()


@pytest.mark.parametrize("options", [{}, {"poolclass": NullPool}], ids=["queue", "null"])
def test_an_engine_in_use_is_right_from_the_first_reading(stage: Stage, options: Any) -> None:
    def body(engine: Engine) -> None:
        with engine.connect() as lent:
            with engine.connect():
                pass
            idle = 0 if options else 1
            source = observe(engine)
            assert levels(source) == (idle, 1, 0, 0)
            assert stage.seen(idle + 1) == idle + 1
            assert lent.scalar(text("select 1")) == 1
        assert levels(source) == (2 * idle, 0, 0, 0)
        with engine.connect():
            assert levels(source) == (idle, 1, 0, 0)
        assert source.metrics.use.count == 1
        source.close()

    stage.bare(body, **options)


def test_a_connect_under_way_is_known_when_it_is_done(stage: Stage) -> None:
    def body(engine: Engine) -> None:
        sources = []

        @event.listens_for(engine, "do_connect", once=True)
        def look(*_: object) -> None:
            sources.append(observe(engine))

        with engine.connect():
            assert levels(sources[0])[0] == 0
        assert levels(sources[0]) == (1, 0, 0, 0)
        with engine.connect():
            assert levels(sources[0]) == (0, 1, 0, 0)
        sources[0].close()

    stage.bare(body)


def test_threads_that_wait_already_are_counted(postgres: PostgresServer) -> None:
    stage = Stage("postgresql+psycopg", postgres)

    def body(engine: Engine) -> None:
        with engine.connect():
            thread = threading.Thread(target=lambda: engine.connect().close())
            thread.start()
            source = observe(engine)
            deadline = time.monotonic() + 10
            while levels(source) != (0, 1, 0, 1) and time.monotonic() < deadline:
                time.sleep(0.001)
            assert levels(source) == (0, 1, 0, 1)
        thread.join()
        assert levels(source) == (1, 0, 0, 0)
        source.close()

    stage.bare(body, pool_size=1, max_overflow=0)


def test_who_no_longer_looks_does_not_see_what_comes_back(stage: Stage) -> None:
    def body(engine: Engine) -> None:
        instrument("sqlalchemy")
        with engine.connect() as lent:
            (first,) = registry.live()
            uninstrument("sqlalchemy")
            assert registry.live() == []
            assert lent.scalar(text("select 1")) == 1
            instrument("sqlalchemy")
            (second,) = registry.live()
            assert second.name == first.name
            assert second.stats().in_use == 1
        assert (second.stats().idle, second.stats().in_use) == (1, 0)
        with engine.connect():
            assert (second.stats().idle, second.stats().in_use) == (0, 1)
        uninstrument("sqlalchemy")

    stage.bare(body)


@pytest.mark.parametrize("on_the_way", ["out", "back"])
def test_suppression_on_one_way_changes_nothing(stage: Stage, on_the_way: str) -> None:
    def body(on: On) -> None:
        if on_the_way == "out":
            with suppress_instrumentation():
                lent = on.engine.connect()
            on.expect(0, 1)
            lent.close()
        else:
            lent = on.engine.connect()
            with suppress_instrumentation():
                lent.close()
        on.expect(1, 0)

    stage.run(body)


def test_two_engines_on_one_address_have_series_of_their_own(stage: Stage) -> None:
    def body(on: On) -> None:
        def other(engine: Engine) -> None:
            source = observe(engine)
            assert source.name == f"{on.source.name}-2"
            with engine.connect():
                assert levels(source) == (0, 1, 0, 0)
                assert on.levels == (0, 0, 0, 0)
            source.close()

        engine = stage.engine()
        sync = getattr(engine, "sync_engine", engine)
        other(sync)
        sync.dispose()

    stage.run(body)


def test_a_cancelled_acquire_is_a_request_that_was_given_up(postgres: PostgresServer) -> None:
    stage = Stage("postgresql+asyncpg", postgres)

    async def main() -> None:
        engine = create_async_engine(stage.url, pool_size=1, max_overflow=0)
        source = observe(engine)
        on = On(engine.sync_engine, source, stage)
        async with engine.connect():
            waiting = asyncio.create_task(engine.connect().__aenter__())
            await until(lambda: on.levels == (0, 1, 0, 1))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert on.levels == (0, 1, 0, 0)
        (failed,) = on.of(AcquireFailed)
        assert failed.reason is FailureReason.CANCELLED
        assert on.levels == (1, 0, 0, 0)
        on.replay.check(source.stats())
        async with engine.connect():
            assert on.levels == (0, 1, 0, 0)
        await engine.dispose()
        source.close()

    run(main())


def test_a_connect_that_is_cancelled_leaves_no_place_taken() -> None:
    async def main() -> None:
        engine = create_async_engine("postgresql+asyncpg://db/shop")

        @event.listens_for(engine.sync_engine, "do_connect")
        def dawdle(*_: object) -> None:
            await_only(asyncio.Event().wait())

        source = observe(engine)
        task = asyncio.create_task(engine.connect().__aenter__())
        await until(lambda: levels(source) == (0, 0, 1, 1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert levels(source) == (0, 0, 0, 0)
        assert source.metrics.failures == {FailureReason.CANCELLED: 1}
        source.close()
        await engine.dispose()

    run(main())


def test_who_waits_is_handed_what_comes_back(postgres: PostgresServer) -> None:
    stage = Stage("postgresql+psycopg", postgres)

    def body(on: On) -> None:
        with on.engine.connect():
            thread = threading.Thread(target=lambda: on.engine.connect().close())
            thread.start()
            deadline = time.monotonic() + 10
            while len(on.of(RequestQueued)) < 2 and time.monotonic() < deadline:
                time.sleep(0.001)
            on.expect_waiting()
        thread.join()
        assert [event.source for event in on.of(ConnectionAcquired)] == [
            AcquireSource.NEW,
            AcquireSource.HANDOFF,
        ]
        assert len(on.of(ConnectionReleased)) == 2
        on.expect(1, 0)

    stage.run(body, pool_size=1, max_overflow=0)


def test_threads_and_faults_leave_the_books_balanced(postgres: PostgresServer) -> None:
    stage = Stage("postgresql+psycopg", postgres)

    def body(on: On) -> None:
        def work(number: int) -> None:
            for step in range(40):
                try:
                    with on.engine.connect() as lent:
                        match (number + step) % 5:
                            case 0:
                                lent.invalidate()
                            case 1:
                                lent.scalar(text("select 1"))
                            case 2 if step % 20 == 2:
                                lent.detach()
                except sqlalchemy.exc.TimeoutError:
                    pass

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        metrics, stats = on.source.metrics, on.source.stats()
        assert stats.waiting == stats.in_use == stats.connecting == 0
        assert metrics.opened == metrics.closed.total() + metrics.detached + stats.idle
        acquired = metrics.wait.count
        assert acquired == metrics.use.count
        assert acquired + sum(metrics.failures.values()) == 240
        assert stage.seen(stats.idle) == stats.idle
        on.replay.faults.clear()  # threads tell in whatever order

    stage.run(body, pool_size=2, max_overflow=1, pool_timeout=5)
