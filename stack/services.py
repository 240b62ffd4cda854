"""The FastAPI example and its load, as processes."""

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from stack.server import Server, answers, free_ports

ROOT = Path(__file__).parent.parent
_PYTHON = Path(sys.executable)
_SAID = re.compile(r"^(\w+) (begins|ends)\b(.*)$")


class Replica(Server):
    """One of the processes of the service, with a port and an instance of its own."""

    def __init__(self, number: int, variables: Mapping[str, str]) -> None:
        super().__init__(_PYTHON, f"orders-{number}")
        (port,) = free_ports(1)
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://{self.address}"
        identity = f"service.instance.id={self.name},{variables['OTEL_RESOURCE_ATTRIBUTES']}"
        self._variables = {**variables, "OTEL_RESOURCE_ATTRIBUTES": identity, "PORT": str(port)}

    def _options(self) -> Sequence[str]:
        return ["-m", "examples", "fastapi"]

    def _environment(self) -> Mapping[str, str]:
        return {**python_environment(), **self._variables}

    def _is_ready(self) -> bool:
        return answers(f"{self.url}/healthz")


class Said(NamedTuple):
    """That a phase of the load `begins` or `ends`, and the rest of the line."""

    time: float
    phase: str
    event: str
    rest: str


class Load(Server):
    """The load of a scenario; without `repeat` it ends by itself."""

    def __init__(self, scenario: str, variables: Mapping[str, str], *, repeat: bool) -> None:
        super().__init__(_PYTHON, "load")
        self._arguments = [scenario] if repeat else [scenario, "--once"]
        self._variables = variables
        self._heard = 0

    def hear(self) -> list[Said]:
        """Return what the load has said since it was last heard; other lines it says are left out.

        A time is that of hearing.
        """
        lines = self.log.splitlines(keepends=True)
        complete = [line for line in lines if line.endswith("\n")]
        new, self._heard = complete[self._heard :], len(complete)
        matches = filter(None, map(_SAID.match, new))
        return [Said(time.time(), *match.groups()) for match in matches]

    def _options(self) -> Sequence[str]:
        return ["-m", "examples.load", *self._arguments]

    def _environment(self) -> Mapping[str, str]:
        return {**python_environment(), **self._variables}

    def _is_ready(self) -> bool:
        return True


def python_environment() -> dict[str, str]:
    """Return what a Python of ours needs of the environment: where its modules are."""
    ours = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), ours]))}
