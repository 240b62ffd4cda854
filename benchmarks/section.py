"""What a measurement hands to the report: a table, goals, and the figures behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import Figure


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound that the project promises to keep."""

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def bound(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"

    def __str__(self) -> str:
        return f"{self.what} is {self.value:.4g}, to be {self.bound}"


@dataclass(slots=True)
class Section:
    """One table."""

    title: str
    explanation: str
    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)
    """Goals that nothing was measured for."""
    data: dict[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        marks = [" --- ", *[" --: "] * (len(self.header) - 1)]
        table = [f"| {' | '.join(row)} |" for row in self.rows]
        lines = [f"## {self.title}", "", self.explanation, ""]
        lines += [f"| {' | '.join(self.header)} |", f"|{'|'.join(marks)}|", *table]
        lines += ["", *[f"Goal {_verdict(goal)}: {goal}." for goal in self.goals]]
        lines += [f"Goal not checked: {goal}." for goal in self.unchecked]
        lines += [f"Left out: {name}: {reason}." for name, reason in self.missing.items()]
        return "\n".join(lines)


def _verdict(goal: Goal) -> str:
    return "met" if goal.is_met else "MISSED"


def ratio(figure: Figure) -> str:
    """Return a ratio with its quartiles."""
    return f"{short(figure.median)} ({short(figure.low)} to {short(figure.high)})"


def short(value: float) -> str:
    """Return a number with two or three digits that matter."""
    if value >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
