"""Log lines for what goes wrong in pools: failures, leaks, saturation and misuse.

A line is logfmt, `pool=orders event=acquire_timed_out wait=5.003 waiting=37`; times are in seconds.
The same fields are the dict `poolscope` of the LogRecord, for formatters that write JSON. Of an
exception only the type is told, and of a stack no source text: either may hold a secret. When a
subscriber fails, the bus itself logs it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from enum import Enum
from functools import partial
from logging import ERROR, INFO, WARNING
from operator import attrgetter
from typing import Any

from opentelemetry.trace import SpanContext, format_span_id, format_trace_id, get_current_span

from poolscope.bus import ROOT, Subscription
from poolscope.errors import PoolError
from poolscope.events import (
    AcquireFailed,
    AcquireTimedOut,
    CloseFailed,
    ConnectFailed,
    Event,
    LeakReclaimed,
    LeakReturned,
    LeakSuspected,
    MisuseDetected,
    PoolClosed,
    SaturationEnded,
    SaturationStarted,
)
from poolscope.faults import shown
from poolscope.reasons import ConnectFault, FailureReason
from poolscope.telemetry.otel_spans import span_context
from poolscope.telemetry.providers import PerProvider
from poolscope.telemetry.rate_limit import RateLimiter

PER_MINUTE = 6
"""Lines of one kind of event that a pool may log per minute, beside the first five."""

Fields = dict[str, str | int | float]

_logging: ContextVar[bool] = ContextVar("poolscope_logging", default=False)
"""Whether a line is being written, here or by the task that started this one."""


def log_pools(logger: logging.Logger | None = None, *, per_minute: int = PER_MINUTE) -> PoolLog:
    """Log failures, leaks, saturation and misuse of every pool, now and to come.

    The logger is `poolscope` by default. Of each kind of event a pool logs five lines at once, then
    `per_minute`; the next line says how many were `suppressed`. Asking again for the same
    logger returns the same object, opened, with the rate now given. Pools are heard on `bus.ROOT`.

    Raises:
        ValueError: `per_minute` is below 1.
    """
    if isinstance(per_minute, bool) or not isinstance(per_minute, int) or per_minute < 1:
        raise ValueError(
            f"per_minute must be a whole number of at least 1: got {shown(per_minute)}"
        )
    log = _logs.open(logger)
    log.per_minute = per_minute
    return log


class PoolLog:
    """What logs to one logger. Safe from any thread."""

    def __init__(self, logger: logging.Logger) -> None:
        """Log nothing before `open()`."""
        self._logger = logger
        self._limiter = RateLimiter()
        self._subscription: Subscription | None = None
        self.per_minute = PER_MINUTE
        """Lines of one kind of event that one pool may log per minute."""

    def open(self) -> None:
        """Log from now on, even if the bus has detached it because a log handler kept raising."""
        self._unsubscribe()
        self._subscription = ROOT.subscribe(self._hear, *_LINES, PoolClosed)

    def close(self) -> None:
        """Log nothing more. `log_pools` may open it again."""
        self._unsubscribe()
        self._limiter = RateLimiter()

    def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.unsubscribe()

    def _hear(self, event: Event) -> None:
        if isinstance(event, PoolClosed):
            self._limiter.forget(event.pool)
        elif not _logging.get() and not _is_by_choice(event):
            self._log(event)

    def _log(self, event: Event) -> None:
        level, describe = _LINES[type(event)]
        if not self._logger.isEnabledFor(level):
            return
        suppressed = self._limiter.admit(event, self.per_minute)
        if suppressed is None:
            return
        fields: Fields = {"pool": event.pool, "event": _name(event)}
        fields |= describe(event) | _trace(event)
        if suppressed:
            fields["suppressed"] = suppressed
        # What a log handler makes of a pool must not be logged in turn, and so on for ever.
        token = _logging.set(True)
        try:
            self._logger.log(level, logfmt(fields), extra={"poolscope": fields})
        finally:
            _logging.reset(token)


def logfmt(fields: Mapping[str, str | int | float]) -> str:
    """Return fields as one line; a value that could break out of it is quoted and escaped."""
    return " ".join(f"{key}={_text(value)}" for key, value in fields.items())


def _text(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    if text and text.isprintable() and not re.search(r'[\s"=\\]', text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


# What each line says


def _is_by_choice(event: Event) -> bool:
    """Tell whether somebody wanted what happened: a caller who gave up, a pool that closed."""
    if isinstance(event, AcquireFailed):
        return event.reason is FailureReason.CANCELLED
    return isinstance(event, ConnectFailed) and event.fault is ConnectFault.ABANDONED


def _name(event: Event) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()


def _pick(*names: str) -> Callable[[Any], Fields]:
    """Describe an event by some of its fields; what is None is left out."""
    readers = {name.rpartition(".")[2]: attrgetter(name) for name in names}

    def describe(event: Any) -> Fields:
        found = ((key, _word(read(event))) for key, read in readers.items())
        return {key: word for key, word in found if word is not None}

    return describe


def _word(value: Any) -> Any:
    """Return what may be told of a value, None for nothing."""
    if isinstance(value, PoolError):
        value = value.__cause__  # the reason says the same as the type of ours
    if isinstance(value, BaseException):
        return type(value).__name__
    return value.value if isinstance(value, Enum) else value


def _suspected(event: LeakSuspected) -> Fields:
    fields = _pick("connection_id", "use", "acquired_at")(event)
    frames = _FRAME.findall(event.stack)
    if frames:
        path, line, function = frames[-1]
        place = "/".join(path.replace("\\", "/").split("/")[-2:])
        fields["holder"] = f"{place}:{line} in {function}"
    return fields


_FRAME = re.compile(r'^  File "(.*)", line (\d+), in (.*)$', re.MULTILINE)
"""A frame of `LeakSuspected.stack`. Lines of source text are indented deeper."""

_LEVELS = ("stats.waiting", "stats.in_use", "stats.max_size", "stats.oldest_use")
_LINES: Mapping[type[Event], tuple[int, Callable[[Any], Fields]]] = {
    AcquireTimedOut: (WARNING, _pick("wait", *_LEVELS, "stats.oldest_use_at", "error")),
    AcquireFailed: (WARNING, _pick("wait", "reason", "error")),
    ConnectFailed: (ERROR, _pick("connection_id", "attempt", "create", "fault", "error")),
    CloseFailed: (WARNING, _pick("connection_id", "error")),
    LeakSuspected: (WARNING, _suspected),
    LeakReturned: (INFO, _pick("connection_id", "use")),
    LeakReclaimed: (WARNING, _pick("connection_id", "use", "reason", "acquired_at")),
    SaturationStarted: (WARNING, _pick("waiting")),
    SaturationEnded: (INFO, _pick("duration", "peak_waiting")),
    MisuseDetected: (WARNING, _pick("misuse", "detail")),
}


def _trace(event: Event) -> Fields:
    context = _span_context(event)
    if not context.is_valid:
        return {}
    return {
        "trace_id": format_trace_id(context.trace_id),
        "span_id": format_span_id(context.span_id),
    }


def _span_context(event: Event) -> SpanContext:
    """Return what leads to the holder's span, to the connect's, or else to the present one."""
    found = None
    if isinstance(event, LeakSuspected | LeakReturned | LeakReclaimed):
        found = span_context(event.pool, event.request_id)
    elif isinstance(event, ConnectFailed):
        found = span_context(event.pool, event.connection_id)
    return found if found is not None else get_current_span().get_span_context()


_logs: PerProvider[logging.Logger, PoolLog] = PerProvider(
    partial(logging.getLogger, "poolscope"), PoolLog
)
