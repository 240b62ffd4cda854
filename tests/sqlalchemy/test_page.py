"""The code of docs/sqlalchemy.md runs, and its table names all arguments."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from poolscope.sqlalchemy import ObservedPool

PAGE = (Path(__file__).parents[2] / "docs" / "sqlalchemy.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S))
def test_the_code_runs(code: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1")


def test_every_argument_is_in_the_table() -> None:
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", PAGE, re.M))))
    arguments = inspect.signature(ObservedPool).parameters.keys() - {"creator", "options"}
    for argument in arguments:
        assert argument in named or f"pool_{argument}" in named, argument
