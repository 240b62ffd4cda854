"""OpenTelemetry metrics of all pools, through the API alone: any SDK, or none, may be behind it.

Levels and counts are observable instruments: they cost nothing until somebody collects. Durations
are recorded one by one, because the API has no other way to hand over a histogram; that is one
SDK call, about 8 us, for each acquire, release and connect.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation

from poolscope._version import __version__
from poolscope.bus import ROOT, EventBus, Subscription, Tap
from poolscope.events import (
    AcquireFailed,
    AcquireTimedOut,
    ConnectFailed,
    ConnectionAcquired,
    ConnectionDetached,
    ConnectionOpened,
    ConnectionReleased,
    Event,
    FailureReason,
    LeakReclaimed,
)
from poolscope.telemetry import catalog, readings
from poolscope.telemetry.providers import PerProvider


def observe_pools(meter_provider: MeterProvider | None = None) -> PoolObserver:
    """Report the metrics of every pool, now and to come, to a meter provider.

    By default that is the global one, even if the application sets it later. Asking again for the
    same provider returns the same observer, opened. Levels are read from all live pools, durations
    heard on `bus.ROOT`: a pool whose bus was given another root has levels only.
    """
    return _observers.open(meter_provider)


class PoolObserver:
    """What reports to one meter provider. Safe from any thread."""

    def __init__(self, provider: MeterProvider) -> None:
        """Create the instruments; nothing is reported before `open()`."""
        meter = provider.get_meter("poolscope", __version__)
        self._numbers = _Numbers(meter)
        self._durations = _Durations(meter)
        self._subscription: Subscription | None = None

    def open(self) -> None:
        """Report from now on."""
        if self._subscription is None:
            self._subscription = self._durations.subscribe_to(ROOT)
        self._numbers.shown = True

    def close(self) -> None:
        """Report nothing more. `observe_pools` may open it again."""
        self._numbers.shown = False
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.unsubscribe()


class _Numbers:
    """Levels and counts, read when somebody collects."""

    def __init__(self, meter: Meter) -> None:
        """Create one observable instrument for each."""
        self.shown = False
        self._collection = _Collection()
        make = {
            "updowncounter": meter.create_observable_up_down_counter,
            "counter": meter.create_observable_counter,
        }
        for metric in catalog.METRICS:
            if metric.kind in make:
                callback = partial(self._observe, metric)
                make[metric.kind](metric.name, [callback], metric.unit, metric.help)

    def _observe(self, metric: catalog.Metric, options: CallbackOptions) -> Iterable[Observation]:
        if not self.shown:
            return []
        return [
            Observation(number, attributes)
            for pool in self._collection.pools_for(metric)
            for attributes, number in readings.numbers(metric, pool)
        ]


class _Collection(threading.local):
    """What one collection reads, so that its numbers fit each other.

    The API calls back for one instrument after the other and does not say where a collection
    begins: it does when an instrument asks again. Collections of several readers may overlap, but
    each keeps to a thread, hence `local`.
    """

    def __init__(self) -> None:
        self._asked: set[str] = set()
        self._pools: list[readings.Reading] = []

    def pools_for(self, metric: catalog.Metric) -> list[readings.Reading]:
        """Return the pools as this collection sees them."""
        if not self._asked or metric.name in self._asked:
            self._asked.clear()
            self._pools = readings.readings()
        self._asked.add(metric.name)
        return self._pools


class _Durations:
    """The three histograms, recorded in the context of whoever caused the event."""

    def __init__(self, meter: Meter) -> None:
        """Create the instruments."""
        self._wait = _histogram(meter, catalog.WAIT_TIME)
        self._use = _histogram(meter, catalog.USE_TIME)
        self._create = _histogram(meter, catalog.CREATE_TIME)

    def subscribe_to(self, bus: EventBus) -> Subscription:
        """Record what happens to every pool under this bus."""
        taps: dict[type[Event], Tap] = {
            ConnectionAcquired: self._acquired,
            AcquireTimedOut: self._timed_out,
            AcquireFailed: self._failed,
            ConnectionReleased: self._used,
            ConnectionDetached: self._used,
            LeakReclaimed: self._used,
            ConnectionOpened: self._connected,
            ConnectFailed: self._connected,
        }
        return bus.tap(taps)

    def _acquired(
        self, pool: str, _time: float, _sequence: int, _request: int, wait: float, *_: object
    ) -> None:
        self._wait.record(wait, {catalog.POOL_NAME: pool})

    def _timed_out(
        self, pool: str, _time: float, _sequence: int, _request: int, wait: float, *_: object
    ) -> None:
        self._record_failure(pool, wait, FailureReason.TIMEOUT)

    def _failed(
        self, pool: str, _time: float, _sequence: int, _request: int, wait: float,
        reason: FailureReason, _error: object,
    ) -> None:  # fmt: skip
        self._record_failure(pool, wait, reason)

    def _record_failure(self, pool: str, wait: float, reason: FailureReason) -> None:
        attributes = {catalog.POOL_NAME: pool, catalog.ERROR_TYPE: reason.value}
        self._wait.record(wait, attributes)

    def _used(
        self, pool: str, _time: float, _sequence: int, _request: int, _connection: str,
        use: float, *_: object,
    ) -> None:  # fmt: skip
        self._use.record(use, {catalog.POOL_NAME: pool})

    def _connected(
        self, pool: str, _time: float, _sequence: int, _connection: str, create: float, *_: object
    ) -> None:
        self._create.record(create, {catalog.POOL_NAME: pool})


def _histogram(meter: Meter, metric: catalog.Metric) -> Histogram:
    return meter.create_histogram(
        metric.name,
        metric.unit,
        metric.help,
        explicit_bucket_boundaries_advisory=metric.buckets,
    )


_observers: PerProvider[MeterProvider, PoolObserver] = PerProvider(
    metrics.get_meter_provider, PoolObserver
)
