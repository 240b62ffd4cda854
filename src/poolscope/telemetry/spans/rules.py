"""Which spans are made: by mode, by the caller's own trace, and by what is suppressed."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from opentelemetry import context as otel_context
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, set_span_in_context

from poolscope.faults import shown

Mode = Literal["all", "slow", "off"]

MODE_VARIABLE = "POOLSCOPE_SPANS"
THRESHOLD_VARIABLE = "POOLSCOPE_SLOW_THRESHOLD"
DEFAULT_THRESHOLD = 0.1
"""Seconds: the bound of the service level objective."""

# Where instrumentations keep that they are to be quiet. The API has no public name for it.
_SUPPRESSED = getattr(otel_context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation")


@dataclass(frozen=True, slots=True)
class SpanRules:
    """All spans, those that took `threshold` seconds or failed, or none."""

    mode: Mode
    threshold: float

    @property
    def least(self) -> float:
        """Return the seconds from which on a success is worth a span."""
        return self.threshold if self.mode == "slow" else 0.0


SILENCE = SpanRules("off", DEFAULT_THRESHOLD)


def make_rules(mode: str | None = None, threshold: float | None = None) -> SpanRules:
    """Return rules as given, or as `POOLSCOPE_SPANS` and `POOLSCOPE_SLOW_THRESHOLD` say.

    Raises:
        ValueError: there is no such mode, or the threshold is no number of seconds.
    """
    chosen = mode or os.environ.get(MODE_VARIABLE, "").strip().lower() or "all"
    if chosen not in get_args(Mode):
        known = ", ".join(get_args(Mode))
        raise ValueError(f"{MODE_VARIABLE}, or mode, must be one of {known}: got {shown(chosen)}")
    given = os.environ.get(THRESHOLD_VARIABLE, "").strip() if threshold is None else threshold
    try:
        seconds = DEFAULT_THRESHOLD if given == "" else float(given)
    except (TypeError, ValueError):
        seconds = math.nan
    if not seconds >= 0:
        what = f"{THRESHOLD_VARIABLE}, or threshold,"
        raise ValueError(f"{what} must be a number of seconds of at least 0: got {shown(given)}")
    return SpanRules(cast(Mode, chosen), seconds)


(SPAN_KEY,) = set_span_in_context(INVALID_SPAN, otel_context.Context())
"""Where a context keeps its span. To look there costs half of `get_current_span`."""


def is_traced(span: Any) -> bool:
    """Tell whether work under this span is to be traced.

    It is if the span records, or if it stands for a sampled one of another process.
    """
    if type(span) is NonRecordingSpan or not span.is_recording():
        context = span.get_span_context()
        if not (context.is_remote and context.trace_flags.sampled):
            return False
    return not otel_context.get_value(_SUPPRESSED)


def nanoseconds(seconds: float) -> int:
    """Return a duration as spans have it."""
    return int(seconds * 1e9)


def epoch(moment: float) -> int:
    """Return the time, in ns since 1970, of an event that has only just happened.

    Others may have heard of it before, and taken their time. A moment that cannot be of this
    process's monotonic clock is of a clock made for a test; then it is now.
    """
    late = time.monotonic() - moment
    return time.time_ns() - (nanoseconds(late) if 0 <= late < 1 else 0)
