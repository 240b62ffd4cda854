"""The last samples of pools that closed: one that lives for a moment is to show up as well."""

from __future__ import annotations

import threading
import time

from poolscope import registry
from poolscope.bus import ROOT, Subscription
from poolscope.events import PoolClosed
from poolscope.telemetry.export.samples import Sample, take_last

MOST_CLOSED = 1000
"""Pools whose last samples wait to be sent, at most; of more the oldest are forgotten."""


class ClosedPools:
    """Hear of every pool that closes, and keep its last sample until it was sent.

    Samples are plain values: no pool is kept alive. Safe from any thread.
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
        self._samples: dict[tuple[str, int], Sample] = {}
        self.lost = 0
        """Samples that had to make room before they were sent."""

    def waiting(self) -> list[Sample]:
        """Return what waits to be sent, in the order of closing."""
        with self._lock:
            return list(self._samples.values())

    def sent(self, samples: list[Sample]) -> None:
        """Let go of what was sent."""
        with self._lock:
            for sample in samples:
                if self._samples.get((sample.name, sample.start)) is sample:
                    del self._samples[sample.name, sample.start]

    def _closed(self, pool: str, *_: object) -> None:
        source = registry.find(pool)
        sample = take_last(source, time.time_ns()) if source is not None else None
        if sample is not None:
            self._keep(sample)

    def _keep(self, sample: Sample) -> None:
        # One that could not begin closes, and may try again: then the later includes the earlier.
        with self._lock:
            self._samples[sample.name, sample.start] = sample
            if len(self._samples) > MOST_CLOSED:
                del self._samples[next(iter(self._samples))]
                self.lost += 1
