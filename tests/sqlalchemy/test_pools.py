"""What both pools do on every database: each body runs in a thread, or in a greenlet."""

import gc
from typing import Any

import pytest
import sqlalchemy.exc
from sqlalchemy import Engine, event, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import poolscope
from poolscope import events as e
from poolscope import registry
from poolscope.events import CloseReason
from tests.sqlalchemy.stage import Stage


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders_of_engines"
    id: Mapped[int] = mapped_column(primary_key=True)


def test_connections_open_at_once_and_no_more_than_pool_size_stay(stage: Stage) -> None:
    def body(engine: Engine) -> None:
        lent = [engine.connect() for _ in range(3)]
        assert [each.scalar(text("select 1")) for each in lent] == [1, 1, 1]
        pool: Any = engine.pool
        assert (pool.size(), pool.overflow(), pool.checkedin(), pool.checkedout()) == (1, 2, 0, 3)
        if stage.server:
            stage.expect_clients(engine, 3)
        for each in lent:
            each.close()
        stage.pause(0.01)
        assert (pool.overflow(), pool.checkedin(), pool.checkedout()) == (0, 1, 0)
        assert pool.status() == (
            "Pool size: 1  Connections in pool: 1 Current Overflow: 0 "
            "Current Checked out connections: 0"
        )
        if stage.server:
            stage.expect_clients(engine, 1)

    stage.run(body, pool_size=1, max_overflow=2)
    assert stage.reasons() == [CloseReason.EXCESS, CloseReason.EXCESS, CloseReason.POOL_CLOSED]


