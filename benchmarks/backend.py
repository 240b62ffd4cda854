"""What telemetry goes to: a process that takes exports by OTLP over HTTP, and scrapes pages.

It answers on its own core, as the real one would, and counts what held the histogram of waits.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any

EXPORTED = b"db.client.connection.wait_time"
SCRAPED = b"db_client_connection_wait_time_seconds_bucket"
PATIENCE = 10.0
"""Seconds until the process must have ended."""


@dataclass(frozen=True, slots=True)
class Backend:
    """The process, as seen from the one that is measured."""

    process: subprocess.Popen[str]
    endpoint: str
    """Where to export metrics to."""

    def exports(self) -> int:
        """Return how many exports with the histogram have arrived."""
        return int(self._ask({"ask": "exports"}))

    def scrapes(self) -> int:
        """Return how many pages with the histogram were read."""
        return int(self._ask({"ask": "scrapes"}))

    @contextmanager
    def scraping(self, url: str, period: float) -> Iterator[None]:
        """Have a page read now, and then once in a period."""
        self._ask({"ask": "scrape", "url": url, "period": period})
        try:
            yield
        finally:
            self._ask({"ask": "stop"})

    def _ask(self, question: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


@contextmanager
def backend() -> Iterator[Backend]:
    """Run the process meanwhile."""
    command = [sys.executable, "-m", "benchmarks.backend"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Backend(process, json.loads(process.stdout.readline()))
        finally:
            process.stdin.close()
            process.wait(PATIENCE)


# In the process itself


class _Receiver(ThreadingHTTPServer):
    """Takes exports and throws them away."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.exports = 0


class _Handler(BaseHTTPRequestHandler):
    """Answers that all is well. An empty body is an empty message of OTLP."""

    server: _Receiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.exports += EXPORTED in body
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Scraper:
    """Reads a page once in a period."""

    def __init__(self) -> None:
        self.scrapes = 0
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._stopped = threading.Event()
        self._thread = threading.Thread()

    def start(self, url: str, period: float) -> None:
        self._stopped.clear()
        self._thread = threading.Thread(target=self._scrape, args=(url, period))
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _scrape(self, url: str, period: float) -> None:
        while True:
            with suppress(OSError), self._opener.open(url, timeout=PATIENCE) as page:
                self.scrapes += SCRAPED in page.read()
            if self._stopped.wait(period):
                return


def _answer(question: dict[str, Any], receiver: _Receiver, scraper: _Scraper) -> int:
    if question["ask"] == "scrape":
        scraper.start(question["url"], question["period"])
    elif question["ask"] == "stop":
        scraper.stop()
    return receiver.exports if question["ask"] == "exports" else scraper.scrapes


def _serve(questions: IO[str]) -> None:
    receiver, scraper = _Receiver(), _Scraper()
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    print(json.dumps(f"http://127.0.0.1:{receiver.server_port}/v1/metrics"), flush=True)
    for line in questions:
        print(json.dumps(_answer(json.loads(line), receiver, scraper)), flush=True)
    scraper.stop()
    receiver.shutdown()
    receiver.server_close()


if __name__ == "__main__":
    _serve(sys.stdin)
