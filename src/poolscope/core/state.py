"""What a pool's state consists of, what is noted of it, and how it is seen from outside."""

from __future__ import annotations

import math
from typing import Generic

from poolscope.core.backoff import Backoff, Random
from poolscope.core.journal import Journal
from poolscope.core.line import Line
from poolscope.core.places import Places
from poolscope.core.slot import CLOSING, CONNECTING, IDLE, IN_USE, C
from poolscope.core.ticket import NOTHING, Chores, Ticket
from poolscope.events import SaturationEnded, SaturationStarted
from poolscope.settings import ConnectionPoolSettings
from poolscope.stats import PoolState, PoolStats
from poolscope.strain import Strain


class State(Generic[C]):
    """The slots, the line in front of them, and what was noted; decisions are in subclasses."""

    def __init__(
        self,
        name: str,
        settings: ConnectionPoolSettings,
        journal: Journal,
        rng: Random,
        *,
        checks: bool = False,
        strain: Strain | None = None,
    ) -> None:
        """Make a pool that is not yet open. `checks`: grants are validated before they count."""
        self.name = name
        self.settings = settings
        self.journal = journal
        self.checks = checks
        self.checks_idle = checks
        """False if the driver has validated what lies on top of the idle connections itself."""
        self.state: PoolState = "new"
        self.generation = 0
        self.due = math.inf
        """When `tick` has to be called next, at the latest."""
        self.places: Places[C] = Places(settings.max_size)
        self.line: Line[C] = Line()
        self.backoff = Backoff(settings, rng)
        self.strain = strain or Strain()
        self._random = rng
        self._low = 0
        """With fewer idle connections than this more are in use than ever in this step."""
        self.vacant = self.places.vacant
        self._idle = self.places.idle
        self._waiting = self.line.tickets
        self._granted: dict[int, Ticket[C]] = {}
        """Tickets with a slot whose callers have not yet concluded."""
        self._refused = 0
        """Tickets with an error whose callers have not yet concluded."""
        self._serial = 0
        self._keep = 0
        """Up to so many idle connections a release needs no second thought."""
        self.owed: Chores[C] = NOTHING

    def idle_limit(self) -> int:
        """Return how many idle connections are kept at most."""
        return max(self.settings.max_idle, self.settings.min_size)

    # How near the limit it is

    def _note_peak(self, now: float) -> None:
        """Take note of a new peak, before use goes down.

        An acquire that is granted at once looks at none of this; whatever ends its lease does.
        """
        if len(self._idle) < self._low:
            self._note_use(now)

    def _note_use(self, now: float) -> None:
        """Take note of a new peak of connections in use, and set when to look again."""
        places, strain = self.places, self.strain
        used = places.in_use
        strain.step(used, now)
        if used > strain.peak:
            strain.peak = used
        self._low = places.open - strain.peak
        if places.open:
            self.due = min(self.due, strain.step_ends)
        if self._waiting:
            self._weigh(now)

    def _weigh(self, now: float) -> None:
        """Tell when saturation begins or ends: somebody waits, and all of `max_size` is in use."""
        strain, waiting = self.strain, len(self._waiting)
        if not waiting or self.places.in_use < self.settings.max_size:
            if strain.saturated:
                duration = strain.end(now)
                self.journal.record(SaturationEnded, now, duration, strain.peak_waiting)
        elif not strain.saturated:
            strain.begin(now, waiting)
            self.journal.record(SaturationStarted, now, waiting)
        elif waiting > strain.peak_waiting:
            strain.peak_waiting = waiting

    # The snapshot

    def stats(self, now: float) -> PoolStats:
        """Return the levels at this moment."""
        states = self.places.states()
        leased = [slot for slot in self.places.slots if slot.state is IN_USE]
        oldest = min(leased, key=lambda slot: slot.since, default=None)
        first = self.line.first()
        in_use = states.count(IN_USE)
        return PoolStats(
            pool=self.name,
            time=now,
            sequence=self.journal.sequence,
            state=self.state,
            min_size=self.settings.min_size,
            max_size=self.settings.max_size,
            max_idle=self.idle_limit(),
            idle=states.count(IDLE),
            in_use=in_use,
            connecting=states.count(CONNECTING),
            closing=states.count(CLOSING),
            waiting=len(self.line) + len(self._granted) + self._refused,
            granted=len(self._granted),
            oldest_wait=max(0.0, now - first.requested_at) if first else 0.0,
            oldest_use=max(0.0, now - oldest.since) if oldest else 0.0,
            oldest_use_at=oldest.acquired_at() if oldest else None,
            generation=self.generation,
            used_peak=self.strain.used_peak(in_use, now),
            saturated_for=self.strain.saturated_for(now),
            saturation_time=self.strain.saturation_time(now),
            acquire_timeout=self.settings.acquire_timeout,
        )
