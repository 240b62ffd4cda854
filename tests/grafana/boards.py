"""The boards as they are committed, and what is on them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from grafana.kit.lint import panels

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "grafana" / "dashboards"
NAMES = ("detail", "fleet", "slo", "collector")
BOARDS: dict[str, Json] = {
    name: json.loads((FOLDER / f"{name}.json").read_text()) for name in NAMES
}

_FILLED = {
    "__interval": "15s",
    "__range_s": "3600",
    "__range": "1h",
    "q": "0.95",
}


class Asked(NamedTuple):
    """A query, and where it is."""

    board: str
    panel: Json
    target: Json

    @property
    def expr(self) -> str:
        expr: str = self.target["expr"]
        return expr

    @property
    def place(self) -> str:
        return f"{self.board}: {self.panel['title']}, {self.target['refId']}"


def shown() -> Iterator[tuple[str, Json]]:
    """Yield each panel, with the name of its board."""
    for name, board in BOARDS.items():
        yield from ((name, panel) for panel in panels(board))


def on(name: str) -> list[Json]:
    """List the panels of a board."""
    return list(panels(BOARDS[name]))


def asked() -> Iterator[Asked]:
    """Yield each query of a panel."""
    for name, panel in shown():
        yield from (Asked(name, panel, target) for target in panel["targets"])


def folded(name: str) -> list[Json]:
    """List the panels that are in folded rows."""
    return [panel for row in BOARDS[name]["panels"] for panel in row.get("panels", ())]


def filled(query: str, name: str, *, rate: str = "1m") -> str:
    """Fill in variables as Grafana does while all is chosen."""
    for variable, value in {"__rate_interval": rate, **_FILLED}.items():
        query = query.replace(f"${variable}", value)
    for variable in BOARDS[name]["templating"]["list"]:
        query = query.replace(f"${variable['name']}", variable.get("allValue", ""))
    assert "$" not in query, query
    return query


def walk(value: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield all that is in a JSON value, with the keys that lead to it."""
    yield path, value
    if isinstance(value, list):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, each in value.items():
            yield from walk(each, *path, str(key))


def variables_in(text: str) -> set[str]:
    """Return the variables of a board that stand in a text, but not those of Grafana itself."""
    found = re.findall(r"\$\{(\w+)[^}]*\}|\$(\w+)", text)
    return {name for names in found for name in names if name and not name.startswith("__")}
