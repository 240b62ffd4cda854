"""A real Collector with the configuration of the repository."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from stack.server import Server, answers, free_ports

CONFIG = Path(__file__).parent.parent / "otel-collector" / "config.yaml"


class Collector(Server):
    """A Collector that sends metrics to a Prometheus and spans to a receiver of traces."""

    def __init__(self, binary: Path, variables: Mapping[str, str]) -> None:
        super().__init__(binary)
        grpc, http, self.metrics_address, self._health = (
            f"127.0.0.1:{port}" for port in free_ports(4)
        )
        self.grpc_endpoint = f"http://{grpc}"
        self.http_endpoint = f"http://{http}"
        self._variables = variables

    def _options(self) -> Sequence[str | Path]:
        path = self.directory / "config.yaml"
        path.write_text(json.dumps(self._make_config()))
        return ["--config", path]

    def _make_config(self) -> dict[str, object]:
        host, port = self.metrics_address.split(":")
        reader = {"pull": {"exporter": {"prometheus": {"host": host, "port": int(port)}}}}
        queue = {"sending_queue": {"batch": {}}, "tls": {"insecure": True}}
        return {
            "receivers": {
                "otlp": {
                    "protocols": {
                        "grpc": {"endpoint": self.grpc_endpoint.removeprefix("http://")},
                        "http": {"endpoint": self.http_endpoint.removeprefix("http://")},
                    }
                }
            },
            "exporters": {
                "otlp_http/prometheus": {"endpoint": self._variables["PROMETHEUS"], **queue},
                "otlp_http/traces": {"endpoint": self._variables["TRACES"], **queue},
            },
            "extensions": {"health_check": {"endpoint": self._health}},
            "service": {
                "extensions": ["health_check"],
                "pipelines": {
                    "metrics": {"receivers": ["otlp"], "exporters": ["otlp_http/prometheus"]},
                    "traces": {"receivers": ["otlp"], "exporters": ["otlp_http/traces"]},
                },
                "telemetry": {"metrics": {"level": "detailed", "readers": [reader]}},
            },
        }

    def _is_ready(self) -> bool:
        return answers(f"http://{self._health}")
