"""When to try again after a connect failed: exponential backoff with full jitter, in rounds.

Connects that were under way together and fail together are one round, so that twenty refused
connections are one incident and not twenty. Full jitter is described in "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

from typing import Protocol

from poolscope.settings import ConnectionPoolSettings

LONGEST_DELAY = 30.0
REFILL_DELAY = 1.0
"""Seconds, at most, to the next try for which nobody waits, if `retry_delay` is 0."""


class Random(Protocol):
    """Where chance comes from: the module `random`, or a `random.Random` of one's own."""

    def random(self) -> float:
        """Return a number between 0 and 1."""

    def uniform(self, a: float, b: float) -> float:
        """Return a number between a and b."""


class Backoff:
    """Count failed rounds in a row and say when the next may begin."""

    __slots__ = (
        "_random",
        "_settings",
        "distrust",
        "error",
        "refill_at",
        "retry_at",
        "round",
        "streak",
    )

    def __init__(self, settings: ConnectionPoolSettings, rng: Random) -> None:
        """Start without failures."""
        self._settings = settings
        self._random = rng
        self.round = 0
        """Rounds failed since the pool was made."""
        self.streak = 0
        """Rounds failed since the last success."""
        self.retry_at = 0.0
        self.refill_at = 0.0
        """When a connect may be tried for which nobody waits."""
        self.error: BaseException | None = None
        """The last failure, None after a success."""
        self.distrust = False
        """New connections open but do not pass validation, so opening proves nothing."""

    def failed(self, round_: int, error: BaseException, now: float) -> bool:
        """Note a failure of an attempt begun in that round; True for the first of the round."""
        self.error = error
        if round_ != self.round:
            return False
        self.round += 1
        self.streak += 1
        doublings = min(self.streak - 1, self._settings.retry_limit)
        longest = min(self._settings.retry_delay * 2.0**doublings, LONGEST_DELAY)
        self.retry_at = now + self._random.uniform(0, longest)
        self.refill_at = self.retry_at
        if not longest:
            self.refill_at += self._random.uniform(0, REFILL_DELAY)
        return True

    def succeeded(self) -> None:
        """Note a success: the next failure begins a new streak."""
        if self.streak:
            self.round += 1
            self.streak = 0
            self.retry_at = self.refill_at = 0.0
        self.error = None
        self.distrust = False

    def exhausted(self, since_round: int) -> bool:
        """Tell whether someone who came in that round has seen enough failures in a row."""
        return min(self.streak, self.round - since_round) > self._settings.retry_limit
