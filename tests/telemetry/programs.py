"""How tests start programs: the providers of OpenTelemetry are set once a process."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

STRICT = ("-W", "error", "-W", "ignore::ResourceWarning")
"""Warnings are errors, but for one: at exit urllib3 cleans up before the last export, and what that
opens is closed by the collector of garbage."""


USE_A_POOL = """
import asyncio, time
from opentelemetry import metrics, trace
from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.telemetry.setup import setup_telemetry

telemetry = setup_telemetry("shop")
settings = ConnectionPoolSettings(name="orders")

async def main(at_end=lambda: None):
    async with ConnectionPool(object, settings) as pool:
        with trace.get_tracer("app").start_as_current_span("request"):
            async with pool.connection():
                pass
        await asyncio.to_thread(at_end)
"""


# What the machine says of endpoints in general would go before what the test says of this one.
_NOT_KEPT = re.compile(r"OTEL_|(REQUESTS|CURL)_CA_BUNDLE|GRPC_|\w+_proxy$", re.IGNORECASE)


def environment(protocol: str = "", endpoint: str = "", **more: str) -> dict[str, str]:
    """The variables of a program: ours, without what its telemetry would read, and these."""
    kept = {name: value for name, value in os.environ.items() if not _NOT_KEPT.match(name)}
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


def run_well(text: str, **variables: str) -> str:
    """Run a program that must do well, and say nothing on stderr; return what it printed."""
    done = run_program(*STRICT, "-c", text, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", done.stderr
    return done.stdout
