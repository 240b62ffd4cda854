"""The settings of rules, alerts and dashboards, read from `grafana/settings.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

PATH = Path(__file__).parent.parent / "settings.toml"
_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}

Severity = Literal["critical", "warning", "none"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Links:
    """Where alerts send people: the page of the runbook, and the root of Grafana."""

    runbook: str
    grafana: str


@dataclass(frozen=True, slots=True)
class Labels:
    """Values of labels: the team of all alerts, the jobs of what is not ours."""

    team: str
    collector: str
    prometheus: str


@dataclass(frozen=True, slots=True)
class Burn:
    """An alert on the error budget: it is spent `factor` times too fast in both windows."""

    long: str
    short: str
    factor: float
    wait: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class Slo:
    """The objective: this share of requests gets a connection within `seconds`."""

    objective: float
    seconds: float
    period: str
    guard: float
    burns: tuple[Burn, ...]

    @property
    def budget(self) -> float:
        """Return the share of requests that may fail or take longer."""
        return round(1 - self.objective, 9)


@dataclass(frozen=True, slots=True)
class Alert:
    """How an alert is set; what one does not need it leaves out."""

    severity: Severity
    wait: str
    keep: str = ""
    window: str = ""
    above: float = 0
    age: str = ""
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it. `alerts` are by the names of `grafana.kit.names`, without the burns."""

    links: Links
    labels: Labels
    slo: Slo
    alerts: Mapping[str, Alert]


def load(path: Path = PATH) -> Settings:
    """Read the settings.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no TOML, or a section has a wrong key or lacks one.
    """
    table = tomllib.loads(path.read_text())
    slo = dict(table["slo"])
    burns = tuple(_make(Burn, "slo.burns", each) for each in slo.pop("burns"))
    return Settings(
        _make(Links, "links", table["links"]),
        _make(Labels, "labels", table["labels"]),
        _make(Slo, "slo", slo | {"burns": burns}),
        {name: _make(Alert, f"alerts.{name}", each) for name, each in table["alerts"].items()},
    )


def seconds(duration: str) -> float:
    """Return the seconds of a duration like `1h` or `1m30s`.

    Raises:
        ValueError: it is not written so.
    """
    if not re.fullmatch(r"(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?", duration) or not duration:
        raise ValueError(f"a duration is written like 5m or 1h30m, not {duration!r}")
    thousandths = re.search(r"(\d+)ms", duration)
    whole = re.findall(r"(\d+)([dhms])(?!s)", duration)
    return sum(int(number) * _UNITS[unit] for number, unit in whole) + (
        int(thousandths[1]) / 1000 if thousandths else 0
    )


def written(length: float) -> str:
    """Return a length in seconds as Prometheus writes durations, exact to a millisecond."""
    rest = round(length * 1000)
    text = ""
    for unit, size in [*_UNITS.items(), ("ms", 0.001)]:
        number, rest = divmod(rest, round(size * 1000))
        text += f"{number}{unit}" if number else ""
    return text or "0s"


def _make(kind: type[T], section: str, table: Mapping[str, Any]) -> T:
    words = {"for": "wait", "keep_firing_for": "keep"}
    values = {words.get(key, key): value for key, value in table.items()}
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := values.keys() - known:
        raise ValueError(f"[{section}] of settings.toml knows no {', '.join(sorted(unknown))}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"[{section}] of settings.toml lacks a setting: {error}") from error
