"""What concerns threads and processes alone."""

import gc
import os
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.pool import QueuePool

from poolscope import events as e
from poolscope import registry
from poolscope.sqlalchemy import ObservedPool
from poolscope.testing.postgres import PostgresServer
from tests.sqlalchemy.stage import Stage


@pytest.fixture
def sqlite(tmp_path: Path) -> Stage:
    return Stage("sqlite+pysqlite", f"sqlite:///{tmp_path}/shop.db")


def in_threads(*calls: Callable[[], object]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.001)


def test_threads_are_served_in_the_order_of_their_coming(sqlite: Stage) -> None:
    served: list[int] = []

    def body(engine: Engine) -> None:
        def ask(number: int) -> None:
            with engine.connect():
                served.append(number)

        pool: Any = engine.pool
        with engine.connect():
            threads = []
            for number in range(8):
                threads.append(threading.Thread(target=ask, args=[number]))
                threads[-1].start()
                until(lambda: pool.stats().waiting == len(threads))
        for thread in threads:
            thread.join()

    sqlite.run(body, pool_size=1, max_overflow=0)
    assert served == list(range(8))


def test_many_threads_share_few_connections_and_lose_none(sqlite: Stage) -> None:
    def body(engine: Engine) -> None:
        def work() -> None:
            for turn in range(20):
                lent = engine.connect()
                assert lent.scalar(text("select 1")) == 1
                if turn % 7 == 0:
                    lent.invalidate()
                lent.close()

        in_threads(*[work] * 16)
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]

    sqlite.run(body, pool_size=2, max_overflow=1)
    assert len(sqlite.of(e.ConnectionAcquired)) == len(sqlite.of(e.ConnectionReleased)) == 320
    assert sqlite.reasons().count(e.CloseReason.BROKEN) == 48


def test_the_first_requests_of_many_threads_open_one_pool(sqlite: Stage) -> None:
    def body(engine: Engine) -> None:
        together = threading.Barrier(8)

        def ask() -> None:
            together.wait()
            with engine.connect() as lent:
                assert lent.scalar(text("select 1")) == 1

        in_threads(*[ask] * 8)

    for _ in range(5):
        sqlite.run(body)
    assert len(sqlite.of(e.PoolOpened)) == 5


def test_threads_that_wait_at_dispose_go_on_with_the_next_pool(sqlite: Stage) -> None:
    def body(engine: Engine) -> None:
        answers: list[object] = []

        def ask() -> None:
            with engine.connect() as lent:
                answers.append(lent.scalar(text("select 1")))

        pool: Any = engine.pool
        with engine.connect():
            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            until(lambda: pool.stats().waiting == 3)
            engine.dispose()
            for thread in threads:
                thread.join()
        assert answers == [1, 1, 1]

    sqlite.run(body, audit=False, pool_size=1, max_overflow=0)
    assert len(sqlite.of(e.PoolOpened)) == len(sqlite.of(e.PoolClosed)) == 2


def test_connections_are_opened_and_closed_in_the_thread_that_asks(sqlite: Stage) -> None:
    threads = []

    def body(engine: Engine) -> None:
        for name in "connect", "close":
            event.listen(engine, name, lambda *_: threads.append(threading.get_ident()))
        with engine.connect(), engine.connect():
            pass
        engine.dispose()

    sqlite.run(body, pool_size=1)
    assert threads == [threading.get_ident()] * 4


def test_each_thread_that_cannot_connect_is_told_by_its_own_attempt() -> None:
    together = threading.Barrier(5)
    attempts = count()

    def connect() -> Any:
        if next(attempts) == 0:
            return Connection()
        together.wait(5)
        raise ConnectionRefusedError

    pool = ObservedPool(connect, pool_size=1, max_overflow=9)

    def ask() -> None:
        with pytest.raises(ConnectionRefusedError):
            pool.connect()

    with pool.connect():
        in_threads(*[ask] * 5)
    assert next(attempts) == 6
    pool.dispose()


def test_a_pool_that_is_lost_says_nothing_and_gives_its_name_back() -> None:
    pool = ObservedPool(Connection, name="lost")
    pool.connect().close()
    assert registry.find("lost") is not None
    del pool

    def is_gone() -> bool:
        gc.collect()
        return registry.find("lost") is None

    until(is_gone)  # a thread may be about to let go of its last job


def test_recreate_alone_makes_a_second_pool(sqlite: Stage) -> None:
    def body(engine: Engine) -> None:
        first: Any = engine.pool
        with engine.connect():
            engine.dispose(close=False)
            with engine.connect():
                assert first.checkedout() == engine.pool.checkedout() == 1  # type: ignore
        first.dispose()

    sqlite.run(body, name="shop")
    assert {each.pool for each in sqlite.events} == {"shop", "shop-2"}


def test_wrong_arguments_are_refused_and_told() -> None:
    with pytest.raises(ValueError, match="leak_threshold must be a number above 0"):
        create_engine("sqlite:///shop.db", poolclass=ObservedPool, leak_threshold=-1)
    with pytest.raises(TypeError, match="patience"):
        create_engine("sqlite:///shop.db", poolclass=ObservedPool, patience=1)
    with pytest.raises(sqlalchemy.exc.ArgumentError, match="cannot be used with asyncio engine"):
        create_engine("sqlite+aiosqlite:///shop.db", poolclass=ObservedPool)


def test_what_a_queue_pool_takes_is_taken() -> None:
    options = {"pool_size": 3, "max_overflow": 1, "timeout": 2.0, "use_lifo": True, "recycle": 9}
    ours, theirs = (pool(Connection, **options) for pool in (ObservedPool, QueuePool))
    for pool in (ours, theirs, ours.recreate(), theirs.recreate()):
        assert (pool.size(), pool.timeout(), pool.overflow()) == (3, 2.0, -3)  # type: ignore
        lent = pool.connect()
        assert pool.status() == (
            "Pool size: 3  Connections in pool: 0 Current Overflow: -2 "
            "Current Checked out connections: 1"
        )
        lent.close()
        pool.dispose()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("close", [True, False])
def test_a_forked_child_leaves_the_connections_of_its_parent_alone(
    postgres: PostgresServer, close: bool
) -> None:
    url = postgres.url.replace("postgresql:", "postgresql+psycopg:", 1)
    engine = create_engine(url, poolclass=ObservedPool, name="shop")
    with engine.connect() as lent:
        mine = lent.scalar(text("select pg_backend_pid()"))
    if (child := os.fork()) == 0:
        code = 1
        try:
            engine.dispose(close=close)
            with engine.connect() as lent:
                other = lent.scalar(text("select pg_backend_pid()"))
            pool: Any = engine.pool
            code = 0 if other != mine and pool.stats().pool == "shop" else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with engine.connect() as lent:
        assert lent.scalar(text("select pg_backend_pid()")) == mine
    engine.dispose()


class Connection:
    """As little of a driver's as a pool needs."""

    def rollback(self) -> None: ...

    def close(self) -> None: ...
