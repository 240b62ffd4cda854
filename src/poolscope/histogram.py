"""A histogram of fixed buckets: O(1) memory, exact count and sum."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Count values by bucket. A bound belongs to the bucket below it, as in Prometheus `le`."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """Make a bucket up to each bound, and one for everything above."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def record(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def reset(self) -> None:
        """Forget everything."""
        self.counts = [0] * len(self.counts)
        self.sum = 0.0

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
