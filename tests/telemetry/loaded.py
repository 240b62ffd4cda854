"""A program whose pools are under load while its telemetry goes out. See test_endpoint_faults.

It prints what became of its requests as a line of JSON; then, told by a line on its input that the
endpoint is well again, it sends what is left and prints a second one.
"""

import asyncio
import gc
import hashlib
import json
import random
import sys
import time
import tracemalloc
from collections import Counter
from itertools import count
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.errors import PoolError
from poolscope.telemetry.setup import Telemetry, setup_telemetry
from poolscope.testing import Ledger, clock, run_virtual
from poolscope.testing.ledger import Behaviour, fail, slow

ROUNDS, CALLERS, TURNS = 3, 20, 15
WAITS = (0.0, 0.01, 0.02, 0.05)


class Counting(SpanProcessor):
    """Counts the spans that end."""

    def __init__(self) -> None:
        self.ended = 0
        self._numbers = count(1)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended = next(self._numbers)


class Load:
    """Callers of a small pool, with everything drawn from one seed, in virtual time."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.outcomes = hashlib.sha256()
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        ledger = Ledger()
        ledger.script("open", [self._connect() for _ in range(200)])
        # Nothing that draws from the module `random`, as the SDK does for the ids of spans.
        settings = ConnectionPoolSettings(
            name="orders", min_size=0, max_size=3, max_waiting=12, retry_limit=0, retry_delay=0,
            lifetime_jitter=0, max_lifetime=0.5,
        )  # fmt: skip
        pool = ConnectionPool(ledger.open, settings, close_func=ledger.close, clock=clock)
        async with pool, asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(self._caller(number, pool))

    def _connect(self) -> Behaviour:
        return fail() if self.random.random() < 0.1 else slow(0.01)

    async def _caller(self, number: int, pool: ConnectionPool[Any]) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(self.random.choice(WAITS))
            with trace.get_tracer("app").start_as_current_span("request"):
                kind = await self._ask(pool)
            self.outcomes.update(f"{number} {kind} {clock()}".encode())

    async def _ask(self, pool: ConnectionPool[Any]) -> str:
        try:
            async with (
                asyncio.timeout(self.random.choice([None, 0.04])),
                pool.connection(self.random.choice([0.0, 0.05, 1.0])) as connection,
            ):
                await asyncio.sleep(self.random.choice(WAITS))
                self.counts["acquired"] += 1
                return f"connection {connection.serial}"
        except (PoolError, TimeoutError) as error:
            self.counts[type(error).__name__] += 1
            return type(error).__name__


async def paced(seconds: float) -> tuple[float, int]:
    """Use a busy pool in real time; return the p99 of waiting, and how many requests it had."""
    settings = ConnectionPoolSettings(name="paced", max_size=4)
    async with ConnectionPool(object, settings) as pool:

        async def caller() -> None:
            while time.monotonic() < end:
                with trace.get_tracer("app").start_as_current_span("request"):
                    async with pool.connection():
                        await asyncio.sleep(0.005)

        end = time.monotonic() + seconds
        await asyncio.gather(*(caller() for _ in range(12)))
        metrics = pool.get_metrics()
        return metrics.wait.quantile(0.99), metrics.connection_requests


def losses(telemetry: Telemetry | None) -> dict[str, int]:
    if telemetry is None:
        return {}
    assert telemetry.exporter is not None
    assert telemetry.span_exporter is not None
    return {
        "ended": counting.ended,
        "sent": telemetry.span_exporter.sent,
        "lost": telemetry.span_exporter.lost,
        "exports": telemetry.exporter.exports,
        "failed": telemetry.exporter.failed,
    }


def timed(call: Any, timeout: float) -> tuple[bool, float]:
    began = time.monotonic()
    return call(timeout), time.monotonic() - began


def report(**numbers: Any) -> None:
    print(json.dumps(numbers), flush=True)


def load(telemetry: Telemetry | None) -> None:
    """Report what the callers saw, what it cost, and whether a flush kept its deadline."""
    virtual, memory = Load(seed=4), []
    tracemalloc.start(1)
    for _ in range(ROUNDS):
        run_virtual(virtual.run())
        gc.collect()
        memory.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    windows = [asyncio.run(paced(0.15)) for _ in range(3)]
    report(
        outcomes=virtual.outcomes.hexdigest(),
        counts=virtual.counts,
        memory=memory,
        # Of the calmest window: the machine may have other work, but the endpoint is always there.
        p99=min(p99 for p99, _ in windows),
        requests=ROUNDS * CALLERS * TURNS + sum(requests for _, requests in windows),
        flushed=timed(telemetry.force_flush, 0.3) if telemetry is not None else None,
        **losses(telemetry),
    )


def recover(telemetry: Telemetry) -> None:
    """Wait until the endpoint is well; send what is left, and report it."""
    sys.stdin.readline()
    # What was under way while it recovered may still fail.
    flushed = any(telemetry.force_flush(10) for _ in range(3))
    report(flushed=flushed, **losses(telemetry))


def main() -> None:
    if "off" in sys.argv:
        return load(None)
    telemetry = setup_telemetry("shop")
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    provider.add_span_processor(counting)
    load(telemetry)
    recover(telemetry)


if __name__ == "__main__":
    counting = Counting()
    main()
