"""A real OpenTelemetry Collector, and what it has received."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.stack.server import Shown, answers, free_ports, get


class Collector(Shown):
    """A Collector that takes OTLP and shows all that arrives, at once.

        with Collector(collector_binary) as collector:
            exporter = OTLPSpanExporter(collector.grpc_endpoint, insecure=True)

    A test may change `config` before the next start.
    """

    def __init__(self, binary: Path) -> None:
        super().__init__(binary)
        grpc, http, self._prometheus, self._health = (f"127.0.0.1:{port}" for port in free_ports(4))
        self.grpc_endpoint = f"http://{grpc}"
        self.http_endpoint = f"http://{http}"
        self.prometheus_url = f"http://{self._prometheus}/metrics"
        self.config = self._make_config(grpc, http)

    def scrape(self, *, openmetrics: bool = False) -> str:
        """Get the metrics as a Prometheus would; exemplars are in OpenMetrics only."""
        kind = "application/openmetrics-text;version=1.0.0" if openmetrics else "text/plain"
        return get(self.prometheus_url, Accept=kind)

    def traces(self) -> list[dict[str, Any]]:
        """List the spans received, as `_flatten` shows them."""
        return list(_flatten(self._read("traces"), "resourceSpans", "scopeSpans", "spans"))

    def metrics(self) -> list[dict[str, Any]]:
        """List the metrics received, export after export, as `_flatten` shows them."""
        return list(_flatten(self._read("metrics"), "resourceMetrics", "scopeMetrics", "metrics"))

    def _make_config(self, grpc: str, http: str) -> dict[str, Any]:
        return {
            "receivers": {
                "otlp": {"protocols": {"grpc": {"endpoint": grpc}, "http": {"endpoint": http}}}
            },
            "exporters": {
                "prometheus": {
                    "endpoint": self._prometheus,
                    "enable_open_metrics": True,
                    "metric_expiration": "10s",
                },
                "file/traces": self._write("traces"),
                "file/metrics": self._write("metrics"),
            },
            "extensions": {"health_check": {"endpoint": self._health}},
            "service": {
                "extensions": ["health_check"],
                "pipelines": {
                    "traces": {"receivers": ["otlp"], "exporters": ["file/traces"]},
                    "metrics": {"receivers": ["otlp"], "exporters": ["prometheus", "file/metrics"]},
                },
                # They would be served on a port that is always the same.
                "telemetry": {"metrics": {"level": "none"}},
            },
        }

    def _write(self, signal: str) -> dict[str, Any]:
        # With a rotation, here after a gigabyte, what is acknowledged is in the file already;
        # without one it would wait in a buffer.
        return {"path": str(self._path(signal)), "rotation": {"max_megabytes": 1_000}}

    def _read(self, signal: str) -> Iterator[dict[str, Any]]:
        path = self._path(signal)
        for line in path.read_text().splitlines(keepends=True) if path.exists() else ():
            # The last line may be in the middle of being written.
            if line.endswith("\n"):
                yield json.loads(line)

    def _path(self, signal: str) -> Path:
        return self.directory / f"{signal}.jsonl"

    def _options(self) -> Sequence[str | Path]:
        # JSON is YAML.
        path = self.directory / "config.yaml"
        path.write_text(json.dumps(self.config))
        return ["--config", path]

    def _is_ready(self) -> bool:
        return answers(f"http://{self._health}")


def _flatten(
    exports: Iterator[dict[str, Any]], resources: str, scopes: str, items: str
) -> Iterator[dict[str, Any]]:
    """Yield spans or metrics as OTLP JSON has them, but with dictionaries for attributes.

    Each has also the attributes of its `resource`, and the name of its `scope`.
    """
    for export in exports:
        for from_resource in export[resources]:
            resource = _plain(from_resource["resource"].get("attributes", []))
            for from_scope in from_resource[scopes]:
                scope = from_scope["scope"].get("name", "")
                for item in from_scope[items]:
                    yield _with_plain_attributes(item) | {"resource": resource, "scope": scope}


def _with_plain_attributes(item: Any) -> Any:
    match item:
        case dict():
            return {
                key: _plain(value)
                if key in ("attributes", "filteredAttributes")
                else _with_plain_attributes(value)
                for key, value in item.items()
            }
        case list():
            return [_with_plain_attributes(each) for each in item]
        case _:
            return item


def _plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    return {each["key"]: _value(each["value"]) for each in attributes}


def _value(value: dict[str, Any]) -> Any:
    match value:
        case {"intValue": number}:
            # A string, because JSON's numbers lose digits.
            return int(number)
        case {"arrayValue": array}:
            return [_value(each) for each in array.get("values", [])]
        case {"kvlistValue": pairs}:
            return _plain(pairs.get("values", []))
        case _:
            return next(iter(value.values()), None)
