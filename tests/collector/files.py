"""The configurations of otel-collector/, as the Collector reads them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "otel-collector"
SETS = {
    "alone": ("config.yaml",),
    "agent": ("config.yaml", "config.agent.yaml"),
    "gateway": ("config.gateway.yaml",),
    "postgresql": ("config.yaml", "config.postgresql.yaml"),
}
"""What is started together; the later files add to the first."""

Config = dict[str, Any]

_VARIABLE = re.compile(r"\$\{env:(\w+)(?::-([^}]*))?\}")


def read(*names: str) -> Config:
    """Read files and merge them: lists are replaced, as by the Collector."""
    merged: Config = {}
    for name in names:
        _merge(merged, yaml.safe_load((FOLDER / name).read_text()))
    return merged


def _merge(into: Config, more: Config) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def pipelines(config: Config) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = config["service"]["pipelines"]
    return found


def components(config: Config) -> Iterator[tuple[str, str]]:
    """Yield the kind and the type of each component: `exporters` and `otlp_grpc`."""
    for kind in ("receivers", "processors", "exporters", "connectors", "extensions"):
        for name in config.get(kind, {}):
            yield kind, name.partition("/")[0]


def variables() -> dict[str, set[str | None]]:
    """Return the variables of all files, with their defaults."""
    found: dict[str, set[str | None]] = {}
    for path in FOLDER.glob("*.yaml"):
        for match in _VARIABLE.finditer(path.read_text()):
            found.setdefault(match[1], set()).add(match[2])
    return found
