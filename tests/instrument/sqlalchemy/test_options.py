"""What engines may be made of stays as it is while pools are observed."""

from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import QueuePool

from poolscope import instrument, uninstrument
from poolscope.instrument.sqlalchemy import LIBRARY
from poolscope.telemetry.prometheus import PoolCollector


@pytest.fixture(autouse=True)
def instrumented() -> Iterator[None]:
    instrument("sqlalchemy")
    yield
    uninstrument("sqlalchemy")


def test_an_engine_takes_all_its_options() -> None:
    options = {"echo": False, "logging_name": "shop", "hide_parameters": True}
    engine = create_engine("sqlite://", execution_options={"a": 1}, query_cache_size=7, **options)
    assert engine.hide_parameters
    assert engine.logging_name == "shop"
    assert engine.get_execution_options() == {"a": 1}
    with pytest.raises(TypeError, match="'no_such_option' sent to create_engine"):
        create_engine("sqlite://", no_such_option=1)


def test_an_engine_is_known_before_it_connects(tmp_path: object) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/shop.db")
    source = LIBRARY.source_of(engine.pool)
    assert source is not None
    assert source.name == "shop.db"
    assert source.target is not None


def test_the_pool_of_an_engine_with_an_address_of_another_kind_is_observed() -> None:
    url = Mock(host=Mock(), get_backend_name=lambda: "postgresql", database=None, query={})
    pool = QueuePool(Mock())
    engine = Engine(pool, Mock(), url)
    LIBRARY.introduce(engine)
    assert LIBRARY.source_of(pool) is not None


def test_where_requests_wait_for_ever_no_time_is_shown_for_it() -> None:
    def shown(timeout: float | None) -> str:
        engine = create_engine("sqlite://", poolclass=QueuePool, pool_timeout=timeout)
        source = LIBRARY.source_of(engine.pool)
        assert source is not None
        pools = generate_latest(registry).decode()
        lines = [each for each in pools.splitlines() if f'"{source.name}"' in each]
        source.close()
        return "\n".join(lines)

    registry = CollectorRegistry()
    registry.register(PoolCollector())
    assert "poolscope_acquire_timeout_seconds" in shown(7)
    forever = shown(None)
    assert "db_client_connection_max" in forever
    assert "poolscope_acquire_timeout_seconds" not in forever
