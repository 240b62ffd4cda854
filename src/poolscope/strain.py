"""How near a pool is to its limit: the highest use of late, and the time spent beyond."""

from __future__ import annotations

import math

PEAK_STEP = 10.0
PEAK_WINDOW = 60.0
"""Seconds. The peak is kept for steps of this window, and forgotten step by step."""


class Strain:
    """What a reading at one moment would not see: peaks, and saturation between two looks.

    Written in turns, by who decides for the pool; any thread may read, whatever it interrupts.
    """

    __slots__ = ("_past", "_saturated", "peak", "peak_waiting", "saturated", "step_ends")

    def __init__(self) -> None:
        """Start without any use."""
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.peak = 0
        """The most connections in use since the present step began."""
        self.step_ends = -math.inf
        self._past: tuple[tuple[float, int], ...] = ()
        self._saturated: tuple[float, float | None] = (0.0, None)
        """How long earlier saturations lasted, and when the present one began: changed as one."""
        self.saturated = False
        self.peak_waiting = 0

    def step(self, used: int, now: float) -> None:
        """Begin a new step if the present one is over."""
        if now < self.step_ends:
            return
        past = (*self._past, (self.step_ends, self.peak))
        self._past = tuple(each for each in past if each[0] > now - PEAK_WINDOW)
        self.peak = used
        self.step_ends = now + PEAK_STEP

    def used_peak(self, used: int, now: float) -> int:
        """Return the most connections in use within the window."""
        present = (self.step_ends, self.peak)
        # Read last, so that a step which ends meanwhile is seen twice, and not missed.
        steps = (*self._past, present)
        return max(used, 0, *(peak for ended, peak in steps if ended > now - PEAK_WINDOW))

    @property
    def since(self) -> float | None:
        """Return when the present saturation began, None while there is none."""
        return self._saturated[1]

    def begin(self, now: float, waiting: int) -> None:
        """Note that saturation began."""
        self._saturated = (self._saturated[0], now)
        self.saturated = True
        self.peak_waiting = waiting

    def end(self, now: float) -> float:
        """Note that it is over; return how long it lasted."""
        before, since = self._saturated
        assert since is not None
        self._saturated = (before + (now - since), None)
        self.saturated = False
        return now - since

    def saturated_for(self, now: float) -> float:
        """Return how long the present saturation has lasted, 0 without one."""
        since = self.since
        return 0.0 if since is None else max(0.0, now - since)

    def saturation_time(self, now: float) -> float:
        """Return how long the pool was saturated, all in all. It never goes back."""
        before, since = self._saturated
        return before if since is None else before + max(0.0, now - since)
