"""OpenTelemetry metrics of all pools, added to what an exporter of the application sends.

What is counted anyway is handed over as finished data points: no call per acquire, no observation
per point (docs/adr/0008). Where an exporter cannot be wrapped, `otel_metrics` does without.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from dataclasses import replace
from typing import Any

from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION,
    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE,
)
from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.view import Aggregation, ExponentialBucketHistogramAggregation
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from poolscope._version import __version__
from poolscope.faults import where
from poolscope.telemetry import catalog
from poolscope.telemetry.export.baseline import Baseline
from poolscope.telemetry.export.closed import ClosedPools
from poolscope.telemetry.export.points import metrics_of
from poolscope.telemetry.export.samples import Sample, take_all

logger = logging.getLogger("poolscope")


def temporality_preference() -> dict[type, AggregationTemporality]:
    """Return what `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE` says.

    It is read as by the OTLP exporters: `delta`, `lowmemory`, or else `cumulative`.
    """
    word = os.environ.get(OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE, "").strip().lower()
    cumulative, delta = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
    pushed = delta if word in ("delta", "lowmemory") else cumulative
    return {
        Counter: pushed,
        UpDownCounter: cumulative,
        Histogram: pushed,
        ObservableCounter: delta if word == "delta" else cumulative,
        ObservableUpDownCounter: cumulative,
        ObservableGauge: cumulative,
    }


def aggregation_preference() -> dict[type, Aggregation]:
    """Return what `OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION` says."""
    word = os.environ.get(OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION, "").strip()
    exponential = word.lower() == "base2_exponential_bucket_histogram"
    return {Histogram: ExponentialBucketHistogramAggregation()} if exponential else {}


class PoolExporter(MetricExporter):
    """Send what another exporter is to send, and with it the metrics of all pools.

    It does so from `observe_pools(provider, exporter)` on, and until that observer is closed;
    otherwise it passes on what it gets. A reader takes both preferences from it, which are for the
    instruments of the application too; by default they are what the `OTEL_*` variables say. Pools
    have histograms of explicit buckets in any case.

    A pool that closed since the last export is sent once more, with its levels at 0. Deltas count
    from the last export that succeeded. So one that failed loses nothing; where the endpoint had
    taken it all the same, as when only its answer was too late, its deltas are sent twice.

    Safe from any thread; exports go one at a time. A forked child counts from zero.

    Args:
        exporter: sends; it gets what is left of each deadline.
        preferred_temporality: by class of instrument.
        preferred_aggregation: by class of instrument.
    """

    def __init__(
        self,
        exporter: MetricExporter,
        preferred_temporality: dict[type, AggregationTemporality] | None = None,
        preferred_aggregation: dict[type, Aggregation] | None = None,
    ) -> None:
        """Wrap an exporter; nothing is added before `open()`."""
        if preferred_temporality is None:
            preferred_temporality = temporality_preference()
        if preferred_aggregation is None:
            preferred_aggregation = aggregation_preference()
        super().__init__(preferred_temporality, preferred_aggregation)
        self._exporter = exporter
        self._temporality = preferred_temporality
        self._shown = self._ended = False
        self._closed = ClosedPools()
        self._baseline = Baseline()
        self.forget()
        _exporters.add(self)

    def forget(self) -> None:
        """Begin with nothing sent, as a forked child does."""
        self._exporting, self._counting = threading.Lock(), threading.Lock()
        self._closed.forget()
        self._baseline.forget()
        self.exports = 0
        """Exports that were tried."""
        self.failed = 0
        """Those that did not succeed."""

    @property
    def lost(self) -> int:
        """Return how many closed pools were not sent, because too many closed meanwhile."""
        return self._closed.lost

    def open(self) -> None:
        """Add the metrics of the pools from now on; without effect after `shutdown`."""
        if not self._ended:
            self._closed.open()
            self._shown = True

    def close(self) -> None:
        """Pass on what comes, and add nothing. It may be opened again."""
        self._shown = False
        self._closed.close()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Send the metrics of the reader, and of the pools. Raises what the exporter raises."""
        result = MetricExportResult.FAILURE
        try:
            result = self._export_in_turn(metrics_data, timeout_millis, kwargs)
        finally:
            with self._counting:
                self.exports += 1
                self.failed += result is not MetricExportResult.SUCCESS
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Have the exporter send what it keeps; False when that did not succeed."""
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """End, and end the exporter. May be called again."""
        with self._counting:
            ended, self._ended = self._ended, True
        self.close()
        if not ended:
            # The SDK's reader names its deadline so, which exporters would not see.
            limit = kwargs.pop("timeout", timeout_millis)
            self._exporter.shutdown(max(0, limit), **kwargs)

    def _export_in_turn(
        self, data: MetricsData, timeout_millis: float, options: dict[str, Any]
    ) -> MetricExportResult:
        deadline = time.monotonic() + timeout_millis / 1000
        turn = self._exporting
        if not turn.acquire(timeout=min(max(0.0, timeout_millis / 1000), threading.TIMEOUT_MAX)):
            return MetricExportResult.FAILURE
        try:
            adds = self._shown and len(data.resource_metrics) > 0
            closed, samples, metrics = self._collect() if adds else ([], [], [])
            if metrics:
                data = _merged(data, metrics)
            left = max(0.0, deadline - time.monotonic()) * 1000
            result = self._exporter.export(data, timeout_millis=left, **options)
            if adds and result is MetricExportResult.SUCCESS:
                self._closed.sent(closed)
                self._baseline.advance(samples, self._closed.waiting)
            return result
        finally:
            turn.release()

    def _collect(self) -> tuple[list[Sample], list[Sample], list[Metric]]:
        """Return the last samples of pools that closed, all samples to be sent, and their metrics.

        Those of one name are in order of time, also when it was given again a moment ago.
        """
        before, samples = set(self._closed.waiting()), list[Sample]()
        try:
            live = {(sample.name, sample.start): sample for sample in take_all(time.time_ns())}
            closed = self._closed.caught_up()
            for sample in closed:
                if sample in before and (sample.name, sample.start) in live:
                    continue  # it has begun again: the present sample includes the last one
                live.pop((sample.name, sample.start), None)
                samples.append(sample)
            samples += live.values()
            changes = self._baseline.compare(samples)
            return closed, samples, metrics_of(changes, self._temporality)
        except Exception as error:  # what the application itself reports must go out
            logger.debug("the metrics of the pools could not be read: %s", where(error))
            return [], [], []


def _merged(data: MetricsData, metrics: list[Metric]) -> MetricsData:
    """Return what the reader gave with our metrics in our scope, which the SDK has made for us."""
    ours = {metric.name for metric in metrics}
    resource, *others = data.resource_metrics
    scopes = list(resource.scope_metrics)
    for index, scope in enumerate(scopes):
        if scope.scope.name == catalog.SCOPE:
            # Of a time when they were recorded by the other road there may be some left.
            kept = [metric for metric in scope.metrics if metric.name not in ours]
            scopes[index] = replace(scope, metrics=[*kept, *metrics])
            break
    else:
        scopes.append(ScopeMetrics(InstrumentationScope(catalog.SCOPE, __version__), metrics, ""))
    return MetricsData([replace(resource, scope_metrics=scopes), *others])


_exporters: weakref.WeakSet[PoolExporter] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for exporter in list(_exporters):
        exporter.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
