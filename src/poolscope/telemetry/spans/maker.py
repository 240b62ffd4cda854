"""How spans are made: with true times, at once or afterwards, as the rules say.

A span of an acquire is made when its outcome is known: until then there is nothing to say about
it, and most acquires are over before a span could be started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, StatusCode, Tracer

from poolscope.telemetry import catalog
from poolscope.telemetry.spans.pool import Attributes, Work
from poolscope.telemetry.spans.rules import SpanRules, nanoseconds


@dataclass(frozen=True, slots=True)
class SpanMaker:
    """Makes spans with true times; `rules` say which."""

    tracer: Tracer
    rules: SpanRules

    def begin(
        self, name: str, work: Work, attributes: Attributes, kind: SpanKind = SpanKind.INTERNAL
    ) -> None:
        """Start the span of some work, unless only slow ones are wanted."""
        if self.rules.mode == "all":
            work.span = self._start(name, work.context, work.start, attributes, kind)

    def finish(
        self,
        name: str,
        work: Work,
        seconds: float,
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        error: str | None = None,
    ) -> SpanContext | None:
        """End the span of some work; make it now if it was slow, or failed."""
        if work.span is None and (error is not None or seconds >= self.rules.least):
            work.span = self._start(name, work.context, work.start, attributes, kind)
        if work.span is None:
            return None
        return _end(work.span, work.start + nanoseconds(seconds), error)

    def make(
        self,
        name: str,
        context: Context,
        end: int,
        seconds: float,
        attributes: Attributes,
        links: Sequence[Link],
        error: str | None = None,
    ) -> SpanContext | None:
        """Make the span of what is over, if it is worth one."""
        if error is None and seconds < self.rules.least:
            return None
        kind = SpanKind.INTERNAL
        span = self._start(name, context, end - nanoseconds(seconds), attributes, kind, links)
        return _end(span, end, error)

    def _start(
        self,
        name: str,
        context: Context,
        start: int,
        attributes: Mapping[str, str | int],
        kind: SpanKind,
        links: Sequence[Link] = (),
    ) -> Span:
        return self.tracer.start_span(name, context, kind, attributes, links, start)


def _end(span: Span, end: int, error: str | None) -> SpanContext | None:
    """End a span, with its reason alone: the text of an exception may hold a secret.

    Return what leads to it, if it leads anywhere.
    """
    if error is not None:
        span.set_attribute(catalog.ERROR_TYPE, error)
        span.set_status(StatusCode.ERROR)
    span.end(end)
    context = span.get_span_context()
    return context if context.trace_flags.sampled else None
