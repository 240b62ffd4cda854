"""What the pool has counted, read between two moments instead of since the beginning."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from poolscope.histogram import Histogram
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.telemetry.catalog import USE_BUCKETS, WAIT_BUCKETS


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts of a pool at one moment. The difference of two is what happened between."""

    seconds: float
    waits: tuple[int, ...]
    holds: tuple[int, ...]
    timeouts: int
    errors: int

    @classmethod
    def read(cls, metrics: ConnectionPoolMetrics, now: float) -> Self:
        """Take the counts as they are now."""
        return cls(
            now,
            tuple(metrics.wait.counts),
            tuple(metrics.use.counts),
            metrics.connection_timeouts,
            metrics.connection_errors,
        )

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(
            self.seconds - earlier.seconds,
            tuple(map(int.__sub__, self.waits, earlier.waits)),
            tuple(map(int.__sub__, self.holds, earlier.holds)),
            self.timeouts - earlier.timeouts,
            self.errors - earlier.errors,
        )

    @property
    def acquired(self) -> int:
        """Return how many requests got a connection."""
        return sum(self.waits)

    @property
    def requests(self) -> int:
        """Return how many requests ended, those aside that were taken back."""
        return self.acquired + self.timeouts + self.errors

    @property
    def acquires_per_second(self) -> float:
        """Return the mean over the time between."""
        return self.acquired / self.seconds if self.seconds else 0.0

    @property
    def error_rate(self) -> float:
        """Return the share of requests which got no connection, 0 to 1."""
        return (self.timeouts + self.errors) / self.requests if self.requests else 0.0

    def wait(self, q: float) -> float | None:
        """Return a quantile of the wait of those who got a connection, None if there are none."""
        return _quantile(q, WAIT_BUCKETS, self.waits)

    def hold(self, q: float) -> float | None:
        """Return a quantile of the time connections were held, None if none was given back."""
        return _quantile(q, USE_BUCKETS, self.holds)


class Window:
    """Remembers counts long enough to say what happened in the last few seconds."""

    def __init__(self, seconds: float = 5.0) -> None:
        """Look back that far."""
        self._seconds = seconds
        self._past: deque[Counts] = deque()

    def recent(self, now: Counts) -> Counts:
        """Return what happened between the beginning of the window and now."""
        past = self._past
        past.append(now)
        while len(past) > 1 and now.seconds - past[1].seconds >= self._seconds:
            past.popleft()
        return now - past[0]


def _quantile(q: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    histogram = Histogram(bounds)
    histogram.counts = list(counts)
    return histogram.quantile(q) if histogram.count else None
