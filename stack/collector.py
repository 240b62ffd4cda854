"""A real Collector with the configuration of the repository."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from stack import configs
from stack.server import Server, answers, free_ports


class Collector(Server):
    """A Collector that sends metrics to a Prometheus and spans to a receiver of traces.

    `receivers` are the addresses of both: PROMETHEUS, and TRACES, which takes OTLP by gRPC. Of a
    `database`, given as a URL, it tells the limits, where the binary is one that can. `speed` is
    how many times faster than usual its time goes by.
    """

    def __init__(
        self, binary: Path, receivers: Mapping[str, str], speed: float = 1, database: str = ""
    ) -> None:
        super().__init__(binary)
        grpc, http, metrics, self._health = free_ports(4)
        self.grpc_endpoint = f"http://127.0.0.1:{grpc}"
        self.http_endpoint = f"http://127.0.0.1:{http}"
        self.metrics_address = f"127.0.0.1:{metrics}"
        self._speed = speed
        self._variables = {
            "LISTEN_HOST": "127.0.0.1",
            "OTLP_GRPC_PORT": f"{grpc}",
            "OTLP_HTTP_PORT": f"{http}",
            "METRICS_PORT": f"{metrics}",
            "HEALTH_PORT": f"{self._health}",
            "PROMETHEUS_OTLP_ENDPOINT": receivers["PROMETHEUS"],
            "TRACES_OTLP_ENDPOINT": receivers["TRACES"],
            "SPAN_METRICS_INTERVAL": f"{15_000 / speed:.0f}ms",
            "STORAGE_DIRECTORY": f"{self.directory / 'queue'}",
        }
        self._names = ["config.yaml"]
        if database and has(binary, "postgresql"):
            self._names.append("config.postgresql.yaml")
            self._variables |= _about(database)

    def _options(self) -> Sequence[str | Path]:
        for name in self._names:
            (self.directory / name).write_text(configs.collector(name, self._speed))
        return [f"--config={self.directory / name}" for name in self._names]

    def _environment(self) -> Mapping[str, str]:
        return self._variables

    def _is_ready(self) -> bool:
        return answers(f"http://127.0.0.1:{self._health}")


def has(binary: Path, component: str) -> bool:
    """Whether a Collector was built with a component."""
    listed = subprocess.run([binary, "components"], capture_output=True, text=True, check=True)
    return f"name: {component}\n" in listed.stdout


def _about(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    return {
        "POSTGRESQL_HOST": parts.hostname or "",
        "POSTGRESQL_PORT": f"{parts.port}",
        "POSTGRESQL_USER": parts.username or "",
        "POSTGRESQL_PASSWORD": parts.password or "",
    }
