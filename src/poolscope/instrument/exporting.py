"""Reporting through providers that somebody else has set up, at no cost per operation if possible.

That takes the exporters of the provider's readers (`otel_export`). The SDK has no public way to
them; what is private of it is read here alone.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.version import __version__ as sdk_version

from poolscope.faults import where
from poolscope.telemetry.otel_export import PoolExporter
from poolscope.telemetry.otel_metrics import PoolObserver, observe_pools

logger = logging.getLogger("poolscope")


class Reporting:
    """Reports the metrics of all pools through one meter provider, until `close()`.

    If all its readers export periodically, their exporters carry the metrics, and nothing runs per
    operation. Otherwise, as with a reader for Prometheus, they go through the API, which records
    each duration. Without any reader nothing is recorded. Readers added later get little.
    """

    def __init__(self, provider: MeterProvider | None = None) -> None:
        """Begin to report through this provider, or the global one."""
        self._taken: list[_Taken] = []
        self._observer: PoolObserver | None = None
        given = metrics.get_meter_provider() if provider is None else provider
        readers = _readers(given)
        if readers is None:
            self._observer = observe_pools(provider)
            return
        for reader in readers:
            if isinstance(reader._exporter, PoolExporter):
                continue  # whoever made it reports by it
            taken = _Taken(reader)
            self._taken.append(taken)
            self._observer = observe_pools(provider, taken.ours)

    def close(self) -> None:
        """Report nothing more, and put the exporters back."""
        if self._observer is not None:
            self._observer.close()
        for taken in self._taken:
            taken.give_back()
        self._observer, self._taken = None, []


class _Taken:
    """A reader whose exporter carries the metrics of the pools."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._theirs: MetricExporter = reader._exporter
        self._lock = reader._export_lock
        # The reader has taken its own preferences before: these are for pools alone.
        self.ours = PoolExporter(self._theirs, self._theirs._preferred_temporality or {}, {})
        reader._exporter = self.ours
        # A child forked during an export would find this lock held for ever. It is not needed:
        # exports take turns in our exporter, and that begins anew in a child.
        reader._export_lock = nullcontext()

    def give_back(self) -> None:
        """Put back what was there, unless somebody has put something else there."""
        if self._reader._exporter is self.ours:
            self._reader._export_lock = self._lock
            self._reader._exporter = self._theirs


def _readers(provider: MeterProvider) -> list[Any] | None:
    """Return all readers of a provider; None if there is one whose exporter cannot be taken."""
    if not isinstance(provider, SdkMeterProvider):
        logger.info("pools report through the API: the meter provider is none of the SDK's")
        return None
    try:
        readers: list[Any] = list(provider._measurement_consumer._reader_storages)
        for reader in readers:
            if not isinstance(reader, PeriodicExportingMetricReader):
                kind = type(reader).__name__
                logger.info("pools report through the API: there is no exporter in %s", kind)
                return None
            _ = reader._export_lock, reader._exporter._preferred_temporality
    except AttributeError as error:
        logger.warning(
            "pools report through the API, which costs more: OpenTelemetry SDK %s differs from "
            "what poolscope knows (%s). Use a newer poolscope, or tell us",
            sdk_version,
            where(error),
        )
        return None
    return readers
