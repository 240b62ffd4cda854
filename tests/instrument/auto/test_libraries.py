"""Programs with pools of several libraries, against real servers."""

from pathlib import Path

import pytest

from poolscope.testing.postgres import PostgresServer
from poolscope.testing.redis import RedisServer
from tests.instrument.auto.programs import OFFICIAL, disabled, requests_of, run_auto
from tests.telemetry.endpoint import GrpcReceiver, HttpReceiver

SHOP = """
import asyncio, os
from opentelemetry import trace

import asyncpg
import redis
from psycopg_pool import ConnectionPool
from sqlalchemy import create_engine, text

dsn, cache = os.environ["DATABASE_URL"], os.environ["REDIS_URL"]
request = trace.get_tracer("app").start_as_current_span

url = dsn.replace("postgresql:", "postgresql+psycopg:")
engine = create_engine(url, pool_logging_name="alchemy")
with request("sqlalchemy"), engine.connect() as connection:
    connection.execute(text("SELECT 1"))
engine.dispose()

with ConnectionPool(dsn, min_size=1, name="psycopg") as pool:
    pool.wait()
    with request("psycopg"), pool.connection() as connection:
        connection.execute("SELECT 1")

async def main():
    async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
        with request("asyncpg"):
            async with pool.acquire() as connection:
                await connection.execute("SELECT 1")

asyncio.run(main())

with redis.Redis(connection_pool=redis.BlockingConnectionPool.from_url(cache)) as client:
    with request("redis"):
        client.ping()
client.connection_pool.disconnect()
"""


def variables(postgres: PostgresServer, redis_server: RedisServer) -> dict[str, str]:
    return {"DATABASE_URL": postgres.dsn, "REDIS_URL": redis_server.url}


def names(postgres: PostgresServer, redis_server: RedisServer) -> dict[str, str]:
    return {
        "sqlalchemy": "alchemy",
        "psycopg": "psycopg",
        "asyncpg": f"127.0.0.1:{postgres.port}/postgres",
        "redis": f"127.0.0.1:{redis_server.port}/0",
    }


def test_every_pool_of_a_program_arrives(
    postgres: PostgresServer, redis_server: RedisServer
) -> None:
    with HttpReceiver() as receiver:
        run_auto(SHOP, receiver, **variables(postgres, redis_server))
        for library, pool in names(postgres, redis_server).items():
            assert [*requests_of(receiver, pool).values()] == [1], library
        assert receiver.span_names()["pool.acquire"] == 4


def test_a_library_that_is_disabled_is_left_alone(
    postgres: PostgresServer, redis_server: RedisServer
) -> None:
    off = disabled(*OFFICIAL, "poolscope-psycopg", " poolscope-redis ")
    with HttpReceiver() as receiver:
        run_auto(SHOP, receiver, **variables(postgres, redis_server), **off)
        found = {
            library: [*requests_of(receiver, pool).values()]
            for library, pool in names(postgres, redis_server).items()
        }
        assert found == {"sqlalchemy": [1], "psycopg": [], "asyncpg": [1], "redis": []}
        assert receiver.span_names()["pool.acquire"] == 2


PATCHED = """
from gevent import monkey
monkey.patch_all()

import os

import gevent
import redis
from opentelemetry import trace
from sqlalchemy import create_engine

engine = create_engine(f"sqlite:///{os.environ['FILE']}", pool_size=2, max_overflow=0)
pool = redis.BlockingConnectionPool.from_url(os.environ["REDIS_URL"], max_connections=2)
client = redis.Redis(connection_pool=pool)

def work():
    with trace.get_tracer("app").start_as_current_span("work"):
        with engine.connect():
            gevent.sleep(0.02)
        client.ping()

gevent.joinall([gevent.spawn(work) for _ in range(6)], timeout=20, raise_error=True)
"""


@pytest.mark.slow
def test_a_program_can_have_gevent_replace_threads_after_our_start(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    file = tmp_path / "shop.db"
    with GrpcReceiver() as receiver:
        done = run_auto(PATCHED, receiver, "grpc", REDIS_URL=redis_server.url, FILE=str(file))
        assert "MonkeyPatchWarning" not in done.stderr
        assert receiver.span_names()["pool.acquire"] == 12
        for pool in (file.name, f"127.0.0.1:{redis_server.port}/0"):
            assert [*requests_of(receiver, pool).values()] == [6]
