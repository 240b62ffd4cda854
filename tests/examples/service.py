"""A service of examples/ as a process of its own, seen from outside: over HTTP, and by `ps`."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support import run

ROOT = Path(__file__).parents[2]
# What a shell of the developer's may say, and these tests do not mean.
FOREIGN = ("DATABASE_URL", "REDIS_URL", "OTEL_", "POOLSCOPE_", "HOST", "PORT", "POOL_", "THREADS")
POOL = "db_client_connection_pool_name"


class Service:
    """One that runs. Its address is known once it listens."""

    def __init__(self, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        self.process = process
        self._output = output
        self.url = self._wait_for_url()

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + 30
        while not (match := re.search(r"^serving (http://\S+)/orders$", self.output, re.M)):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.02)
        return match[1]

    @property
    def output(self) -> str:
        """All it has printed so far."""
        length = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), length, 0).decode()

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=20)

    def order(self, item: str, quantity: int = 1) -> httpx.Response:
        order = {"item": item, "quantity": quantity}
        return httpx.post(self.url + "/orders", json=order, timeout=20)

    def get_together(self, *paths: str) -> list[httpx.Response]:
        """Ask for all of these at the same time."""

        async def main() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=self.url, timeout=20) as client:
                return await asyncio.gather(*(client.get(path) for path in paths))

        return run(main())

    def numbers(self, pool: str) -> "Numbers":
        return Numbers(self.get("/metrics").text, pool)

    def stop(self) -> float:
        """Ask it to end; return how long that took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)
        return time.monotonic() - began


class Numbers:
    """What `/metrics` says of one pool."""

    def __init__(self, text: str, pool: str) -> None:
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        for family in text_string_to_metric_families(text):
            for name, labels, value, *_ in family.samples:
                if labels.pop(POOL, None) == pool:
                    self._values[name, tuple(sorted(labels.items()))] = value
        assert self._values, f"{pool} is not in:\n{text}"

    def __call__(self, name: str, **labels: str) -> int:
        return int(self._values[name, tuple(sorted(labels.items()))])

    @property
    def open(self) -> int:
        used, idle = (
            self("db_client_connection_count", db_client_connection_state=state)
            for state in ("used", "idle")
        )
        return used + idle

    @property
    def acquired(self) -> int:
        return self("db_client_connection_wait_time_seconds_count")

    @property
    def timed_out(self) -> int:
        return self("db_client_connection_timeouts_total")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "examples", *arguments]


def environment(**variables: str) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | variables


@contextmanager
def serving(example: str, **variables: str) -> Iterator[Service]:
    """Start an example, and end it at the end in whatever way it takes."""
    with (
        TemporaryFile() as output,
        subprocess.Popen(
            command(example),
            cwd=ROOT,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            yield Service(process, output)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def family_of(parent: int) -> dict[int, Any]:
    """Return all processes that a process has begun, and those have begun, with their commands."""
    listing = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,ppid=,command="], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listing.stdout.splitlines()]
    table = {int(row[0]): (int(row[1]), row[2] if len(row) > 2 else "") for row in rows}
    found: dict[int, Any] = {}
    for pid, (_, text) in table.items():
        ancestor = pid
        while ancestor in table and ancestor != parent:
            ancestor = table[ancestor][0]
        if ancestor == parent and pid != parent:
            found[pid] = text
    return found
