"""Recipes without a server: names, errors, secrets."""

import sys
import traceback

import pytest

from poolscope.connectors import Recipe, for_asyncio, for_threads
from poolscope.errors import PoolError
from poolscope.target import Target

CANARY = "can" + "ary"
MAKERS = pytest.mark.parametrize("make", [for_asyncio, for_threads])
HOST = Target("postgresql", "db.internal", 5432, "shop")

NAMES: dict[str, tuple[str, Target]] = {
    "postgresql://U:P@db.internal/shop": ("db.internal:5432/shop", HOST),
    "postgres://U:P@db.internal/shop": ("db.internal:5432/shop", HOST),
    "postgresql+psycopg://U:P@db.internal/shop": ("db.internal:5432/shop", HOST),
    "postgresql://U:P@[::1]:6000": ("[::1]:6000", Target("postgresql", "::1", 6000)),
    "postgresql://U:P@/shop?host=/run/pg": (
        "/run/pg/shop",
        Target("postgresql", "/run/pg", None, "shop"),
    ),
    "postgresql:///shop": ("postgresql/shop", Target("postgresql", None, None, "shop")),
    "mysql://U:P@db.internal:3307/shop?charset=utf8mb4": (
        "db.internal:3307/shop",
        Target("mysql", "db.internal", 3307, "shop"),
    ),
    "mariadb://U:P@localhost/shop?unix_socket=/run/my.sock": (
        "/run/my.sock/shop",
        Target("mariadb", "/run/my.sock", None, "shop"),
    ),
    "redis://U:P@cache/3": ("cache:6379/3", Target("redis", "cache", 6379, "3")),
    "rediss://:P@cache": ("cache:6379/0", Target("redis", "cache", 6379, "0")),
    "unix://U:P@/run/redis.sock?db=2": (
        "/run/redis.sock/2",
        Target("redis", "/run/redis.sock", None, "2"),
    ),
    "unix:///run/redis.sock?password=P": (
        "/run/redis.sock/0",
        Target("redis", "/run/redis.sock", None, "0"),
    ),
    "sqlite:///data/shop.db": ("shop.db", Target("sqlite", namespace="data/shop.db")),
    "sqlite:///file:data/shop.db?mode=ro": (
        "shop.db",
        Target("sqlite", namespace="file:data/shop.db"),
    ),
    "sqlite:///:memory:": (":memory:", Target("sqlite", namespace=":memory:")),
    "sqlite://": (":memory:", Target("sqlite")),
    "sqlite+pysqlite:///shop.db": ("shop.db", Target("sqlite", namespace="shop.db")),
}


@MAKERS
@pytest.mark.parametrize("url", NAMES)
def test_a_recipe_is_named_after_its_place_and_shows_no_secret(make, url):
    user, password = f"{CANARY}-user", f"{CANARY}-password"
    recipe = make(url.replace("U:", f"{user}:").replace("P", password))
    assert (recipe.name, recipe.target) == NAMES[url]
    assert CANARY not in " ".join(repr(getattr(recipe, name)) for name in Recipe.__slots__)
    assert CANARY not in repr(recipe)


WRONG = {
    f"postgresql://app:{CANARY}/x@db/shop": "a target must be a URL",
    f"app:{CANARY}@db/shop": "it does not begin with a scheme",
    f"{CANARY}://db/shop": "a target must be a URL",
    f"mongodb://app:{CANARY}@db/shop": "its scheme needs a driver",
    f"mssql://app:{CANARY}@db/shop": "its scheme needs a driver",
    f"postgresql+{CANARY}://db/shop": "SQLAlchemy cannot read it",
    f"{CANARY}+driver://db/shop": "SQLAlchemy cannot read it",
    f"mysql://db/shop?password={CANARY}": "its query string may hold",
    f"mysql://db/shop?{CANARY}=1": "its query string may hold",
    f"redis://db/0?socket_timeout={CANARY}": "redis-py cannot read it",
    f"unix://{CANARY}": "a Redis socket is written as",
    f"postgresql://[{CANARY}/shop": "a target must be a URL",
}


@MAKERS
@pytest.mark.parametrize("url", WRONG)
def test_a_wrong_url_is_refused_without_a_word_of_it(make, url):
    with pytest.raises(ValueError, match=WRONG[url]) as caught:
        make(url)
    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_a_url_only_libpq_refuses_is_not_repeated_either():
    with pytest.raises(ValueError, match="libpq cannot read it") as caught:
        for_threads(f"postgresql://db/shop?{CANARY}=1")
    assert CANARY not in "".join(traceback.format_exception(caught.value))


@MAKERS
def test_what_is_no_text_is_refused_by_its_type_alone(make):
    with pytest.raises(ValueError, match="got a bytes"):
        make(f"postgresql://app:{CANARY}@db/shop".encode())


MISSING = [
    (for_asyncio, "postgresql://db/shop", "asyncpg", "poolscope[asyncpg]"),
    (for_threads, "postgresql://db/shop", "psycopg", "poolscope[psycopg]"),
    (for_asyncio, "mysql://db/shop", "aiomysql", "poolscope[mysql]"),
    (for_threads, "mysql://db/shop", "pymysql", "poolscope[mysql]"),
    (for_asyncio, "redis://db", "redis.asyncio", "poolscope[redis]"),
    (for_threads, "redis://db", "redis", "poolscope[redis]"),
    (for_asyncio, "sqlite://", "aiosqlite", "poolscope[sqlite]"),
    (for_asyncio, "postgresql+asyncpg://db/shop", "asyncpg", "poolscope[asyncpg]"),
    (for_threads, "mysql+pymysql://db/shop", "pymysql", "poolscope[mysql]"),
    (for_asyncio, "sqlite+aiosqlite://", "greenlet", "sqlalchemy[asyncio]"),
    (for_threads, "mssql+pyodbc://db/shop", "pyodbc", "pyodbc"),
]


@pytest.mark.parametrize(("make", "url", "module", "package"), MISSING)
def test_a_missing_driver_is_told_when_the_recipe_is_made(make, url, module, package, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("poolscope.connectors.")]:
        monkeypatch.delitem(sys.modules, name)  # they would not import their driver again
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as caught:
        make(url)
    error = caught.value
    assert isinstance(error, PoolError)
    name = module.partition(".")[0]
    assert str(error) == f"{name} is needed and not installed: pip install '{package}'"


@pytest.mark.parametrize("driver", ["postgresql+asyncpg", "mysql+aiomysql", "sqlite+aiosqlite"])
def test_a_driver_for_asyncio_is_refused_for_threads(driver):
    with pytest.raises(ValueError, match=f"{driver.partition('+')[2]} works under asyncio alone"):
        for_threads(f"{driver}://")


@MAKERS
def test_the_engine_underneath_pools_nothing(make):
    with pytest.raises(TypeError, match="pool_size"):
        make("sqlite+pysqlite://", pool_size=3)
