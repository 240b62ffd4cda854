"""Observed engines live and end as others do, and leave nothing behind."""

import copy
import gc
import inspect
import logging
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Dialect, Engine, create_engine, event, text
from sqlalchemy.pool import (
    AssertionPool,
    AsyncAdaptedQueuePool,
    NullPool,
    Pool,
    QueuePool,
    SingletonThreadPool,
    StaticPool,
)
from sqlalchemy.pool.base import _ConnectionFairy, _ConnectionRecord

from poolscope import instrument, registry
from poolscope.events import CloseReason, ConnectionClosed, PoolClosed
from poolscope.instrument import observe, uninstrument
from poolscope.instrument.sqlalchemy import LIBRARY
from poolscope.testing.postgres import PostgresServer
from tests.instrument.sqlalchemy.stage import levels

CLASSES: list[type] = [
    Dialect,
    Engine,
    Pool,
    AssertionPool,
    AsyncAdaptedQueuePool,
    NullPool,
    QueuePool,
    SingletonThreadPool,
    StaticPool,
    _ConnectionFairy,
    _ConnectionRecord,
]


def cycle(engine: Engine) -> None:
    with engine.connect() as lent:
        lent.execute(text("select 1"))


def test_all_is_put_back_as_it_was(tmp_path: Path) -> None:
    before = [dict(kind.__dict__) for kind in CLASSES]
    instrument("sqlalchemy")
    engines = [
        create_engine(f"sqlite:///{tmp_path}/shop.db", poolclass=kind)
        for kind in (QueuePool, NullPool, SingletonThreadPool, StaticPool, AssertionPool)
    ]
    dispatches = [copy.copy(engine.pool.dispatch.__dict__) for engine in engines]
    assert [dict(kind.__dict__) for kind in CLASSES] != before
    for engine in engines:
        cycle(engine)
    uninstrument("sqlalchemy")
    for kind, attributes in zip(CLASSES, before, strict=True):
        assert dict(kind.__dict__) == attributes
        assert list(kind.__dict__) == list(attributes)
    for engine, dispatch in zip(engines, dispatches, strict=True):
        assert engine.pool.dispatch.__dict__ == dispatch
        assert not [name for name in engine.pool.__dict__ if "poolscope" in name]
        cycle(engine)
        engine.dispose()


def test_wrappers_look_like_what_they_replace(tmp_path: Path) -> None:
    def shown() -> list[Any]:
        methods: list[Callable[..., Any]] = [
            Pool.connect,
            QueuePool.dispose,
            QueuePool.recreate,
            _ConnectionRecord.invalidate,
            _ConnectionFairy.detach,
            Engine.__init__,
        ]
        return [(each.__name__, each.__doc__, inspect.signature(each)) for each in methods]

    before = shown()
    source = observe(create_engine(f"sqlite:///{tmp_path}/shop.db"))
    assert shown() == before
    source.close()


@pytest.mark.parametrize("kind", [QueuePool, NullPool, SingletonThreadPool, StaticPool])
def test_a_pool_is_collected_at_once_as_before(kind: Any, tmp_path: Path) -> None:
    def dies_at_once(look: bool) -> bool:
        engine = create_engine(f"sqlite:///{tmp_path}/shop.db", poolclass=kind)
        if look:
            observe(engine)
        cycle(engine)
        engine.dispose()
        pool = weakref.ref(engine.pool)
        engine.pool = engine.pool.recreate()
        return pool() is None

    gc.collect()
    gc.disable()
    try:
        assert dies_at_once(look=False)
        assert dies_at_once(look=True)
    finally:
        gc.enable()


def test_a_pool_of_its_own_is_collected_at_once_and_takes_its_source_with_it() -> None:
    gc.disable()
    try:
        pool = QueuePool(lambda: None, logging_name="lonely")  # type: ignore[arg-type, return-value]
        source, lost = weakref.ref(observe(pool)), weakref.ref(pool)
        assert registry.find("lonely") is source()
        del pool
        assert lost() is None
        assert source() is None
        assert registry.find("lonely") is None
    finally:
        gc.enable()


