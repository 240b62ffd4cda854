"""What callers under a span do, and what became of it: the spans an exporter got, by name."""

import asyncio
import contextvars
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags

from tests.behaviour.bench import Bench

POOL = "db.client.connection.pool.name"
CONNECTION = "poolscope.connection.id"
SOURCE = "poolscope.acquire.source"
ATTEMPTS = "poolscope.acquire.attempts"
ATTEMPT = "poolscope.connect.attempt"
ERROR = "error.type"

SECRET = "hunter2"
URL = f"postgresql://user:{SECRET}@db.internal:6432/shop"

REMOTE_SAMPLED = NonRecordingSpan(
    SpanContext(1, 1, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
)
REMOTE_UNSAMPLED = NonRecordingSpan(SpanContext(1, 1, is_remote=True))


@contextmanager
def under(provider: TracerProvider, name: str = "request") -> Iterator[Span]:
    """Do something under a span of the application."""
    with provider.get_tracer("app").start_as_current_span(name) as span:
        assert isinstance(span, Span)
        yield span


def untraced() -> contextvars.Context:
    """The present context, without a span."""
    context = contextvars.copy_context()
    context.run(otel_context.attach, otel_context.Context())
    return context


async def queue(
    b: Bench,
    seconds: float = 0.0,
    timeout: float | None = None,
    context: contextvars.Context | None = None,
) -> "asyncio.Task[None]":
    """Return a task that waits for a connection, under the present span."""

    async def hold() -> None:
        async with b.pool.connection(timeout):
            await asyncio.sleep(seconds)

    task = asyncio.create_task(hold(), context=context)
    await asyncio.sleep(0)
    assert b.pool.stats().waiting
    return task


async def ended(*tasks: "asyncio.Task[None]") -> None:
    """Wait for tasks that may be cancelled, or fail."""
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await ended(task)


async def fails(action: Awaitable[object]) -> None:
    try:
        await action
    except Exception:
        return
    raise AssertionError("it did not fail")


def named(exporter: InMemorySpanExporter, *names: str) -> list[ReadableSpan]:
    """Return the spans of these names, in the order of their end."""
    return [span for span in exporter.get_finished_spans() if span.name in names]


def only(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (span,) = named(exporter, name)
    return span


def of_pools(exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    return named(exporter, "pool.acquire", "pool.use", "pool.connect")


def under_which(exporter: InMemorySpanExporter, name: str) -> dict[str, ReadableSpan]:
    """Return the spans of this name by the name of their parent."""
    names = {id_of(s): s.name for s in exporter.get_finished_spans()}
    spans = named(exporter, name)
    found = {names[s.parent.span_id]: s for s in spans if s.parent is not None}
    assert len(found) == len(spans), "two of one parent, or one without"
    return found


def facts(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def duration(span: ReadableSpan) -> float:
    start, end = times(span)
    return round((end - start) / 1e9, 6)


def error(span: ReadableSpan) -> str | None:
    """Return why it failed; see that the status agrees, and that no text is told."""
    why = facts(span).get(ERROR)
    assert type(why) is str or why is None
    failed = span.status.status_code is StatusCode.ERROR
    assert failed == (why is not None)
    assert span.status.description is None
    assert span.events == ()
    assert SECRET not in span.to_json()
    return why


def id_of(span: ReadableSpan) -> int:
    return span.context.span_id


def links(span: ReadableSpan) -> list[tuple[object, int]]:
    """Return why, and to which span, a span is linked."""
    return [
        ((link.attributes or {})["poolscope.link"], link.context.span_id) for link in span.links
    ]
