"""The last samples of pools that closed: one that lives for a moment is to show up as well."""

from __future__ import annotations

import threading
import time

from poolscope import registry
from poolscope.bus import ROOT, Subscription
from poolscope.events import PoolClosed
from poolscope.telemetry.export.samples import Sample, take_last
from poolscope.telemetry.reading import Reading

MOST_CLOSED = 1000
"""Pools whose last samples wait to be sent, at most; of more the oldest are forgotten."""


class ClosedPools:
    """Hear of every pool that closes, and keep its last sample until it was sent.

    No pool is kept alive, only its counts, for they may go on: what other threads did before it
    closed, they may tell later. Safe from any thread.
    """

    def __init__(self) -> None:
        """Keep none, and hear of nothing before `open()`."""
        self._subscription: Subscription | None = None
        self.forget()

    def open(self) -> None:
        """Hear of the pools that close from now on."""
        if self._subscription is None:
            self._subscription = ROOT.tap({PoolClosed: self._closed})

    def close(self) -> None:
        """Hear of nothing more, and keep nothing."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.unsubscribe()
        with self._lock:
            self._samples.clear()

    def forget(self) -> None:
        """Begin anew, as a forked child does."""
        self._lock = threading.RLock()
        self._samples: dict[tuple[str, int], tuple[Sample, Reading]] = {}
        self.lost = 0
        """Samples that had to make room before they were sent."""

    def waiting(self) -> list[Sample]:
        """Return what waits to be sent, in the order of closing."""
        with self._lock:
            return [sample for sample, _ in list(self._samples.values())]

    def caught_up(self) -> list[Sample]:
        """Return the same, with what was told since."""
        with self._lock:
            found = list(self._samples.values())
        for sample, reading in found:
            sample.catch_up(reading)
        return [sample for sample, _ in found]

    def sent(self, samples: list[Sample]) -> None:
        """Let go of what was sent."""
        with self._lock:
            for sample in samples:
                kept = self._samples.get((sample.name, sample.start))
                if kept is not None and kept[0] is sample:
                    del self._samples[sample.name, sample.start]

    def _closed(self, pool: str, *_: object) -> None:
        source = registry.find(pool)
        last = take_last(source, time.time_ns()) if source is not None else None
        if last is not None:
            self._keep(*last)

    def _keep(self, sample: Sample, reading: Reading) -> None:
        # One that could not begin closes, and may try again: then the later includes the earlier.
        with self._lock:
            self._samples[sample.name, sample.start] = sample, reading
            if len(self._samples) > MOST_CLOSED:
                del self._samples[next(iter(self._samples))]
                self.lost += 1
