"""A Prometheus that scrapes what a test tells it to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import stack.prometheus
from tests.stack.server import Shown


class Prometheus(Shown, stack.prometheus.Prometheus):
    """A Prometheus that scrapes `targets`, given as URLs, and also takes metrics by OTLP.

        with Prometheus(prometheus_binary, [collector.prometheus_url]) as prometheus:
            prometheus.wait_until(lambda: prometheus.query("up == 1"))

    `scrape` are more settings of its scrape_configs, as `honor_labels=True`. A test may change
    `config` before the next start.
    """

    def __init__(self, binary: Path, targets: Sequence[str] = (), **scrape: Any) -> None:
        super().__init__(binary)
        jobs = [_scrape_config(target) | scrape for target in targets]
        self.config: dict[str, Any] = {
            "global": {"scrape_interval": "200ms", "evaluation_interval": "200ms"},
            "scrape_configs": jobs,
        }

    def _options(self) -> Sequence[str | Path]:
        # JSON is YAML.
        self.files[stack.prometheus.CONFIG] = json.dumps(self.config)
        return super()._options()


def _scrape_config(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    return {
        "job_name": parts.netloc,
        "scheme": parts.scheme,
        "metrics_path": parts.path or "/metrics",
        "static_configs": [{"targets": [parts.netloc]}],
    }
