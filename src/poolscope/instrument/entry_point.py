"""What `opentelemetry-instrument` finds, and calls: pools are observed with no change of code."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

from opentelemetry.instrumentation.environment_variables import (
    OTEL_PYTHON_DISABLED_INSTRUMENTATIONS,
)
from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]
    BaseInstrumentor,
)
from opentelemetry.metrics import MeterProvider, get_meter_provider
from opentelemetry.trace import TracerProvider, get_tracer_provider

from poolscope.faults import where
from poolscope.instrument import libraries, switch
from poolscope.instrument.exporting import Reporting
from poolscope.instrument.leaving import Leaving
from poolscope.telemetry.exporters import is_disabled
from poolscope.telemetry.otel_spans import trace_pools

logger = logging.getLogger("poolscope")


class PoolscopeInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Observe all pools there are and will be, and report their metrics and spans.

    `instrument()` does in code what `opentelemetry-instrument` does without: the pools of each
    library that is installed, and poolscope's own, are reported through the global providers, or
    through those given as `meter_provider` and `tracer_provider`.
    `OTEL_PYTHON_DISABLED_INSTRUMENTATIONS` leaves out libraries, as in `poolscope-redis`;
    `POOLSCOPE_SPANS` says which spans there are; with `OTEL_SDK_DISABLED` nothing is done.
    `uninstrument()` ends it, and puts back what was there. Nothing is raised: what cannot be done
    is logged. To be called from one thread.
    """

    _ends: ExitStack | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return nothing: each library is judged on its own."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        if is_disabled():
            return
        self._ends = ends = ExitStack()
        tracers, meters = kwargs.get("tracer_provider"), kwargs.get("meter_provider")
        _attempt(_report_spans, ends, tracers)
        _attempt(_report_metrics, ends, meters)
        _attempt(_send_when_leaving, ends, tracers, meters)
        _attempt(_observe, ends)

    def _uninstrument(self, **kwargs: Any) -> None:
        ends, self._ends = self._ends, None
        if ends is not None:
            _attempt(ends.close)


def _report_spans(ends: ExitStack, provider: TracerProvider | None) -> None:
    try:
        ends.callback(trace_pools(provider).close)
    except ValueError as error:  # its text says which variable is wrong, and nothing else
        logger.error("pools have no spans: %s", error)


def _report_metrics(ends: ExitStack, provider: MeterProvider | None) -> None:
    ends.callback(Reporting(provider).close)


def _send_when_leaving(
    ends: ExitStack, tracers: TracerProvider | None, meters: MeterProvider | None
) -> None:
    providers = tracers or get_tracer_provider(), meters or get_meter_provider()
    ends.callback(Leaving(providers).close)


def _observe(ends: ExitStack) -> None:
    words = os.environ.get(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS, "").split(",")
    disabled = {word.strip() for word in words}
    names = [name for name in libraries.installed() if f"poolscope-{name}" not in disabled]
    if names:  # for none would mean all
        ends.callback(switch.uninstrument, *names)
        switch.instrument(*names)


def _attempt(step: Callable[..., None], *arguments: Any) -> None:
    """Take a step. One that raised would take with it the instrumentations that come later."""
    try:
        step(*arguments)
    except Exception as error:
        logger.error(
            "pools are not reported in full, the service goes on. Please tell us: %s", where(error)
        )
