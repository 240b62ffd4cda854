"""Programs and servers run by `opentelemetry-instrument`, as their operators do it."""

import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from poolscope.telemetry import catalog
from tests.telemetry.endpoint import INSTANCE, Receiver, plain
from tests.telemetry.programs import environment

BIN = Path(sys.executable).parent
OFFICIAL = ("sqlalchemy", "psycopg", "asyncpg", "redis")
"""Instrumentations of others that are installed beside ours."""


def disabled(*names: str) -> dict[str, str]:
    """The variable that disables these instrumentations."""
    return {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ",".join(names)}


def variables(protocol: str, endpoint: str, more: dict[str, str]) -> dict[str, str]:
    defaults = {
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_SERVICE_NAME": "shop",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONUNBUFFERED": "1",
        **disabled(*OFFICIAL),
    }
    return environment(protocol, endpoint, **(defaults | more))


def run_auto(
    text: str, receiver: Receiver | None = None, protocol: str = "http/protobuf", **more: str
) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end, which must be a good one. The others' instrumentations are off."""
    done = subprocess.run(
        [BIN / "opentelemetry-instrument", "python", "-c", text],
        capture_output=True,
        text=True,
        env=variables(protocol, receiver.url if receiver else "", more),
        timeout=40,
    )
    assert done.returncode == 0, done.stderr
    return done


@contextmanager
def running(
    folder: Path, command: str, receiver: Receiver, protocol: str = "http/protobuf", **more: str
) -> "Iterator[subprocess.Popen[str]]":
    """Run a server, which has ended at the end of the block, and sent what it had."""
    process = subprocess.Popen(
        [BIN / "opentelemetry-instrument", *command.split()],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=variables(protocol, receiver.url, more),
        start_new_session=True,
    )
    with process:
        try:
            yield process
            process.terminate()
            output, _ = process.communicate(timeout=30)
            assert "Traceback" not in output, output
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def requests_of(receiver: Receiver, pool: str) -> dict[str, int]:
    """The requests of a pool that ended, by the instance that says so: the latest totals."""
    latest: dict[str, dict[tuple[object, ...], int]] = defaultdict(dict)
    for resource, metric in receiver.points():
        if metric.name == catalog.WAIT_TIME.name:
            for point in metric.histogram.data_points:
                labels = plain(point.attributes)
                if labels[catalog.POOL_NAME] == pool:
                    series = (*sorted(labels.items()), point.start_time_unix_nano)
                    latest[resource[INSTANCE]][series] = point.count
    return {instance: sum(counts.values()) for instance, counts in latest.items()}
