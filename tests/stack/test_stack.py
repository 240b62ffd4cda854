"""`python -m stack` as a person runs it: what it prints, and that it leaves nothing."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from stack.services import ROOT
from tests.examples.service import environment, family_of
from tests.stack.tools import find_tool

pytestmark = pytest.mark.servers

FOLDER = re.compile(r"(?<=[ =])/\S*/poolscope-[^/ ]+")

TOOLS = {name: text for name, text in os.environ.items() if name == "POOLSCOPE_TOOLS"}


@contextmanager
def running(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "stack", *arguments],
        cwd=ROOT,
        env=environment() | TOOLS | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(output: IO[str] | None, words: str) -> str:
    assert output is not None
    read = ""
    for line in output:
        read += line
        if words in line:
            return read
    raise AssertionError(f"it never said {words!r}, but:\n{read}")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_says_where_all_is_and_however_it_ends_leaves_nothing(how: signal.Signals) -> None:
    for name in ("collector", "prometheus", "alertmanager"):
        find_tool(name)
    with running("--scenario", "calm", "--keep") as process:
        said = read_until(process.stdout, "calm begins")
        for name in ("Prometheus", "Alertmanager", "Collector, OTLP by gRPC", "orders-2"):
            assert re.search(rf"{name} +http://127\.0\.0\.1:\d+", said)
        family = family_of(process.pid)
        folders = {Path(each) for text in family.values() for each in FOLDER.findall(text)}
        assert len(folders) >= 6
        process.send_signal(how)
        rest = process.communicate(timeout=30)[0]
        assert process.returncode == (-9 if how == signal.SIGKILL else 0), rest
    assert "Traceback" not in rest
    deadline = time.monotonic() + 10
    while (left := alive(family)) or any(folder.exists() for folder in folders):
        assert time.monotonic() < deadline, (left, folders)
        time.sleep(0.05)


def alive(family: dict[int, str]) -> set[int]:
    """Return those of the processes that are still there, whatever they run by now."""
    asking = ["ps", "-o", "pid=,stat=", "-p", ",".join(map(str, family))]
    lines = subprocess.run(asking, capture_output=True, text=True).stdout.splitlines()
    rows = [line.split() for line in lines]
    return {int(pid) for pid, state in rows if not state.startswith("Z")}


def test_what_is_not_built_is_one_sentence(tmp_path: Path) -> None:
    with running(POOLSCOPE_TOOLS=os.fspath(tmp_path)) as process:
        said = process.communicate(timeout=30)[0]
    assert process.returncode == 1
    assert said.splitlines()[-1] == (
        f"stack: prometheus is not in {tmp_path}; build it with: make stack-tools"
    )
