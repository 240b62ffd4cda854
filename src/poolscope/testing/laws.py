"""The conservation laws of a pool, checked from its events alone.

`Replay` listens to a pool from the beginning and keeps its own books. They must agree with the
pool's snapshot at any moment, and the numbers of the books with each other.
"""

from __future__ import annotations

import itertools
from collections import Counter

from poolscope import events as e
from poolscope.stats import PoolStats


class Replay:
    """Subscribe this to a new pool's bus; call `check(pool.stats())` whenever you like."""

    def __init__(self) -> None:
        """Begin with empty books."""
        self.events: list[e.Event] = []
        self.counts: Counter[type[e.Event]] = Counter()
        self.requests: set[int] = set()
        """Requests not yet ended."""
        self.queued: set[int] = set()
        """Those of them that had to wait."""
        self.leases: dict[int, str] = {}
        """Leases not yet ended, and the connection of each."""
        self.connecting: set[str] = set()
        self.open: set[str] = set()
        self.saturation: e.SaturationStarted | None = None
        """The present one."""
        self.reasons: Counter[e.CloseReason] = Counter()
        self.faults: list[str] = []

    def __call__(self, event: e.Event) -> None:
        """Book an event."""
        expected = self.events[-1].sequence + 1 if self.events else event.sequence
        self._expect(event.sequence == expected, f"event {expected} is missing before {event}")
        self.events.append(event)
        self.counts[type(event)] += 1
        book = getattr(self, f"_{type(event).__name__}", None)
        if book is not None:
            book(event)

    def of(self, *kinds: type[e.Event]) -> list[e.Event]:
        """Return the events of these types, in order."""
        return [event for event in self.events if isinstance(event, kinds)]

    def _expect(self, holds: bool, fault: str) -> None:
        if not holds:
            self.faults.append(fault)

    def _ConnectionRequested(self, event: e.ConnectionRequested) -> None:
        self.requests.add(event.sequence)

    def _RequestQueued(self, event: e.RequestQueued) -> None:
        self._expect(event.request_id in self.requests, f"queued when ended: {event}")
        self._expect(event.request_id not in self.queued, f"queued twice: {event}")
        self.queued.add(event.request_id)
        self._expect(0 < event.waiting <= len(self.queued), f"no place in the line: {event}")

    def _end_request(self, event: e.ConnectionAcquired | e.AcquireFailed) -> None:
        self._expect(event.request_id in self.requests, f"ended twice, or never made: {event}")
        self._expect(event.wait >= 0, f"negative wait: {event}")
        self.requests.discard(event.request_id)
        self.queued.discard(event.request_id)

    _AcquireFailed = _AcquireTimedOut = _end_request

    def _ConnectionAcquired(self, event: e.ConnectionAcquired) -> None:
        self._end_request(event)
        self._expect(event.connection_id in self.open, f"acquired though not open: {event}")
        self._expect(
            event.connection_id not in self.leases.values(), f"acquired though in use: {event}"
        )
        self.leases[event.request_id] = event.connection_id

    def _end_lease(self, event: e.ConnectionReleased | e.LeakReclaimed) -> None:
        held = self.leases.pop(event.request_id, None)
        self._expect(held == event.connection_id, f"ended twice, or never begun: {event}")
        self._expect(event.use >= 0, f"negative use: {event}")

    _ConnectionReleased = _LeakReclaimed = _end_lease

    def _ConnectionDetached(self, event: e.ConnectionDetached) -> None:
        held = self.leases.pop(event.request_id, None)
        self._expect(held == event.connection_id, f"detached though not leased: {event}")
        self.open.discard(event.connection_id)

    def _ConnectStarted(self, event: e.ConnectStarted) -> None:
        self._expect(
            event.connection_id not in self.connecting | self.open, f"started twice: {event}"
        )
        waits = event.request_id in self.queued
        self._expect(waits or event.request_id == 0, f"started for nobody: {event}")
        self.connecting.add(event.connection_id)

    def _ConnectionOpened(self, event: e.ConnectionOpened) -> None:
        self._expect(event.connection_id in self.connecting, f"opened unasked: {event}")
        self.connecting.discard(event.connection_id)
        self.open.add(event.connection_id)

    def _ConnectFailed(self, event: e.ConnectFailed) -> None:
        self._expect(event.connection_id in self.connecting, f"failed unasked: {event}")
        self.connecting.discard(event.connection_id)

    def _ConnectionClosed(self, event: e.ConnectionClosed) -> None:
        self._expect(event.connection_id in self.open, f"closed twice: {event}")
        self._expect(
            event.connection_id not in self.leases.values(), f"closed though leased: {event}"
        )
        self.open.discard(event.connection_id)
        self.reasons[event.reason] += 1

    def _SaturationStarted(self, event: e.SaturationStarted) -> None:
        self._expect(self.saturation is None, f"saturated twice: {event}")
        self._expect(0 < event.waiting <= len(self.queued), f"saturated by nobody: {event}")
        self.saturation = event

    def _SaturationEnded(self, event: e.SaturationEnded) -> None:
        began, self.saturation = self.saturation, None
        if began is None:
            return self._expect(False, f"never began: {event}")
        self._expect(event.duration == event.time - began.time, f"wrong duration: {event}")
        self._expect(event.peak_waiting >= began.waiting, f"wrong peak: {event}")

    def check(self, stats: PoolStats) -> None:
        """Compare the books with a snapshot: laws I1 to I4, I6, I10 and I16."""
        count = self.counts
        ended = count[e.ConnectionAcquired] + count[e.AcquireTimedOut] + count[e.AcquireFailed]
        self._equal("requests", count[e.ConnectionRequested], ended + stats.waiting)
        self._equal("waiting", len(self.requests), stats.waiting)
        self._equal("leases", len(self.leases), stats.in_use - stats.granted)
        self._equal("open", len(self.open), stats.idle + stats.in_use)
        self._equal("connecting", len(self.connecting), stats.connecting)
        self._equal("closed", count[e.ConnectionClosed], self.reasons.total())
        gone = count[e.ConnectionClosed] + count[e.ConnectionDetached]
        self._equal("opened", count[e.ConnectionOpened], gone + stats.idle + stats.in_use)
        self._expect(min(stats.idle, stats.in_use, stats.closing) >= 0, f"negative: {stats}")
        self._check_saturation(stats)
        if self.events:
            self._equal("sequence", self.events[-1].sequence, stats.sequence)
        assert not self.faults, "\n".join(itertools.islice(self.faults, 5))

    def _check_saturation(self, stats: PoolStats) -> None:
        """Compare saturation. Who stood in line and was just refused is still waiting here."""
        began = self.saturation
        lasts = 0.0 if began is None else stats.time - began.time
        self._expect(lasts == stats.saturated_for, f"saturated for {lasts} s: {stats}")
        self._expect(lasts <= stats.saturation_time, f"saturated less than at present: {stats}")
        full, in_line = stats.in_use >= stats.max_size, stats.waiting > stats.granted
        self._expect(began is None or (full and in_line), f"saturated by nobody: {stats}")
        somebody = stats.oldest_wait > 0
        self._expect(not (full and somebody) or began is not None, f"not saturated: {stats}")

    def _equal(self, what: str, booked: int, shown: int) -> None:
        self._expect(booked == shown, f"{what}: {booked} by the events, {shown} by the snapshot")