def test_a_lost_engine_closes_what_was_idle_before_its_pool_is_closed(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    source = observe(engine)
    ended: list[Any] = []
    source.bus.subscribe(ended.append, ConnectionClosed, PoolClosed)
    cycle(engine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del engine
        gc.collect()
    assert [type(event) for event in ended] == [ConnectionClosed, PoolClosed]
    assert ended[0].reason is CloseReason.POOL_CLOSED
    assert levels(source) == (0, 0, 0, 0)
    assert registry.live() == []


def leave_nothing(number: int, file: Path) -> None:
    for _ in range(number):
        engine = create_engine(f"sqlite:///{file}")
        cycle(engine)
        engine.dispose()
        del engine
    gc.collect()
    assert registry.live() == []
    assert len(LIBRARY._sources) == len(LIBRARY._addresses) == 0


@pytest.mark.usefixtures("instrumented")
def test_engines_that_come_and_go_leave_nothing(tmp_path: Path) -> None:
    leave_nothing(200, tmp_path / "shop.db")


@pytest.mark.slow
@pytest.mark.usefixtures("instrumented")
def test_ten_thousand_engines_leave_nothing(tmp_path: Path) -> None:
    leave_nothing(10_000, tmp_path / "shop.db")


@pytest.mark.usefixtures("instrumented")
def test_an_engine_disposed_of_again_and_again_keeps_its_name_and_counts(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    (source,) = registry.live()
    for _ in range(50):
        cycle(engine)
        engine.dispose()
    gc.collect()
    assert registry.live() == [source]
    assert source.metrics.wait.count == 50
    assert source.metrics.closed.total() == 50


def test_an_engine_that_is_no_longer_observed_stays_so(tmp_path: Path) -> None:
    instrument("sqlalchemy")
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    observe(engine).close()
    cycle(engine)
    engine.dispose()
    cycle(engine)
    assert registry.live() == []
    source = observe(engine)
    cycle(engine)
    assert source.metrics.wait.count == 1
    uninstrument("sqlalchemy")
    engine.dispose()


def test_events_of_the_library_and_ours_do_not_disturb_each_other(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    heard: list[str] = []
    for name in ("connect", "checkout", "checkin", "close", "reset"):
        event.listen(engine, name, lambda *_, name=name, **__: heard.append(name))
    source = observe(engine)
    cycle(engine)
    engine.dispose()
    cycle(engine)
    assert heard == ["connect", "checkout", "reset", "checkin", "close", *heard[:4]]
    source.close()
    engine.dispose()


def in_child(body: Callable[[], None]) -> None:
    """Fork, and fail if the body does."""
    if (child := os.fork()) == 0:
        code = 1
        try:
            body()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_a_forked_child_counts_what_is_its_own(postgres: PostgresServer) -> None:
    url = postgres.url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    source = observe(engine)

    def child() -> None:
        assert levels(source) == (0, 0, 0, 0)
        engine.dispose(close=False)
        assert levels(source) == (0, 0, 0, 0)
        with engine.connect() as lent:
            assert lent.scalar(text("select 1")) == 1
            assert levels(source) == (0, 1, 0, 0)
        assert levels(source) == (1, 0, 0, 0)
        assert source.metrics.opened == source.metrics.wait.count == 1

    with engine.connect() as lent:
        cycle(engine)
        assert levels(source) == (1, 1, 0, 0)
        in_child(child)
        assert levels(source) == (1, 1, 0, 0)
        assert lent.scalar(text("select 1")) == 1
    cycle(engine)
    engine.dispose()
    assert levels(source) == (0, 0, 0, 0)
    source.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_count_threads_that_wait_in_its_parent(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db", pool_size=1, max_overflow=0)
    source = observe(engine)

    def child() -> None:
        assert levels(source) == (0, 0, 0, 0)

    with engine.connect():
        thread = threading.Thread(target=cycle, args=(engine,))
        thread.start()
        while not engine.pool._pool.not_empty._waiters:  # type: ignore[attr-defined]
            time.sleep(0.001)
        in_child(child)
        assert levels(source) == (0, 1, 0, 1)
    thread.join()
    engine.dispose()
    source.close()


@pytest.mark.parametrize(
    ("kind", "attribute"),
    [
        (_ConnectionRecord, "_ConnectionRecord__connect"),
        (_ConnectionRecord, "_ConnectionRecord__close"),
        (Pool, "_return_conn"),
        (QueuePool, "size"),
    ],
)
def test_a_version_that_is_not_known_is_left_alone(
    kind: type,
    attribute: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = [dict(each.__dict__) for each in CLASSES]
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    monkeypatch.setattr(LIBRARY, "_warned", False)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "poolscope"):
        patch.delattr(kind, attribute)
        with pytest.raises(RuntimeError, match="cannot be observed"):
            observe(engine)
    (record,) = caplog.records
    assert "pools of SQLAlchemy" in record.getMessage()
    assert [dict(each.__dict__) for each in CLASSES] == before
    cycle(engine)
    engine.dispose()
