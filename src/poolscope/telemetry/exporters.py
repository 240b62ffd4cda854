"""The exporters that the standard `OTEL_*` variables ask for, made anew in a forked child."""

from __future__ import annotations

import importlib
import os
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    MetricExportResult,
    MetricsData,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter, SpanExportResult

from poolscope.faults import shown
from poolscope.telemetry.otel_export import temporality_preference

_PACKAGES = {"grpc": "grpc", "http/protobuf": "http"}
_KINDS = ("otlp", "console", "none")

MOST_POINTS = 5000
"""Data points in one message, at most: receivers take no more than 4 MiB by default."""

E = TypeVar("E", MetricExporter, SpanExporter)


def make_metric_exporter() -> RenewedMetricExporter | None:
    """Return the exporter of metrics, None if there is to be none.

    Raises:
        ValueError: a variable has a value that is not known.
    """
    make = _maker("METRICS", "metric_exporter", "OTLPMetricExporter", ConsoleMetricExporter)
    if make is None:
        return None
    options: dict[str, Any] = {"preferred_temporality": temporality_preference()}
    if make is not ConsoleMetricExporter:
        options["max_export_batch_size"] = MOST_POINTS
    return RenewedMetricExporter(partial(make, **options))


def make_span_exporter() -> RenewedSpanExporter | None:
    """Return the exporter of spans, None if there is to be none.

    Raises:
        ValueError: a variable has a value that is not known.
    """
    make = _maker("TRACES", "trace_exporter", "OTLPSpanExporter", ConsoleSpanExporter)
    return None if make is None else RenewedSpanExporter(make)


def is_disabled() -> bool:
    """Tell whether `OTEL_SDK_DISABLED` says that nothing is to be done."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _maker(
    signal: str, module: str, name: str, console: Callable[..., Any]
) -> Callable[..., Any] | None:
    variable = f"OTEL_{signal}_EXPORTER"
    kind = os.environ.get(variable, "").strip().lower() or "otlp"
    if kind not in _KINDS:
        raise ValueError(f"{variable} must be one of {', '.join(_KINDS)}: got {shown(kind)}")
    if kind == "none":
        return None
    return console if kind == "console" else _otlp(signal, module, name)


def _otlp(signal: str, module: str, name: str) -> Callable[..., Any]:
    """Return the class of an OTLP exporter; it reads the rest from the environment itself."""
    own, common = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
    # The SDK's own default, used by `opentelemetry-instrument`, is grpc as well.
    protocol = (os.environ.get(own) or os.environ.get(common) or "grpc").strip()
    if protocol not in _PACKAGES:
        known = " or ".join(_PACKAGES)
        raise ValueError(f"{own} or {common} must be {known}: got {shown(protocol)}")
    package = f"opentelemetry.exporter.otlp.proto.{_PACKAGES[protocol]}"
    return getattr(importlib.import_module(f"{package}.{module}"), name)  # type: ignore[no-any-return]


class _Renewed(Generic[E]):
    """Hold an exporter; in a forked child make another, for its connections are the parent's."""

    def __init__(self, make: Callable[[], E]) -> None:
        self._make: Callable[[], E] = make
        self._made: dict[int, E] = {os.getpid(): make()}
        """By process. The parent's stays here: to drop it would be to close its connections."""

    def get(self) -> E:
        """Return this process's own."""
        exporter = self._made.get(os.getpid())
        if exporter is None:
            exporter = self._made.setdefault(os.getpid(), self._make())
        return exporter


class RenewedMetricExporter(MetricExporter):
    """Send metrics with an exporter of this very process."""

    def __init__(self, make: Callable[[], MetricExporter]) -> None:
        """Make the first one."""
        super().__init__(temporality_preference())
        self._exporters: _Renewed[MetricExporter] = _Renewed(make)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Send."""
        return self._exporters.get().export(metrics_data, timeout_millis, **kwargs)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Send what waits."""
        return self._exporters.get().force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """End."""
        self._exporters.get().shutdown(timeout_millis, **kwargs)


class RenewedSpanExporter(SpanExporter):
    """Send spans with an exporter of this very process, and count those that were lost."""

    def __init__(self, make: Callable[[], SpanExporter]) -> None:
        """Make the first one."""
        self._exporters: _Renewed[SpanExporter] = _Renewed(make)
        self.forget()
        _span_exporters.add(self)

    def forget(self) -> None:
        """Count from zero, as a forked child does."""
        self.sent = 0
        """Spans that the endpoint took."""
        self.lost = 0
        """Spans that it did not take, or not say so."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send."""
        result = SpanExportResult.FAILURE
        try:
            result = self._exporters.get().export(spans)
        finally:
            if result is SpanExportResult.SUCCESS:
                self.sent += len(spans)
            else:
                self.lost += len(spans)
        return result

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what waits."""
        return self._exporters.get().force_flush(timeout_millis)

    def shutdown(self) -> None:
        """End."""
        self._exporters.get().shutdown()


_span_exporters: weakref.WeakSet[RenewedSpanExporter] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for exporter in list(_span_exporters):
        exporter.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
