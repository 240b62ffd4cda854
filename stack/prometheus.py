"""A real Prometheus, and what it answers."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from stack.server import Server, answers, free_ports, get

CONFIG = "prometheus/prometheus.yaml"
Answer = list[dict[str, Any]]


class Prometheus(Server):
    """A Prometheus that also takes metrics by OTLP.

    Before it starts, `files` are to hold those it reads, by their paths; it begins with
    that of CONFIG. `speed` is how many times faster than usual its time goes by.
    """

    def __init__(self, binary: Path, *, speed: float = 1) -> None:
        super().__init__(binary)
        self.files: dict[str, str] = {}
        self._speed = speed
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"
        self.otlp_metrics_endpoint = f"{self.url}/api/v1/otlp/v1/metrics"

    def query(self, promql: str, at: float | None = None) -> Answer:
        """Evaluate an expression, now or at a time; each result has `metric` and `value`."""
        moment = {} if at is None else {"time": f"{at:.3f}"}
        result: Answer = self.ask("query", query=promql, **moment)["result"]
        return result

    def query_range(self, promql: str, start: float, end: float, step: float) -> Answer:
        """Evaluate an expression again and again; each result has `metric` and `values`."""
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:.3f}"}
        result: Answer = self.ask("query_range", query=promql, **times)["result"]
        return result

    def exemplars(self, promql: str) -> Answer:
        """List the exemplars of the last hour, by series: `seriesLabels` and `exemplars`."""
        now = time.time()
        found: Answer = self.ask(
            "query_exemplars", query=promql, start=str(now - 3600), end=str(now + 60)
        )
        return found

    def ask(self, what: str, **parameters: str) -> Any:
        """Ask the HTTP API of Prometheus, and return the data of its answer."""
        return json.loads(get(f"{self.url}/api/v1/{what}?{urlencode(parameters)}"))["data"]

    def _options(self) -> Sequence[str | Path]:
        for name, text in self.files.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return [
            f"--config.file={self.directory / CONFIG}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={self.address}",
            "--web.enable-otlp-receiver",
            "--enable-feature=exemplar-storage",
            # What the configuration does not set.
            f"--query.lookback-delta={300_000 / self._speed:.0f}ms",
            f"--rules.alert.resend-delay={60_000 / self._speed:.0f}ms",
            # How long it lets a newly started server wait for its first target; otherwise 5 s.
            "--scrape.discovery-reload-interval=100ms",
        ]

    def _is_ready(self) -> bool:
        return answers(f"{self.url}/-/ready")
