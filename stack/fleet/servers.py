"""The Collector and the Prometheus that a fleet is sent to, with the rules of the repository."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stack import configs
from stack.collector import Collector
from stack.prometheus import Prometheus
from stack.topology import find

_NOWHERE = "127.0.0.1:9"
"""In the place of what the fleet does without: it has no alerts that anybody hears, no spans."""


class Administered(Prometheus):
    """A Prometheus that can be told to write what it has in memory as a block."""

    def snapshot(self) -> Path:
        """Write all samples of the memory to the disk, and return the folder of the block."""
        request = urllib.request.Request(f"{self.url}/api/v1/admin/tsdb/snapshot", method="POST")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
            name: str = json.load(reply)["data"]["name"]
        folder = self.directory / "data" / "snapshots" / name
        return next(folder.iterdir())

    def _options(self) -> Sequence[str | Path]:
        return [*super()._options(), "--web.enable-admin-api"]


@contextmanager
def servers(speed: float = 1) -> Iterator[tuple[Collector, Administered]]:
    """Start both, as the repository configures them.

    Raises:
        ServerError: one of them has not been built, or does not start.
    """
    with ExitStack() as stack:
        prometheus = Administered(find("prometheus"), speed=speed)
        stack.callback(prometheus.close)
        receivers = {"PROMETHEUS": f"{prometheus.url}/api/v1/otlp", "TRACES": _NOWHERE}
        collector = Collector(find("collector"), receivers, speed)
        stack.callback(collector.close)
        addresses = {
            "localhost:9090": prometheus.address,
            "alertmanager:9093": _NOWHERE,
            "otel-collector:8888": collector.metrics_address,
        }
        prometheus.files |= configs.prometheus(addresses, {}, speed)
        prometheus.start()
        collector.start()
        yield collector, prometheus