def test_a_pool_is_named_after_what_it_connects_to_and_never_says_the_password(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    said = []

    def body(engine: Engine) -> None:
        with engine.connect():
            source = registry.find(name)
            assert source is not None
            assert source.target is not None
            pool: Any = engine.pool
            said.extend([repr(source.target), repr(pool.stats()), pool.status(), repr(pool)])

    url = stage.url
    name = "shop.db" if url.host is None else f"{url.host}:{url.port}/{url.database}"
    with caplog.at_level("DEBUG"):
        stage.run(body)
    assert {each.pool for each in stage.events} == {name}
    said += map(repr, stage.events)
    said += [record.getMessage() for record in caplog.records if record.name.startswith("poolsc")]
    assert str(url.password or "the password") not in "\n".join(said)


def test_the_logging_name_is_the_name_and_name_wins_over_it(stage: Stage) -> None:
    def body(engine: Engine) -> None:
        engine.connect().close()

    stage.run(body, pool_logging_name="orders")
    stage.run(body, pool_logging_name="orders", name="shop")
    assert [opened.pool for opened in stage.of(e.PoolOpened)] == ["orders", "shop"]


def test_who_waits_too_long_gets_an_error_that_is_of_both_libraries(stage: Stage) -> None:
    def body(engine: Engine) -> None:
        with engine.connect():
            with pytest.raises(sqlalchemy.exc.TimeoutError) as caught:
                engine.connect()
            assert isinstance(caught.value, poolscope.PoolTimeoutError)
            assert caught.value.stats is not None
            assert caught.value.stats.in_use == 1
            assert "1/1 in use" in str(caught.value)
            assert "test_pools.py:" in str(caught.value)
        stage.pause(0.02)  # a thread may be about to see to the deadline too

    stage.run(body, pool_size=1, max_overflow=0, pool_timeout=0.02)
    assert len(stage.of(e.AcquireTimedOut)) == 1


def test_nobody_who_finds_room_needs_patience(stage: Stage) -> None:
    def body(engine: Engine) -> None:
        with engine.connect(), engine.connect() as second:
            assert second.scalar(text("select 1")) == 1
            with pytest.raises(sqlalchemy.exc.TimeoutError):
                engine.connect()

    stage.run(body, pool_size=1, max_overflow=1, pool_timeout=0)


def test_a_connection_that_is_too_old_is_replaced(stage: Stage) -> None:
    def body(engine: Engine) -> None:
        for _ in range(3):
            with engine.connect() as lent:
                assert lent.scalar(text("select 1")) == 1

    stage.run(body, pool_recycle=0)
    assert stage.reasons() == [CloseReason.LIFETIME] * 3


def test_pre_ping_replaces_what_the_server_has_closed(server_stage: Stage) -> None:
    def body(engine: Engine) -> None:
        lent = [engine.connect() for _ in range(3)]
        for each in lent:
            each.close()
        server_stage.kill()
        with engine.connect() as again:
            assert again.scalar(text("select 1")) == 1
            server_stage.expect_clients(engine, 1)

    server_stage.run(body, pool_pre_ping=True)
    *first, last = server_stage.reasons()
    assert sorted(first) == [CloseReason.STALE, CloseReason.STALE, CloseReason.VALIDATION]
    assert last is CloseReason.POOL_CLOSED


def test_a_lost_server_costs_one_error_and_all_connections(server_stage: Stage) -> None:
    def body(engine: Engine) -> None:
        others = [engine.connect() for _ in range(2)]
        with engine.connect() as lent:
            for each in others:
                each.close()
            server_stage.kill()
            with pytest.raises(sqlalchemy.exc.DBAPIError) as caught:
                lent.scalar(text("select 1"))
            assert caught.value.connection_invalidated
        with engine.connect() as again:
            assert again.scalar(text("select 1")) == 1
            server_stage.expect_clients(engine, 1)

    server_stage.run(body)
    assert sorted(server_stage.reasons()) == sorted(
        [CloseReason.BROKEN, CloseReason.STALE, CloseReason.STALE, CloseReason.POOL_CLOSED]
    )


@pytest.mark.parametrize(("soft", "reason"), [(False, "broken"), (True, "stale")])
def test_an_invalidated_connection_is_not_lent_again(stage: Stage, soft: bool, reason: str) -> None:
    def body(engine: Engine) -> None:
        first = engine.raw_connection()
        connection: Any = first.dbapi_connection
        first.invalidate(soft=soft)
        first.close()
        with engine.connect() as second:
            assert second.connection.dbapi_connection is not connection

    stage.run(body)
    assert stage.reasons() == [CloseReason(reason), CloseReason.POOL_CLOSED]


def test_a_detached_connection_leaves_its_place(stage: Stage) -> None:
    def body(engine: Engine) -> None:
        first = engine.connect()
        first.detach()
        with engine.connect() as second:
            assert second.scalar(text("select 1")) == 1
        assert first.scalar(text("select 1")) == 1
        first.close()

    stage.run(body, pool_size=1, max_overflow=0)
    assert len(stage.of(e.ConnectionDetached)) == 1
    assert len(stage.of(e.ConnectionOpened)) == 2
    assert stage.reasons() == [CloseReason.POOL_CLOSED]


def test_what_is_lent_at_dispose_stays_usable_and_is_closed_when_it_comes_back(
    stage: Stage,
) -> None:
    def body(engine: Engine) -> None:
        idle, lent = engine.connect(), engine.connect()
        connection: Any = lent.connection.dbapi_connection
        idle.close()
        engine.dispose()
        assert lent.scalar(text("select 1")) == 1
        assert (engine.pool.stats(), engine.pool.checkedout()) == (None, 0)  # type: ignore
        with engine.connect() as one, engine.connect() as other:
            assert one.scalar(text("select 1")) == other.scalar(text("select 1")) == 1
        lent.close()
        if stage.server:
            stage.expect_clients(engine, 2)
        with engine.connect() as again:
            assert again.connection.dbapi_connection is not connection

    stage.run(body, pool_size=2, max_overflow=0, name="shop")
    assert [type(each) for each in stage.of(e.PoolOpened, e.PoolClosed)] == [
        e.PoolOpened, e.PoolClosed, e.PoolOpened, e.PoolClosed,
    ]  # fmt: skip
    assert {each.pool for each in stage.events} == {"shop"}
    assert len(stage.of(e.ConnectionDetached)) == 1
    assert stage.reasons() == [CloseReason.POOL_CLOSED] * 3


def test_listeners_hear_what_they_would_hear_of_a_queue_pool(stage: Stage) -> None:
    heard: list[str] = []

    def body(engine: Engine) -> None:
        for name in (
            "first_connect", "connect", "checkout", "reset", "checkin", "invalidate",
            "soft_invalidate", "detach", "close", "close_detached",
        ):  # fmt: skip
            event.listen(engine, name, lambda *_, name=name: heard.append(name))
        engine.connect().close()
        with engine.connect() as lent:
            lent.invalidate()
        raw = engine.raw_connection()
        raw.invalidate(soft=True)
        raw.close()
        raw = engine.raw_connection()
        raw.detach()
        raw.close()
        heard.append("(end)")

    stage.run(body)
    stay, returned = ["connect", "checkout"], ["reset", "checkin"]
    assert [name for name in heard if name != "close"] == [
        "first_connect", *stay, *returned,
        "checkout", "invalidate", "checkin",
        *stay, "soft_invalidate", *returned,
        *stay, "detach", "reset", "close_detached", "(end)",
    ]  # fmt: skip
    assert heard.count("close") == 2


def test_a_listener_can_refuse_a_connection_and_gets_another(stage: Stage) -> None:
    seen: list[Any] = []

    def body(engine: Engine) -> None:
        def check(connection: Any, *_: object) -> None:
            seen.append(connection)
            if len(seen) == 2:
                raise sqlalchemy.exc.DisconnectionError

        event.listen(engine, "checkout", check)
        engine.connect().close()
        with engine.connect() as lent:
            assert lent.connection.dbapi_connection is seen[2]
        assert seen[0] is seen[1] is not seen[2]

    stage.run(body)
    assert stage.reasons() == [CloseReason.BROKEN, CloseReason.POOL_CLOSED]
    assert len(stage.of(e.ConnectionOpened)) == 2


def test_a_listener_that_refuses_everything_is_told(stage: Stage) -> None:
    def body(engine: Engine) -> None:
        def refuse(*_: object) -> None:
            raise sqlalchemy.exc.DisconnectionError

        event.listen(engine, "checkout", refuse)
        with pytest.raises(sqlalchemy.exc.InvalidRequestError, match="connection is closed"):
            engine.connect()
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]

    stage.run(body)


