"""Durations of rules, as set or in fast motion."""

from __future__ import annotations

from dataclasses import dataclass

from grafana.kit.settings import seconds, written


@dataclass(frozen=True, slots=True)
class Pace:
    """How many times faster than set time runs: at 30, `at("5m")` is `10s`."""

    speed: float = 1

    def __call__(self, duration: str) -> str:
        """Return a duration at this pace, as Prometheus writes it."""
        return duration if self.speed == 1 else written(seconds(duration) / self.speed)

    def seconds(self, duration: str) -> str:
        """Return its seconds, as a number for PromQL."""
        return f"{seconds(duration) / self.speed:g}"
