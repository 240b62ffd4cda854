"""Programs beside this file, which tests run in processes of their own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STRICT = ("-X", "dev", "-W", "error")
STATUS = 7
"""What a program ends with that says it is through, in its own way."""


def run_program(
    name: str, *arguments: object, status: int = 0, flags: tuple[str, ...] = STRICT
) -> tuple[str, float]:
    """Run a program, which must say nothing on stderr; return its output, and when it ended."""
    command = [sys.executable, *flags, f"tests/threads/{name}", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    program = subprocess.run(
        command, capture_output=True, text=True, timeout=50, cwd=ROOT, env=environment, check=False
    )
    ended = time.monotonic()
    assert (program.returncode, program.stderr) == (status, ""), program.stderr[-3000:]
    return program.stdout, ended


def report_of(name: str, *arguments: object, **how: Any) -> dict[str, Any]:
    """Run a program that prints a report as its last line."""
    report: dict[str, Any] = json.loads(run_program(name, *arguments, **how)[0].splitlines()[-1])
    return report