def test_a_connection_that_cannot_be_reset_is_closed_for_that_reason(stage: Stage) -> None:
    def body(engine: Engine) -> None:
        def fail(*_: object) -> None:
            raise RuntimeError("no rollback today")

        event.listen(engine, "reset", fail)
        engine.connect().close()
        event.remove(engine, "reset", fail)
        engine.connect().close()

    stage.run(body)
    assert stage.reasons() == [CloseReason.RESET, CloseReason.POOL_CLOSED]


def test_a_connection_that_was_forgotten_is_not_lost(stage: Stage) -> None:
    def body(engine: Engine) -> None:
        def forget() -> None:
            engine.raw_connection()
            gc.collect()

        if stage.is_async:
            with pytest.warns(sqlalchemy.exc.SAWarning, match="garbage collector"):
                forget()
        else:
            forget()
        stage.pause(0.01)
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        with engine.connect() as lent:
            assert lent.scalar(text("select 1")) == 1

    stage.run(body, pool_size=1, max_overflow=0)
    expected = [CloseReason.LEAK] if stage.is_async else []
    assert stage.reasons() == [*expected, CloseReason.POOL_CLOSED]


def test_a_session_is_at_home_on_it(stage: Stage) -> None:
    def body(engine: Engine) -> None:
        Base.metadata.create_all(engine)
        try:
            with Session(engine) as session:
                session.add_all([Order(), Order()])
                session.commit()
                assert len(session.scalars(select(Order)).all()) == 2
                session.add(Order())
                session.flush()
                session.rollback()
                assert len(session.scalars(select(Order)).all()) == 2
            assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        finally:
            Base.metadata.drop_all(engine)

    stage.run(body)
    assert len(stage.of(e.ConnectionOpened)) == 1


def test_a_failed_connect_is_the_drivers_own_error_at_once(server_stage: Stage) -> None:
    def body(engine: Engine) -> None:
        with pytest.raises((sqlalchemy.exc.DBAPIError, OSError)) as caught:
            engine.connect()
        assert "poolscope" not in f"{type(caught.value).__module__}{caught.value}"

    server_stage.url = server_stage.url.set(port=1)
    server_stage.run(body)
    (failed,) = server_stage.of(e.ConnectFailed)
    assert failed.fault is e.ConnectFault.REFUSED
    (refused,) = server_stage.of(e.AcquireFailed)
    assert refused.reason is e.FailureReason.CONNECT_FAILED


def test_a_pool_without_a_limit_grows_and_says_so(stage: Stage) -> None:
    def body(engine: Engine) -> None:
        lent = [engine.connect() for _ in range(20)]
        assert engine.pool.checkedout() == 20  # type: ignore[attr-defined]
        for each in lent:
            each.close()

    stage.run(body, pool_size=2, max_overflow=-1)
    assert [resized.max_size for resized in stage.of(e.PoolResized)] == [32]
    assert not stage.of(e.SaturationStarted)


def test_a_leak_notice_says_where_the_connection_was_asked_for(stage: Stage) -> None:
    def body(engine: Engine) -> None:
        with engine.connect():
            stage.pause(0.1)

    stage.run(body, leak_threshold=0.02)
    (leak,) = stage.of(e.LeakSuspected)
    assert leak.acquired_at.startswith("sqlalchemy/test_pools.py:")
    assert len(stage.of(e.LeakReturned)) == 1
