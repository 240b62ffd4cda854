"""A real Prometheus, and what it answers."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.stack.server import Server, answers, free_ports, get


class Prometheus(Server):
    """A Prometheus that scrapes `targets`, given as URLs, and also takes metrics by OTLP.

        with Prometheus(prometheus_binary, [collector.prometheus_url]) as prometheus:
            prometheus.wait_until(lambda: prometheus.query("up == 1"))

    `scrape` are more settings of its scrape_configs, as `honor_labels=True`. A test may change
    `config` before the next start.
    """

    def __init__(self, binary: Path, targets: Sequence[str] = (), **scrape: Any) -> None:
        super().__init__(binary)
        (port,) = free_ports(1)
        self._address = f"127.0.0.1:{port}"
        self.url = f"http://{self._address}"
        self.otlp_metrics_endpoint = f"{self.url}/api/v1/otlp/v1/metrics"
        jobs = [_scrape_config(target) | scrape for target in targets]
        self.config: dict[str, Any] = {
            "global": {"scrape_interval": "200ms", "evaluation_interval": "200ms"},
            "scrape_configs": jobs,
        }

    def query(self, promql: str) -> list[dict[str, Any]]:
        """Evaluate an expression now; each result has its `metric` and its `value`."""
        result: list[dict[str, Any]] = self._ask("query", query=promql)["result"]
        return result

    def exemplars(self, promql: str) -> list[dict[str, Any]]:
        """List the exemplars of the last hour, by series: `seriesLabels` and `exemplars`."""
        now = time.time()
        found: list[dict[str, Any]] = self._ask(
            "query_exemplars", query=promql, start=str(now - 3600), end=str(now + 60)
        )
        return found

    def _ask(self, what: str, **parameters: str) -> Any:
        return json.loads(get(f"{self.url}/api/v1/{what}?{urlencode(parameters)}"))["data"]

    def _options(self) -> Sequence[str | Path]:
        # JSON is YAML.
        path = self.directory / "config.yaml"
        path.write_text(json.dumps(self.config))
        return [
            f"--config.file={path}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address={self._address}",
            "--web.enable-otlp-receiver",
            "--enable-feature=exemplar-storage",
            # How long it lets a newly started server wait for its first target; otherwise 5 s.
            "--scrape.discovery-reload-interval=100ms",
        ]

    def _is_ready(self) -> bool:
        return answers(f"{self.url}/-/ready")


def _scrape_config(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "job_name": parts.netloc,
        "scheme": parts.scheme,
        "metrics_path": parts.path or "/metrics",
        "static_configs": [{"targets": [parts.netloc]}],
    }
