"""How `poolscope stats` looks: in a terminal, in a pipe, in little room."""

import os
import pty
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from poolscope.cli import main
from poolscope.cli.stats.fetch import Problem
from poolscope.cli.stats.parse import PoolSeries, parse
from poolscope.cli.stats.pools import Pool
from poolscope.cli.stats.reader import View
from poolscope.cli.stats.table import table
from poolscope.cli.stats.words import amount, duration, fitting
from tests.cli.pages import Capture, Pages, collector_page, command, page, piped, serving

# A terminal


class Terminal:
    """A program in a terminal of 100 columns, and what it writes there."""

    def __init__(self, *arguments: object, **variables: str) -> None:
        self._master, slave = pty.openpty()
        environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS")}
        self.process = subprocess.Popen(
            command(*arguments),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment | {"TERM": "xterm", "COLUMNS": "100"} | variables,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def read_until(self, word: str) -> None:
        while word not in self.text and self._read():
            pass
        assert word in self.text

    def read_to_the_end(self) -> int:
        while self._read():
            pass
        return self.process.wait(30)

    def _read(self) -> bool:
        chunk = b""
        with suppress(OSError):  # Linux says so when nobody has the terminal open any more
            chunk = os.read(self._master, 65536)
        self.text += chunk.decode()
        return bool(chunk)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_terminal_is_left_as_it_was_and_keeps_the_last_view(number: signal.Signals) -> None:
    with (
        serving(Pages(page(max=4, used=4, waiting=1))) as server,
        Terminal(server.port, "--watch", "60") as terminal,
    ):
        terminal.read_until("raise max_size")
        terminal.process.send_signal(number)
        assert terminal.read_to_the_end() == 0
    begin, end = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
    assert terminal.text.startswith(begin)
    assert terminal.text.count(end) == 1
    after = terminal.text.partition(end)[2]
    assert "4/4" in after
    assert "Traceback" not in terminal.text


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_trouble_is_red_in_a_terminal_that_wants_it(
    variables: dict[str, str], coloured: bool
) -> None:
    with (
        serving(Pages(page(max=4, used=4, waiting=1))) as server,
        Terminal(server.port, **variables) as terminal,
    ):
        assert terminal.read_to_the_end() == 0
    assert ("\x1b[1;31m! orders" in terminal.text) == coloured
    assert "! orders" in terminal.text


def test_there_is_no_colour_where_there_is_no_terminal(capsys: Capture) -> None:
    with serving(Pages(page(max=4, used=4, waiting=1))) as server:
        assert main(["stats", str(server.port)]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("mode", [[], ["--json"]])
def test_who_reads_no_further_causes_no_complaint(mode: list[str]) -> None:
    with (
        serving(Pages(page(max=4))) as server,
        piped(server.port, "--watch", "0.001", *mode) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


# The table


def view_of(*pages: str, problems: Sequence[Problem] = ()) -> View:
    pools = [
        Pool.read("localhost:9464", key, series, PoolSeries(), None)
        for text in pages
        for key, series in parse(text.encode(), openmetrics=False).items()
    ]
    return View(pools, list(problems))


NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def everything() -> View:
    trouble = page("orders", max=10, used=10, waiting=3, leaks=2, connects_failed=7, waits=5)
    return view_of(collector_page(), trouble, page("users", max=4))


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_a_table_is_no_wider_than_its_room(width: int) -> None:
    lines = table(everything(), NOW, width=width)
    assert max(map(len, lines)) <= width
    titles = next(line.split() for line in lines if "used/max" in line)
    assert {"pool", "used/max", "waiting"} <= set(titles)


def test_what_says_nothing_is_left_out_before_what_matters_less() -> None:
    view = view_of(page(max=10, used=1, idle=1, waiting=0, oldest_wait=0, leaks=1))
    titles = table(view, NOW, width=80)[2]
    assert "idle" in titles
    assert "leaks" in titles
    assert "errors" not in titles
    assert "errors" in table(view, NOW, width=200)[2]


def test_what_matters_most_stays_even_if_it_says_nothing() -> None:
    troubled = page(max=10, used=9, idle=1, waiting=2, leaks=1, connects_failed=4, waits=5)
    over, titles = table(view_of(troubled), NOW, width=80)[1:3]
    assert over.split()[:2] == ["oldest", "oldest"]
    assert titles.split()[2:5] == ["waiting", "wait", "use"]


def test_names_are_cut_in_the_middle_and_only_if_they_must() -> None:
    name = "orders-in-the-region-of-europe-west-1-primary"
    assert name in "\n".join(table(view_of(page(name, max=1)), NOW, width=100))
    cut = table(view_of(page(name, max=1)), NOW, width=60)[-1].split()[0]
    assert len(cut) == 30
    assert cut == fitting(name, 30)
    assert cut.startswith("orders-in")
    assert cut.endswith("1-primary")


def test_a_name_cannot_write_on_the_screen() -> None:
    text = "\n".join(table(view_of(page("or\x1b[2Jders", max=1)), NOW, width=100))
    assert "or?[2Jders" in text
    assert "\x1b" not in text


def test_of_more_pools_than_fit_the_worst_are_shown() -> None:
    pools = [page(f"pool{number}", max=4) for number in range(50)]
    problem = Problem("localhost:1", "nothing listens there", "start it")
    view = view_of(page("first", max=1, used=1, waiting=1), *pools, problems=[problem])
    lines = table(view, NOW, width=100, height=20)
    # The last line of a terminal is the cursor's.
    assert len(lines) == 19
    assert sum("localhost:9464" in line for line in lines) == 12
    assert "... and 39 more, in less trouble" in lines
    assert "! localhost:1: nothing listens there; start it" in lines
    assert len(table(view, NOW, width=100)) > 50


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"), (0.0, "0"), (0.00042, "0.4ms"), (0.0421, "42ms"), (0.9999, "1.0s"),
        (4.24, "4.2s"), (59.4, "59s"), (59.6, "1m00s"), (312.0, "5m12s"), (11_045.0, "3h04m"),
        (90_000.0, "1d01h"),
    ],
)  # fmt: skip
def test_a_duration_has_the_unit_that_suits_it(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0"), (99_999, "99999"), (123_456, "123k"), (999_999, "1.0M")],
)
def test_a_large_count_is_rounded(count: int | None, text: str) -> None:
    assert amount(count) == text
