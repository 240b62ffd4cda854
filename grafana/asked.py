"""What the boards ask Prometheus, with their variables filled in as Grafana does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grafana.kit.settings import seconds, written

BOARDS = Path(__file__).parent / "dashboards"
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))")
_WRITTEN_OUT = re.compile(r"(?<=[\[:])\d[\dsmhd]*(?=[\]:])|(?<=\boffset )\d[\dsmhd]*")

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """A range of time as a board shows it, in seconds since 1970, and what lies between points."""

    start: float
    end: float
    step: float
    interval: float = 15
    """How often there are samples."""

    def variables(self) -> dict[str, str]:
        """Return what Grafana's own variables stand for."""
        rate = max(4 * self.interval, self.step + self.interval)
        length = round(self.end - self.start)
        return {
            "__rate_interval": written(rate),
            "__interval": written(self.step),
            "__interval_ms": f"{self.step * 1000:.0f}",
            "__range": f"{length}s",
            "__range_s": f"{length}",
        }


def load(name: str) -> Json:
    """Read a board by the name of its file, as `detail`."""
    board: Json = json.loads((BOARDS / f"{name}.json").read_text())
    return board


def panels(board: Json, *, collapsed: bool = True) -> Iterator[Json]:
    """Yield all panels but rows; those in collapsed rows, which ask nothing yet, if wanted."""
    for panel in board["panels"]:
        yield from panel.get("panels", ()) if collapsed else ()
        if panel["type"] != "row":
            yield panel


def queries(panel: Json) -> Iterator[Json]:
    """Yield the targets of a panel that ask Prometheus."""
    yield from (target for target in panel.get("targets", ()) if target.get("expr"))


def choices(board: Json, **chosen: str) -> dict[str, str]:
    """Return the variables of a board: as chosen, or as it opens."""
    opened = {
        each["name"]: each.get("allValue") or each.get("current", {}).get("value") or ""
        for each in board["templating"]["list"]
    }
    return opened | chosen


def fill(text: str, variables: Mapping[str, str]) -> str:
    """Put values in the place of variables.

    Raises:
        KeyError: there is none of that name.
    """
    return _VARIABLE.sub(lambda match: variables[match[1] or match[2]], text)


def paced(promql: str, speed: float) -> str:
    """Divide the windows that are written out by a speed, as those of rules are."""
    return _WRITTEN_OUT.sub(lambda match: written(seconds(match[0]) / speed), promql)
