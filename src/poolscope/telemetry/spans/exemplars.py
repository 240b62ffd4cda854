"""Exemplars: what leads from a bucket of a histogram to a span."""

from __future__ import annotations

from opentelemetry.trace import SpanContext

from poolscope import registry
from poolscope.histogram import Exemplar, Histogram
from poolscope.reasons import ConnectFault, FailureReason
from poolscope.telemetry import readings
from poolscope.telemetry.catalog import Metric


def exemplify(
    pool: str,
    metric: Metric,
    reason: FailureReason | ConnectFault | None,
    seconds: float,
    end: int,
    span: SpanContext | None,
) -> None:
    """Let the bucket of a value that was just counted lead to a span, if that was sampled."""
    source = registry.find(pool)
    if span is None or source is None:
        return
    well, failed = readings.durations(metric, source.metrics)
    histogram: Histogram | None = well if reason is None else failed.get(reason)
    if histogram is not None:
        histogram.exemplify(Exemplar(seconds, end, span.trace_id, span.span_id))
