"""Spans: how long a caller waited for a connection, how long it held it, what was opened for it.

Only under a traced parent: a wait that belongs to no trace explains nothing. Otherwise an acquire
costs one look at the current span, and nothing is kept.
"""

from __future__ import annotations

import os
import threading
import weakref

from opentelemetry import trace
from opentelemetry.trace import SpanContext, TracerProvider

from poolscope._version import __version__
from poolscope.bus import ROOT, Subscription
from poolscope.telemetry import catalog
from poolscope.telemetry.providers import PerProvider
from poolscope.telemetry.spans.maker import SpanMaker
from poolscope.telemetry.spans.rules import SILENCE, SpanRules, make_rules
from poolscope.telemetry.spans.taps import SpanTaps


def trace_pools(
    tracer_provider: TracerProvider | None = None,
    *,
    mode: str | None = None,
    threshold: float | None = None,
) -> PoolTracer:
    """Trace what callers of every pool, now and to come, wait for, hold, and have opened.

    By default with the global provider, even if the application sets it later. `mode` is `all`,
    `slow` (what took `threshold` seconds, or failed) or `off`; by default `POOLSCOPE_SPANS` and
    `POOLSCOPE_SLOW_THRESHOLD` say. Asking again for the same provider returns the same tracer,
    opened, with the mode now given. Pools are heard on `bus.ROOT`.

    Raises:
        ValueError: there is no such mode or threshold.
    """
    rules = make_rules(mode, threshold)
    tracer = _tracers.open(tracer_provider)
    if tracer.rules is None or mode is not None or threshold is not None:
        tracer.follow(rules)
    return tracer


def span_context(pool: str, about: int | str) -> SpanContext | None:
    """Return what leads to the span of a request, or of a connection being opened.

    While events of one are published it is the span just ended for it; otherwise that of the lease.
    """
    for tracer in _tracers.all():
        if (found := tracer.find(pool, about)) is not None:
            return found
    return None


class PoolTracer:
    """What traces with one tracer provider. Safe from any thread."""

    def __init__(self, provider: TracerProvider) -> None:
        """Get a tracer; nothing is traced before `follow()`."""
        self.rules: SpanRules | None = None
        """Those last given."""
        tracer = provider.get_tracer(catalog.SCOPE, __version__)
        self._taps = SpanTaps(SpanMaker(tracer, SILENCE))
        self._subscription: Subscription | None = None
        self._lock = threading.RLock()
        """Held while it is opened or closed."""
        _after_fork(weakref.ref(self))

    def open(self) -> None:
        """Trace what happens from now on, by the rules last given."""
        with self._lock:
            if (self.rules or SILENCE).mode == "off":
                self._close()
            elif self._subscription is None:
                self._taps.forget()  # what began while the tracer was being closed
                # Early, so that who records values finds the span they belong to.
                self._subscription = ROOT.tap(self._taps.taps(), early=True)

    def follow(self, rules: SpanRules) -> None:
        """Trace by these rules from now on."""
        self.rules = rules
        self._taps.maker = SpanMaker(self._taps.maker.tracer, rules)
        self.open()

    def close(self) -> None:
        """Trace nothing more; spans not yet ended are lost. `trace_pools` may open it again."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.unsubscribe()
        self._taps.forget()

    @property
    def pending(self) -> int:
        """Return how many waits, leases and connects under a traced caller have not ended."""
        return sum(spans.pending for spans in list(self._taps.pools.values()))

    def begin_in_child(self) -> None:
        """Let go, in a child process, of what the parent process will end."""
        self._lock = threading.RLock()
        self._taps.forget()

    def find(self, pool: str, about: int | str) -> SpanContext | None:
        """Return what leads to the span of a request or connect, None if it has none."""
        return self._taps.find(pool, about)


def _after_fork(tracer: weakref.ref[PoolTracer]) -> None:
    """Leave the open spans of a parent process to that process."""

    def begin_in_child() -> None:
        if (alive := tracer()) is not None:
            alive.begin_in_child()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=begin_in_child)


_tracers: PerProvider[TracerProvider, PoolTracer] = PerProvider(
    trace.get_tracer_provider, PoolTracer
)
