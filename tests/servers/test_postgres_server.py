import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import pytest

from poolscope.testing import postgres as module
from poolscope.testing.postgres import PostgresServer, PostgresServerError, ShutdownMode
from tests.servers.traces import is_gone, is_listening, soon
from tests.support import run

pytestmark = pytest.mark.servers

START_AND_SLEEP = """
import sys, time
from poolscope.testing.postgres import PostgresServer
server = PostgresServer()
server.start()
print(server.port, server.directory, flush=True)
if sys.argv[1:] != ["exit"]:
    time.sleep(60)
"""


def ask(server: PostgresServer, query: str) -> object:
    async def answer() -> object:
        connection = await asyncpg.connect(server.dsn)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return run(answer())


def test_it_answers_as_the_session_fixture(postgres: PostgresServer) -> None:
    assert str(ask(postgres, "show server_version")).startswith("18.")
    assert ask(postgres, "select rolsuper from pg_roles where rolname = current_user") is True


def test_it_takes_settings() -> None:
    with PostgresServer(max_connections=17, settings={"work_mem": "3MB"}) as server:
        assert ask(server, "show max_connections") == "17"
        assert ask(server, "show work_mem") == "3MB"


def test_a_wrong_password_is_refused(postgres: PostgresServer) -> None:
    async def connect() -> None:
        await asyncpg.connect(postgres.dsn, password="wrong")

    with pytest.raises(asyncpg.InvalidPasswordError):
        run(connect())


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_breaks_connections_and_keeps_address_and_data(mode: ShutdownMode) -> None:
    async def scenario(server: PostgresServer) -> None:
        connection = await asyncpg.connect(server.dsn)
        await connection.execute("create table kept as select 42 as answer")
        server.restart(mode)
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await connection.fetchval("select 1")
        connection.terminate()

    with PostgresServer() as server:
        address = server.dsn
        run(scenario(server))
        assert server.dsn == address
        assert ask(server, "select answer from kept") == 42


def test_it_refuses_connections_between_stop_and_start() -> None:
    with PostgresServer() as server:
        server.stop()
        server.stop()
        assert not server.is_running
        assert not is_listening(server.port)
        server.start()
        server.start()
        assert ask(server, "select 1") == 1


def test_close_leaves_nothing_behind_and_can_be_repeated() -> None:
    server = PostgresServer()
    server.start()
    directory = server.directory
    assert directory is not None
    server.close()
    server.close()
    assert is_gone(server.port, directory)


def test_it_survives_the_death_of_the_server_process() -> None:
    with PostgresServer() as server:
        directory = server.directory
        assert directory is not None
        pid = int((directory / "data" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, signal.SIGKILL)
        assert soon(lambda: not server.is_running)
    assert is_gone(server.port, directory)


@pytest.mark.parametrize("settings", [{"no_such_setting": "1"}, {"listen_addresses": "192.0.2.1"}])
def test_a_failed_start_says_why_and_leaves_nothing_behind(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def make(*args: str, **options: str) -> str:
        made.append(Path(mkdtemp(*args, **options)))
        return str(made[-1])

    mkdtemp = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", make)
    server = PostgresServer(settings=settings)
    with pytest.raises(PostgresServerError, match=r"no_such_setting|192\.0\.2\.1"):
        server.start()
    assert made
    assert not any(directory.exists() for directory in made)


@pytest.mark.parametrize("end", ["exit", "SIGTERM", "SIGINT", "SIGKILL"])
def test_the_end_of_the_process_leaves_nothing_behind(end: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", START_AND_SLEEP, end],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        port, directory = process.stdout.readline().split()
        if end != "exit":
            process.send_signal(signal.Signals[end])
        process.wait()
    assert soon(lambda: is_gone(int(port), Path(directory)))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has folders closed to the server")
def test_root_may_keep_the_binaries_in_a_closed_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_can_run", lambda *_: False)
    with PostgresServer() as server:
        assert ask(server, "select 1") == 1


def test_without_the_wheel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(PostgresServerError, match=r"install poolscope\[demo\]"):
        PostgresServer()
