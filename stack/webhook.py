"""A receiver of alerts that says them in words: `python -m stack.webhook --port 8080`.

It takes what Alertmanager's `webhook_configs` send, at any path; the path is who is told.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from stack.pages import Answer, Pages

HEARTBEAT = "heartbeat"
"""Who is told again and again that all is well."""


@dataclass(frozen=True, slots=True)
class Told:
    """That an alert fires or is resolved: to whom it was said, and when."""

    receiver: str
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]
    time: float

    @property
    def name(self) -> str:
        """The name of the alert."""
        return self.labels["alertname"]

    def __str__(self) -> str:
        summary = self.annotations.get("summary", "")
        severity = self.labels.get("severity", "none")
        if self.status == "resolved":
            return f"{self.receiver}: resolved {self.name}: {summary}"
        runbook = self.annotations.get("runbook_url", "").rpartition("/")[2]
        words = [f"{self.receiver}: {severity.upper()} {self.name}: {summary}."]
        return " ".join([*words, self.annotations.get("description", ""), f"({runbook})"])


class Webhook:
    """Listens until it is closed, and keeps all it was told.

    `say` is called, from threads of its own, with each alert but the heartbeat's.
    """

    def __init__(
        self, say: Callable[[Told], None] = print, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.told: list[Told] = []
        self._say = say
        self._pages = Pages(self._take, host, port)
        self.address = self._pages.address

    def __enter__(self) -> Self:
        self._pages.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._pages.__exit__()

    def _take(self, path: str, body: bytes) -> Answer:
        if not body:
            return 200, b"ready\n"
        receiver = path.strip("/") or "somebody"
        for alert in json.loads(body)["alerts"]:
            told = _told(receiver, alert)
            self.told.append(told)
            if receiver != HEARTBEAT:
                self._say(told)
        return 200, b""


def _told(receiver: str, alert: dict[str, Any]) -> Told:
    return Told(receiver, alert["status"], alert["labels"], alert["annotations"], time.time())


def main() -> None:
    """Print what is told, until the program is ended."""
    parser = argparse.ArgumentParser(prog="python -m stack.webhook", description="Print alerts.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()

    def say(told: Told) -> None:
        print(f"{time.strftime('%H:%M:%S')} {told}", flush=True)

    with ExitStack() as stack:
        webhook = stack.enter_context(Webhook(say, options.host, options.port))
        print(f"waiting for alerts at http://{webhook.address}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
