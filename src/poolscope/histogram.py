"""A histogram of fixed buckets: O(1) memory, exact count and sum."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One value of a bucket, and the span in which it was measured."""

    value: float
    time: int
    """Nanoseconds since 1970."""
    trace_id: int
    span_id: int


class Histogram:
    """Count values by bucket. A bound belongs to the bucket below it, as in Prometheus `le`."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Make a bucket up to each bound, and one for everything above."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0
        self.exemplars: list[Exemplar | None] | None = None
        """The latest of each bucket; None before the first."""

    def exemplify(self, exemplar: Exemplar) -> None:
        """Remember a value that was recorded, in place of an earlier one of its bucket."""
        exemplars = self.exemplars
        if exemplars is None:  # another thread may reset it meanwhile
            exemplars = self.exemplars = [None] * len(self.counts)
        exemplars[bisect_left(self.bounds, exemplar.value)] = exemplar

    def record(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, other: Histogram) -> None:
        """Add the values of another one with the same bounds."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def reset(self) -> None:
        """Forget everything."""
        self.counts = [0] * len(self.counts)
        self.sum = 0.0
        self.exemplars = None

    @property
    def count(self) -> int:
        """Return how many values were counted."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Return the mean, 0 without values."""
        count = self.count
        return self.sum / count if count else 0.0

    def quantile(self, q: float) -> float:
        """Estimate a quantile by linear interpolation within its bucket; 0 without values.

        As PromQL's `histogram_quantile`: values above the last bound count as that bound.
        """
        rank = q * self.count
        seen, low = 0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and seen + count >= rank:
                return low + (bound - low) * (rank - seen) / count
            seen, low = seen + count, bound
        return low if self.count else 0.0
