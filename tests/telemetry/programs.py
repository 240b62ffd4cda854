"""How tests start programs: the providers of OpenTelemetry are set once a process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

STRICT = ("-W", "error", "-W", "ignore::ResourceWarning")
"""Warnings are errors, but for one: at exit urllib3 cleans up before the last export, and what that
opens is closed by the collector of garbage."""


def environment(protocol: str = "", endpoint: str = "", **more: str) -> dict[str, str]:
    """The variables of a program: ours, without what OpenTelemetry would read, and these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    if protocol:
        kept["OTEL_EXPORTER_OTLP_PROTOCOL"] = protocol
    if endpoint:
        kept["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
    return kept | more


def start(*arguments: str, **variables: str) -> "subprocess.Popen[str]":
    """Start Python with these arguments; `variables` are those of `environment`."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(**variables),
    )


def run_program(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run Python with these arguments to its end."""
    with start(*arguments, **variables) as process:
        try:
            output, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)
