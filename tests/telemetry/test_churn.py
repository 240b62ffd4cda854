"""Pools that come and go leave nothing, with everything on that listens to them."""

import gc
import logging
import os
import threading
import tracemalloc
import weakref
from collections.abc import Iterator

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from poolscope import ConnectionPool, PoolTimeoutError
from poolscope.bus import ROOT
from poolscope.telemetry.logs import log_pools
from poolscope.telemetry.otel_spans import PoolTracer
from tests.support import run
from tests.telemetry.outbox import Road, road, series_now
from tests.telemetry.series import key, of_families, scrape
from tests.telemetry.spans import under
from tests.telemetry.traffic import Connection, expect, make_pool

POOLS = 10_000 if "CI" in os.environ else 2_000
WARM = POOLS // 5
"""After so many pools everything that is bounded is full."""
NOW_AND_THEN = 100
"""Pools between two looks at all metrics."""


class Watched:
    """Everything that listens to pools, and looks at them now and then."""

    def __init__(self, way: Road, spans: InMemorySpanExporter, lines: list[str]) -> None:
        self._way, self._spans, self._lines = way, spans, lines
        self.told = {"spans": 0, "lines": 0, "points": 0}

    def look(self, *, thoroughly: bool) -> None:
        """Export and scrape; also read everything that was exported."""
        data = self._way.get_metrics_data()
        assert data is not None
        if thoroughly:
            self.told["points"] += len(encode_metrics(data).SerializeToString())
            scrape()
        self._way.outbox.sent.clear()
        self._way.outbox.calls.clear()
        self.told["spans"] += len(self._spans.get_finished_spans())
        self.told["lines"] += len(self._lines)
        self._spans.clear()
        self._lines.clear()

    def assert_nothing_left(self) -> None:
        nothing = {key("poolscope_pools"): 0}
        assert of_families(scrape()) == series_now(self._way) == nothing


@pytest.fixture
def watched(tracer: PoolTracer, exporter: InMemorySpanExporter) -> Iterator[Watched]:
    # One that only this test knows: of all others pytest keeps what is logged.
    logger = logging.Logger("churn")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]
    logger.addHandler(handler)
    log = log_pools(logger)
    with road() as way, ROOT.buffered(id, 100):
        yield Watched(way, exporter, lines)
    log.close()


async def use_once(number: int) -> weakref.ref[ConnectionPool[Connection]]:
    """Open a pool, use it well and badly, and close it."""
    pool = make_pool(f"job-{number}")
    async with pool, pool.connection():
        await expect(PoolTimeoutError, pool)
    return weakref.ref(pool)


@pytest.mark.timeout(240)  # with CI set it takes half a minute on a machine that does nothing else
def test_thousands_of_pools_leave_no_memory_no_series_no_task_and_no_thread(
    watched: Watched, provider: TracerProvider
) -> None:
    async def live_and_die(numbers: range) -> None:
        for number in numbers:
            with under(provider):
                assert (await use_once(number))() is None
            if number % NOW_AND_THEN == 0:
                watched.look(thoroughly=number % (5 * NOW_AND_THEN) == 0)

    def measured() -> int:
        watched.look(thoroughly=True)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async def main() -> int:
        await live_and_die(range(WARM))
        tracemalloc.start()
        try:
            await live_and_die(range(WARM, 2 * WARM))
            before, threads = measured(), threading.active_count()
            await live_and_die(range(2 * WARM, POOLS))
            assert threading.active_count() == threads
            return measured() - before
        finally:
            tracemalloc.stop()

    gc.disable()  # what it would have to collect counts as lost
    try:
        growth = run(main())
    finally:
        gc.enable()
    print(growth, watched.told)
    buffers = [thread for thread in threading.enumerate() if thread.name == "poolscope-buffer"]
    assert threading.active_count() == 1 + len(buffers) == 2
    watched.assert_nothing_left()
