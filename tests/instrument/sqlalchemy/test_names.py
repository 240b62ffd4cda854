"""What observed engines are called, and what is told of where they connect to."""

from typing import Any

import pytest
from sqlalchemy import create_engine, create_mock_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import QueuePool

from poolscope import instrument, registry
from poolscope.instrument import observe, uninstrument
from poolscope.target import Target

SECRET = "hush"


def named(url: str, name: str | None = None, **options: Any) -> tuple[str, Target | None]:
    make = create_async_engine if "asyncpg" in url or "aio" in url else create_engine
    source = observe(make(url, **options), name)
    source.close()
    assert SECRET not in f"{source!r} {source.name} {source.target}"
    return source.name, source.target


@pytest.mark.parametrize(
    ("url", "name", "target"),
    [
        (
            f"postgresql+psycopg://user:{SECRET}@db.internal/shop",
            "db.internal:5432/shop",
            Target("postgresql", "db.internal", 5432, "shop"),
        ),
        (
            f"postgresql+asyncpg://user:{SECRET}@[::1]:6432/shop",
            "[::1]:6432/shop",
            Target("postgresql", "::1", 6432, "shop"),
        ),
        (
            f"mysql+pymysql://user:{SECRET}@db/shop?charset=utf8mb4",
            "db:3306/shop",
            Target("mysql", "db", 3306, "shop"),
        ),
        (
            f"postgresql+psycopg://user:{SECRET}@/shop?host=/var/run/postgresql",
            "/var/run/postgresql/shop",
            Target("postgresql", "/var/run/postgresql", None, "shop"),
        ),
        (
            f"postgresql+psycopg://user:{SECRET}@/shop?host=one:6432&host=two",
            "one:6432/shop",
            Target("postgresql", "one", 6432, "shop"),
        ),
        (
            f"mysql+aiomysql://user:{SECRET}@/shop?unix_socket=/run/mysqld.sock",
            "/run/mysqld.sock/shop",
            Target("mysql", "/run/mysqld.sock", None, "shop"),
        ),
        ("sqlite:////srv/data/shop.db", "shop.db", Target("sqlite", namespace="/srv/data/shop.db")),
        (
            f"sqlite:///file:shop.db?uri=true&key={SECRET}",
            "shop.db",
            Target("sqlite", namespace="file:shop.db"),
        ),
        ("sqlite://", ":memory:", Target("sqlite")),
    ],
)
def test_an_engine_is_called_by_its_address(url: str, name: str, target: Target) -> None:
    assert named(url) == (name, target)


def test_names_given_come_first_then_those_of_the_pool_then_of_the_application() -> None:
    url = f"postgresql+psycopg://user:{SECRET}@db/shop?application_name=checkout"
    assert named(url)[0] == "checkout"
    assert named(url, pool_logging_name="orders")[0] == "orders"
    assert named(url, "given", pool_logging_name="orders")[0] == "given"


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("postgresql+psycopg://db/shop", {"application_name": "checkout", "password": SECRET}),
        ("postgresql+asyncpg://db/shop", {"server_settings": {"application_name": "checkout"}}),
        ("mysql+pymysql://db/shop", {"program_name": "checkout"}),
        ("mysql+aiomysql://db/shop?program_name=checkout", {}),
    ],
)
def test_applications_say_their_name_in_the_way_of_their_driver(url: str, arguments: Any) -> None:
    assert named(url, connect_args=arguments)[0] == "checkout"


def test_an_application_that_connects_in_its_own_way_may_say_its_name_in_the_url() -> None:
    url = "postgresql+psycopg://db/shop?application_name=checkout"
    assert named(url, creator=lambda: None)[0] == "checkout"


def test_a_pool_alone_is_called_by_the_engine_that_has_it() -> None:
    engine = create_engine("postgresql+psycopg://db/shop")
    source = observe(engine.pool)
    assert source.name == "db:5432/shop"
    assert observe(engine) is source
    source.close()


def test_a_pool_of_no_engine_is_numbered() -> None:
    pool = QueuePool(lambda: None)  # type: ignore[arg-type, return-value]
    source = observe(pool)
    assert source.name.startswith("pool-")
    assert source.target is None
    source.close()


@pytest.mark.usefixtures("instrumented")
def test_engines_made_later_are_called_so_before_they_connect() -> None:
    engine = create_engine("postgresql+psycopg://db.later/shop")
    again = create_engine("postgresql+psycopg://db.later/shop")
    names = ["db.later:5432/shop", "db.later:5432/shop-2"]
    assert [source.name for source in registry.live()] == names
    engine.dispose()
    again.dispose()
    assert [source.name for source in registry.live()] == names


def test_engines_made_before_are_called_so_too() -> None:
    engine = create_engine("postgresql+psycopg://db.before/shop")
    instrument("sqlalchemy")
    found = registry.find("db.before:5432/shop")
    instrument("sqlalchemy")
    assert found is not None
    assert observe(engine) is found
    assert [source.name for source in registry.live()] == [found.name]
    found.close()  # type: ignore[attr-defined]
    uninstrument("sqlalchemy")


def test_pools_of_our_own_speak_already() -> None:
    # Our own pool asks for a newer SQLAlchemy than those whose pools are observed.
    ours = pytest.importorskip("poolscope.sqlalchemy", exc_type=ImportError)
    engine = create_engine("sqlite://", poolclass=ours.ObservedPool)
    for thing in (engine, engine.pool):
        with pytest.raises(TypeError, match=r"class ObservedPool cannot .* poolscope\.sqlalchemy"):
            observe(thing)
    instrument("sqlalchemy")
    with engine.connect():
        assert len(registry.live()) == 1
    uninstrument("sqlalchemy")
    engine.dispose()


@pytest.mark.usefixtures("instrumented")
def test_engines_of_tests_are_let_alone() -> None:
    mock = create_mock_engine(make_url("sqlite://"), lambda *_: None)
    with pytest.raises(TypeError, match="no pool"):
        observe(mock)
