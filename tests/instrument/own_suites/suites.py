"""The test suites of other libraries that are about their pools: what is run, and with what."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from poolscope.testing.mariadb import MariadbServer
from poolscope.testing.postgres import PostgresServer
from poolscope.testing.redis import RedisServer


@dataclass(frozen=True)
class Served:
    """How a test run gets to its server: by arguments, by variables of its environment."""

    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """Tests of one library. Each part is a run of its own, with a server of its own.

    An argument of a part that is the path of a file in their source distribution means that.
    """

    library: str
    """As `instrument()` calls it."""
    distribution: str
    package: str
    parts: tuple[tuple[str, ...], ...]
    serve: Callable[[], AbstractContextManager[Served]]
    least: int
    """Requests that are counted at least, in all parts together."""
    options: tuple[str, ...] = ("-p", "no:asyncio")
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Tests that differ from run to run without our doing, and why."""


@contextmanager
def nothing() -> Iterator[Served]:
    yield Served()


@contextmanager
def postgres() -> Iterator[Served]:
    with PostgresServer(max_connections=200) as server:
        url = urlsplit(server.url)
        access = {"PGUSER": url.username, "PGPASSWORD": url.password, "PGDATABASE": url.path[1:]}
        yield Served(environment={"PGHOST": "127.0.0.1", "PGPORT": str(url.port), **access})


@contextmanager
def redis(scheme: str = "redis") -> Iterator[Served]:
    with RedisServer(password=False) as server:
        url = server.url.replace("redis://", f"{scheme}://")
        yield Served((f"--default-port={server.port}", f"--{scheme}-url={url}"))


@contextmanager
def valkey() -> Iterator[Served]:
    with redis("valkey") as served:
        yield served


@contextmanager
def mariadb() -> Iterator[Served]:
    import pymysql

    with MariadbServer() as server:
        with pymysql.connect(**server.arguments) as connection, connection.cursor() as cursor:
            cursor.execute("alter user root@localhost identified by 'of-the-test'")
        # Over TCP they want certificates.
        socket = f"--mysql-unix-socket=private={server.socket}"
        yield Served((socket,), {"MYSQL_ROOT_PASSWORD": "of-the-test"})


SLOW = "race or hanging or notify"
"""Tests of SQLAlchemy's QueuePool which sleep for half of the time."""

REDIS_FILES = ("connection_pool", "connection", "pipeline", "lock")
REDIS_PARTS = (
    ("tests/test_multiprocessing.py", *(f"tests/test_{name}.py" for name in REDIS_FILES)),
    tuple(f"tests/test_asyncio/test_{name}.py" for name in REDIS_FILES),
)

REDIS_OPTIONS = ("-p", "elsewhere", "-o", "asyncio_default_fixture_loop_scope=function")

# The source distributions of psycopg and psycopg-pool have no tests.
SUITES = (
    Suite(
        "sqlalchemy",
        "sqlalchemy",
        "sqlalchemy",
        (
            ("test/engine/test_pool.py", "-k", SLOW),
            ("test/engine/test_pool.py", "-k", f"not ({SLOW})"),
            (
                "test/engine/test_execute.py",
                "test/engine/test_transaction.py",
            ),
            ("test/engine/test_reconnect.py", "test/engine/test_logging.py"),
            (
                "--dburi=sqlite+aiosqlite:///their.db",
                "test/engine/test_reconnect.py",
                "test/ext/asyncio/test_engine.py",
                "test/ext/asyncio/test_cancellation.py",
            ),
        ),
        nothing,
        1000,
    ),
    Suite(
        "asyncpg",
        "asyncpg",
        "asyncpg",
        (("tests/test_pool.py",),),
        postgres,
        1000,
        left_out={
            "tests/test_pool.py::TestPool::test_pool_config_persistence": (
                "A pool that closes may end a connection which is just being opened; nobody asks "
                "for the error of that, and the test fails in about every second plain run."
            )
        },
    ),
    Suite("redis", "redis", "redis", REDIS_PARTS, redis, 500, REDIS_OPTIONS),
    Suite("valkey", "valkey", "valkey", REDIS_PARTS, valkey, 500, REDIS_OPTIONS),
    Suite("aiomysql", "aiomysql", "aiomysql", (("tests/test_pool.py",),), mariadb, 80),
)
