"""How values look: units, thresholds, colours, and what is said of single series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

GREEN, YELLOW, RED = "green", "yellow", "red"
USED, IDLE, OPENING, PENDING, LIMIT = "blue", "green", "purple", "orange", "red"
"""Colours by meaning, the same on every board."""


@dataclass(frozen=True, slots=True)
class Look:
    """How the values of a panel are written and coloured.

    `steps` are colours from a value on, below the first of which all is well; the first colour of
    all is `base`. `empty` is what is shown where there is no value.
    """

    unit: str
    steps: Sequence[tuple[float, str]] = ()
    decimals: int | None = None
    empty: str = "no data"
    base: str = GREEN
    least: float | None = 0
    most: float | None = None
    words: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Text and colour of a value."""

    def defaults(self) -> Json:
        """Return it as the defaults of a panel's fields."""
        chosen: Json = {
            "unit": self.unit,
            "decimals": self.decimals,
            "noValue": self.empty,
            "min": self.least,
            "max": self.most,
            "thresholds": {"mode": "absolute", "steps": self._steps()},
            "mappings": self._mappings(),
        }
        return {key: value for key, value in chosen.items() if value not in (None, [])}

    def _steps(self) -> list[Json]:
        first: list[Json] = [{"color": self.base, "value": None}]
        return first + [{"color": color, "value": value} for value, color in self.steps]

    def _mappings(self) -> list[Json]:
        options = {
            value: {"text": text, "color": color, "index": index}
            for index, (value, (text, color)) in enumerate(self.words.items())
        }
        return [{"type": "value", "options": options}] if options else []


def worse(warning: float, bad: float) -> tuple[tuple[float, str], tuple[float, str]]:
    """Return thresholds of what is worse the higher it is."""
    return (warning, YELLOW), (bad, RED)


Override = Json


def series(pattern: str, properties: Json) -> Override:
    """Return what is special about series whose name fits a pattern."""
    return {
        "matcher": {"id": "byRegexp", "options": f"/^(?:{pattern})$/"},
        "properties": [{"id": key, "value": value} for key, value in properties.items()],
    }


def colored(pattern: str, color: str) -> Override:
    """Give series a colour."""
    return series(pattern, {"color": _fixed(color)})


def limit(pattern: str, color: str = LIMIT) -> Override:
    """Draw series as a limit: a dashed line, outside of what is stacked."""
    line = {
        "color": _fixed(color),
        "custom.lineStyle": {"fill": "dash", "dash": [10, 10]},
        "custom.fillOpacity": 0,
        "custom.stacking": {"mode": "none", "group": "A"},
    }
    return series(pattern, line)


def below(pattern: str) -> Override:
    """Draw series downwards."""
    return series(pattern, {"custom.transform": "negative-Y"})


def _fixed(color: str) -> Json:
    return {"mode": "fixed", "fixedColor": color}
