"""OpenTelemetry metrics of all pools. Two roads lead to it, with the same series and values.

With a `PoolExporter` everything counted goes out by that: nothing runs per operation. Without one
it goes through the API alone, so that any SDK, or none, may be behind it: levels and counts as
observable instruments, which cost nothing until somebody collects; durations one by one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakSet

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

from poolscope._version import __version__
from poolscope.telemetry import catalog, readings
from poolscope.telemetry.export.samples import otel_attributes
from poolscope.telemetry.otel_durations import Durations
from poolscope.telemetry.providers import PerProvider

if TYPE_CHECKING:
    from poolscope.telemetry.otel_export import PoolExporter

_ALL = frozenset(metric.name for metric in catalog.METRICS)


def observe_pools(
    meter_provider: MeterProvider | None = None, exporter: PoolExporter | None = None
) -> PoolObserver:
    """Report the metrics of every pool, now and to come, to a meter provider.

    By default that is the global one, even if the application sets it later. Asking again for the
    same provider returns the same observer, opened. With the `exporter` of a reader of this
    provider only `poolscope.pools` goes through the provider, now and whenever it is asked for
    again; the exporter adds the rest. Levels are read from all live pools. Without an exporter
    durations are heard on `bus.ROOT`: a pool whose bus was given another root has levels only.

    An SDK limits the attribute sets of an instrument, usually to 2,000, those of closed pools
    included. That is enough for some 180 pools; an exporter has no such limit.
    """
    observer = _observers.open(meter_provider)
    if exporter is not None:
        observer.add(exporter)
    return observer


class PoolObserver:
    """What reports to one meter provider. Safe from any thread."""

    def __init__(self, provider: MeterProvider) -> None:
        """Create the instruments; nothing is reported before `open()`."""
        meter = provider.get_meter(catalog.SCOPE, __version__)
        self._numbers = _Numbers(meter)
        self._durations = Durations(meter)
        self._exporters: WeakSet[PoolExporter] = WeakSet()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Report from now on."""
        with self._lock:
            self._open()

    def add(self, exporter: PoolExporter) -> None:
        """Report by an exporter from now on; it belongs to its reader, and is not kept alive."""
        with self._lock:
            self._exporters.add(exporter)
            self._open()

    def close(self) -> None:
        """Report nothing more. `observe_pools` may open it again."""
        with self._lock:
            self._numbers.shown = frozenset()
            self._durations.close()
            for exporter in self._exporters:
                exporter.close()

    def _open(self) -> None:
        for exporter in self._exporters:
            exporter.open()
        if self._exporters:
            self._durations.close()
            self._numbers.shown = frozenset({catalog.POOLS.name})
        else:
            self._durations.open()
            self._numbers.shown = _ALL


class _Numbers:
    """Levels and counts, read when somebody collects."""

    def __init__(self, meter: Meter) -> None:
        """Create one observable instrument for each."""
        self.shown: frozenset[str] = frozenset()
        self._collection = _Collection()
        make = {
            "updowncounter": meter.create_observable_up_down_counter,
            "counter": meter.create_observable_counter,
            "gauge": meter.create_observable_gauge,
        }
        for metric in catalog.METRICS:
            if metric.kind in make:
                callback = partial(self._observe, metric)
                make[metric.kind](metric.name, [callback], metric.unit, metric.help)

    def _observe(self, metric: catalog.Metric, options: CallbackOptions) -> Iterable[Observation]:
        if metric.name not in self.shown:
            return []
        pools = self._collection.pools_for(metric)
        return [
            Observation(number, otel_attributes(attributes))
            for attributes, number in readings.numbers(metric, pools)
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


_observers: PerProvider[MeterProvider, PoolObserver] = PerProvider(
    metrics.get_meter_provider, PoolObserver
)
