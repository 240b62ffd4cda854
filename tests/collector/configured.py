"""A Collector that runs files of otel-collector/, unchanged but for its variables."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import stack.collector
from stack.server import get
from tests.collector.files import FOLDER, SETS
from tests.stack.server import Shown

_FAST = 15
"""So that span metrics are there after a second."""
_NOBODY = "127.0.0.1:1"


class Configured(Shown, stack.collector.Collector):
    """A Collector started with the files of a set.

        with Configured(collector_binary, prometheus=prometheus.url, traces=receiver.url):
            ...

    What it is to send elsewhere gets lost. `more` are variables of the files.
    """

    def __init__(
        self,
        binary: Path,
        which: str = "alone",
        *,
        prometheus: str = f"http://{_NOBODY}",
        traces: str = f"http://{_NOBODY}",
        **more: str,
    ) -> None:
        receivers = {"PROMETHEUS": f"{prometheus}/api/v1/otlp", "TRACES": traces}
        super().__init__(binary, receivers, speed=_FAST)
        self.files: list[Path] = [FOLDER / name for name in SETS[which]]
        self._more = more

    def told(self, name: str) -> list[float]:
        """Return the values of a metric of its own."""
        lines = get(f"http://{self.metrics_address}/metrics").splitlines()
        return [float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{name}{{")]

    def kill(self) -> None:
        """End it with no chance to say anything."""
        self.send_signal(signal.SIGKILL)

    def _options(self) -> Sequence[str | Path]:
        return [f"--config={path}" for path in self.files]

    def _environment(self) -> Mapping[str, str]:
        return {**super()._environment(), **self._more}
