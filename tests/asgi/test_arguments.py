import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL

from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.asgi import ConnectionPoolMiddleware
from tests.asgi.serving import CANARY, database_in
from tests.support import run


def pool_of(*args: Any, **options: Any) -> ConnectionPool[Any]:
    """The pool `database`, closed again."""

    async def main() -> ConnectionPool[Any]:
        middleware = ConnectionPoolMiddleware(*args, **options)
        await middleware.initialize()
        pool = await middleware.pool_manager.get_pool("database")
        assert pool is not None
        await middleware.shutdown()
        return pool

    return run(main())


def test_arguments_become_settings_of_the_pool(tmp_path: Path) -> None:
    pool = pool_of(database_in(tmp_path), None, None, 7, 2.5, 60, False, min_size=2)
    settings = pool.settings
    assert pool.name == "database"
    assert (settings.max_size, settings.min_size) == (7, 2)
    assert (settings.acquire_timeout, settings.max_lifetime) == (2.5, 60)
    assert settings.validate_on_acquire is False
    assert settings.target is not None


def test_the_defaults_are_those_of_the_contract(tmp_path: Path) -> None:
    settings = pool_of(database_url=database_in(tmp_path)).settings
    assert (settings.max_size, settings.acquire_timeout) == (20, 5.0)
    assert (settings.max_lifetime, settings.validate_on_acquire) == (300, True)


@pytest.mark.parametrize("never", [-1, None])
def test_connections_that_are_not_recycled_live_for_ever(tmp_path: Path, never: Any) -> None:
    settings = pool_of(database_in(tmp_path), pool_recycle=never).settings
    assert settings.max_lifetime == float("inf")


def test_given_settings_count_instead_and_stay_as_they_are(tmp_path: Path) -> None:
    given = ConnectionPoolSettings(max_size=3, name="mine")
    pool = pool_of(database_in(tmp_path), settings=given, max_connections=50, max_waiting=9)
    assert (pool.settings.max_size, pool.settings.max_waiting) == (3, 9)
    assert pool.name == "database"
    assert (given.name, given.max_waiting, given.target) == ("mine", None, None)


def test_options_of_the_driver_reach_it(tmp_path: Path) -> None:
    async def main() -> None:
        middleware = ConnectionPoolMiddleware(
            database_in(tmp_path), driver_options={"isolation_level": "IMMEDIATE"}
        )
        await middleware.initialize()
        pool = await middleware.pool_manager.get_pool("database")
        assert pool is not None
        async with pool.connection() as connection:
            assert connection.isolation_level == "IMMEDIATE"
        await middleware.shutdown()

    run(main())


def test_a_url_object_of_sqlalchemy_is_read_with_its_password(tmp_path: Path) -> None:
    url = URL.create("sqlite", database=f"{tmp_path}/shop.db")
    assert pool_of(url).name == "database"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_conections": 3}, "no option 'max_conections'; did you mean max_connections?"),
        ({"zzz": 3}, "no option 'zzz'; it takes required, readiness_path, driver_options"),
        ({"name": "x"}, "no option 'name'"),
        ({"required": "no"}, "required must be True or False: got 'no'"),
        ({"readiness_path": "healthz"}, "must be a path such as /healthz: got 'healthz'"),
        ({"settings": {"max_size": 3}}, "must be ConnectionPoolSettings: got a dict"),
        ({"driver_options": [1]}, "driver_options must be a dict .* got a list"),
        ({"redis_options": 1}, "redis_options must be a dict .* got a int"),
        ({"database_url": b"postgresql://db"}, "database_url must be a URL: got a bytes"),
        ({"redis_url": 6379}, "redis_url must be a URL: got a int"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_remedy(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        ConnectionPoolMiddleware(**options)


def test_a_setting_with_a_wrong_value_is_refused() -> None:
    with pytest.raises(ValueError, match="max_size must be a whole number of at least 1: got 0"):
        ConnectionPoolMiddleware(max_connections=0)


@pytest.mark.parametrize(
    "argument",
    ["settings", "max_connections", "connection_timeout", "pool_recycle", "pool_pre_ping",
     "required", "readiness_path", "driver_options", "redis_options"],
)  # fmt: skip
def test_a_url_in_the_wrong_place_is_not_repeated(argument: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        ConnectionPoolMiddleware(**{argument: f"postgresql://app:{CANARY}@db/shop"})
    assert CANARY not in str(caught.value)


def test_neither_its_repr_nor_that_of_its_parts_holds_a_secret() -> None:
    url = f"postgresql://app:{CANARY}@db/shop"
    middleware = ConnectionPoolMiddleware(url, driver_options={"password": CANARY})
    assert CANARY not in repr(middleware) + repr(vars(middleware))


def test_neither_framework_nor_driver_is_loaded_before_it_is_used() -> None:
    program = "import sys, poolscope.asgi; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    heavy = {"starlette", "fastapi", "sqlalchemy", "asyncpg", "redis", "aiosqlite"}
    assert not heavy & set(done.stdout.split())
