"""A real Alertmanager, and what it holds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stack.server import Server, answers, free_ports, get


class Alertmanager(Server):
    """An Alertmanager with the `config` it is given, as YAML, alone."""

    def __init__(self, binary: Path, config: str) -> None:
        super().__init__(binary)
        self._config = config
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"

    def alerts(self) -> list[dict[str, Any]]:
        """List the alerts that fire, with their `labels` and `status`: what inhibits them."""
        found: list[dict[str, Any]] = json.loads(get(f"{self.url}/api/v2/alerts"))
        return found

    def _options(self) -> Sequence[str | Path]:
        path = self.directory / "config.yaml"
        path.write_text(self._config)
        return [
            f"--config.file={path}",
            f"--storage.path={self.directory / 'data'}",
            f"--web.listen-address={self.address}",
            "--cluster.listen-address=",
        ]

    def _is_ready(self) -> bool:
        return answers(f"{self.url}/-/ready")
