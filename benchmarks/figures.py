"""How measurements become figures.

A noisy machine slows whole rounds. So two cases are compared within each round, and the ratios of
the rounds are summed up; the ratio of two medians would mix rounds that have nothing in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles


@dataclass(frozen=True, slots=True)
class Figure:
    """A median, and the quartiles around it."""

    median: float
    low: float
    high: float


def summarize(values: Sequence[float]) -> Figure:
    if len(values) == 1:
        return Figure(values[0], values[0], values[0])
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Figure(median(values), low, high)


def compare(values: Sequence[float], others: Sequence[float]) -> Figure:
    """Sum up the ratios of values measured in the same rounds."""
    return summarize([value / other for value, other in zip(values, others, strict=True)])
