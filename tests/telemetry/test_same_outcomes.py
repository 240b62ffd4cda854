"""One seed, one sequence of outcomes: whoever listens changes nothing the pool does (law I13)."""

import dataclasses
import logging
import math
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from itertools import count

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from poolscope.bus import ROOT, Subscription
from poolscope.events import EVENT_TYPES, ConnectionRequested, Event, SubscriberFailed
from poolscope.stats import PoolStats
from poolscope.telemetry.logs import log_pools
from poolscope.telemetry.otel_export import PoolExporter
from poolscope.telemetry.otel_metrics import observe_pools
from poolscope.telemetry.otel_spans import trace_pools
from tests.behaviour.test_random_load import weather
from tests.telemetry.outbox import Outbox

SEEDS = range(8)


def story(seed: int) -> list[tuple[object, ...]]:
    """Let a storm pass; return all that happened, in words that do not depend on who listens.

    A subscriber that fails is an event of its own, so sequence numbers are left out, and requests
    are numbered in the order they came.
    """
    storm = weather(seed)
    ranks: dict[int, int] = {}
    events = [event for event in storm.replay.events if not isinstance(event, SubscriberFailed)]
    told = [(type(event).__name__, *_words(event, ranks)) for event in events]
    return [*told, *sorted(storm.heard.items())]


def _words(event: Event, ranks: dict[int, int]) -> Iterator[object]:
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        if field.name == "sequence":
            if isinstance(event, ConnectionRequested):
                yield ranks.setdefault(value, len(ranks))
        elif field.name == "request_id":
            yield ranks.get(value)
        elif isinstance(value, PoolStats):
            yield dataclasses.replace(value, sequence=0)
        elif field.name != "stack":  # which names the task, by a number of this process
            yield type(value) if isinstance(value, BaseException) else value


@cache
def untold(seed: int) -> list[tuple[object, ...]]:
    """The story when nobody listens but the storm itself."""
    return story(seed)


class OwnDice(RandomIdGenerator):
    """Ids from dice of their own: the pool throws the common ones, for jitter."""

    def __init__(self) -> None:
        self._random = random.Random(1)

    def generate_span_id(self) -> int:
        return self._random.getrandbits(64)

    def generate_trace_id(self) -> int:
        return self._random.getrandbits(128)


@contextmanager
def telemetry(*, by_exporter: bool) -> Iterator[None]:
    """Metrics, spans and logs; a collection and a log line may come in the middle of anything."""
    outbox, spans = Outbox(), InMemorySpanExporter()
    exporter = PoolExporter(outbox) if by_exporter else None
    reader = PeriodicExportingMetricReader(exporter or outbox, math.inf)
    meters = MeterProvider([reader], shutdown_on_exit=False)
    tracers = TracerProvider(id_generator=OwnDice(), shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.Logger("storm")
    logger.addHandler(handler)
    numbers = count()

    def collect_now_and_then(_: Event) -> None:
        if next(numbers) % 100 == 0:
            meters.force_flush()

    parts = [observe_pools(meters, exporter), trace_pools(tracers), log_pools(logger)]
    with (
        ROOT.subscribe(collect_now_and_then),
        tracers.get_tracer("app").start_as_current_span("storm"),
    ):
        yield
    for part in parts:
        part.close()
    meters.shutdown()
    tracers.shutdown()
    assert len(outbox.sent) > 3
    assert len(spans.get_finished_spans()) > 30
    assert len(lines) > 3


@contextmanager
def raising() -> Iterator[None]:
    """Somebody who raises on every event, and comes back whenever detached for that."""
    calls: list[Event] = []

    def broken(event: Event) -> None:
        calls.append(event)
        raise ValueError

    def come_back(event: SubscriberFailed) -> None:
        if event.detached:
            present.append(ROOT.subscribe(broken, *kinds))

    kinds = [kind for kind in EVENT_TYPES if kind is not SubscriberFailed]
    present: list[Subscription] = [
        ROOT.subscribe(broken, *kinds),
        ROOT.subscribe(come_back, SubscriberFailed),
    ]
    try:
        yield
    finally:
        for subscription in present:
            subscription.unsubscribe()
    assert len(calls) > 100


@contextmanager
def hanging() -> Iterator[None]:
    """A sink that hangs with the first event, though not for ever."""
    gate = threading.Event()
    subscription = ROOT.buffered(lambda _: gate.wait(60), 10)
    try:
        yield
    finally:
        gate.set()
        subscription.unsubscribe()
    assert subscription.dropped > 100


LISTENERS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "exporter": lambda: telemetry(by_exporter=True),
    "api": lambda: telemetry(by_exporter=False),
    "raising": raising,
    "hanging": hanging,
}


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_listens_the_same_happens(
    seed: int, listener: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = untold(seed)
    with LISTENERS[listener]():
        heard = story(seed)
    assert heard == expected
    caplog.clear()


def test_other_seeds_tell_other_stories() -> None:
    assert untold(0) != untold(1)
