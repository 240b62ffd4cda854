"""Which spans are made: all, slow ones and failures, or none; and how that is changed."""

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from poolscope import bus
from poolscope.telemetry.otel_spans import PoolTracer, trace_pools
from poolscope.testing import Ledger, run_virtual
from poolscope.testing.ledger import fail, slow
from tests.behaviour.bench import bench
from tests.telemetry.spans import (
    ATTEMPTS,
    cancelled,
    duration,
    ended,
    error,
    facts,
    fails,
    id_of,
    named,
    of_pools,
    queue,
    under,
    under_which,
)


@pytest.fixture(autouse=True)
def hears_nothing_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POOLSCOPE_SPANS", raising=False)
    monkeypatch.delenv("POOLSCOPE_SLOW_THRESHOLD", raising=False)


def listens() -> bool:
    return any(bus.ROOT.hooks.values())


async def have_quick_and_slow_ones(provider: TracerProvider) -> None:
    """Connects, waits and uses of 0.0625, 0.125 and 0.5 s, each under a span of that name."""
    ledger = Ledger()
    async with bench(ledger=ledger, max_size=1) as b:
        for seconds in (0.0625, 0.125, 0.5):
            ledger.script("open", [slow(seconds)])
            with under(provider, f"{seconds}"):
                await b.hold(seconds)
            await b.pool.drain()


def callers(exporter: InMemorySpanExporter) -> tuple[str, ...]:
    """Return under which spans those of the pool are; each has one of each kind."""
    connects, acquires, uses = (
        sorted(under_which(exporter, name)) for name in ("pool.connect", "pool.acquire", "pool.use")
    )
    assert connects == acquires == uses
    return tuple(uses)


ALL = ("0.0625", "0.125", "0.5")
SLOW = ("0.125", "0.5")
SLOWEST = ("0.5",)
NONE = ()


@pytest.mark.parametrize(
    ("mode", "threshold", "expected"),
    [
        (None, None, ALL),
        ("all", None, ALL),
        ("all", "0.5", ALL),
        ("slow", None, SLOW),
        ("slow", "0.5", SLOWEST),
        ("slow", "0", ALL),
        (" Slow ", " 0.5 ", SLOWEST),
        ("slow", "inf", NONE),
        ("off", None, NONE),
        ("", "", ALL),
        (" ", " ", ALL),
    ],
)
@pytest.mark.parametrize("how", ["by variables", "by arguments"])
def test_the_mode_says_which_spans_are_made(
    how: str,
    mode: str | None,
    threshold: str | None,
    expected: tuple[str, ...],
    provider: TracerProvider,
    exporter: InMemorySpanExporter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if how == "by variables":
        for variable, value in (("POOLSCOPE_SPANS", mode), ("POOLSCOPE_SLOW_THRESHOLD", threshold)):
            if value is not None:
                monkeypatch.setenv(variable, value)
        tracer = trace_pools(provider)
    else:
        seconds = float(threshold) if threshold and threshold.strip() else None
        tracer = trace_pools(
            provider, mode=(mode and mode.strip().lower()) or None, threshold=seconds
        )
    run_virtual(have_quick_and_slow_ones(provider))
    assert callers(exporter) == expected
    assert tracer.pending == 0
    tracer.close()


def test_slow_ones_have_true_times_though_they_are_made_afterwards(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    tracer = trace_pools(provider, mode="slow")
    run_virtual(have_quick_and_slow_ones(provider))
    tracer.close()
    assert callers(exporter) == SLOW
    for name in ("pool.connect", "pool.acquire", "pool.use"):
        for caller, span in under_which(exporter, name).items():
            assert duration(span) == float(caller)


def test_failures_are_told_of_however_quick_they_are(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    tracer = trace_pools(provider, mode="slow", threshold=60.0)

    async def main() -> None:
        ledger = Ledger()
        ledger.script("open", [fail()])
        async with bench(ledger=ledger, max_size=1, retry_limit=0) as b:
            with under(provider):
                await fails(b.pool.acquire())
                await b.hold(0)
                async with b.pool.connection():
                    await fails(b.pool.acquire(timeout=0.5))
                    await cancelled(await queue(b))
                lease = b.pool.connection()
                await lease.__aenter__()
                del lease
                await asyncio.sleep(0)
        assert tracer.pending == 0

    run_virtual(main())
    tracer.close()
    assert [(span.name, error(span)) for span in of_pools(exporter)] == [
        ("pool.connect", "refused"),
        ("pool.acquire", "connect_failed"),
        ("pool.acquire", "timeout"),
        ("pool.acquire", "cancelled"),
        ("pool.use", "leak"),
    ]
    assert facts(named(exporter, "pool.acquire")[0])[ATTEMPTS] == 1


def test_when_it_is_off_nothing_is_listened_to(provider: TracerProvider) -> None:
    assert not listens()
    tracer = trace_pools(provider, mode="off")
    assert not listens()
    assert trace_pools(provider) is tracer
    assert not listens()
    trace_pools(provider, mode="all")
    assert listens()
    trace_pools(provider, mode="off")
    assert not listens()


def test_asking_again_changes_the_mode_and_what_is_under_way_is_ended(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    tracer = trace_pools(provider)

    async def main() -> None:
        async with bench(min_size=2) as b:
            with under(provider):
                begun_in_all = await b.holder(1.0)
                assert trace_pools(provider, mode="slow", threshold=3.0) is tracer
                begun_in_slow = await b.holder(2.0)
                await begun_in_all
                assert trace_pools(provider, mode="all") is tracer
                await begun_in_slow
                assert tracer.pending == 0
                trace_pools(provider, mode="off")
                await b.hold(0)

    run_virtual(main())
    assert [duration(span) for span in named(exporter, "pool.use")] == [1.0, 2.0]
    assert len(named(exporter, "pool.acquire")) == 1


def test_asking_again_without_a_mode_changes_nothing(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    tracer = trace_pools(provider, mode="slow", threshold=0.5)
    assert trace_pools(provider) is tracer
    run_virtual(have_quick_and_slow_ones(provider))
    tracer.close()
    assert callers(exporter) == SLOWEST


def test_asking_again_with_a_threshold_changes_that_alone(
    provider: TracerProvider, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POOLSCOPE_SPANS", "slow")
    trace_pools(provider)
    tracer = trace_pools(provider, threshold=0.5)
    run_virtual(have_quick_and_slow_ones(provider))
    tracer.close()
    assert callers(exporter) == SLOWEST


@pytest.mark.parametrize(
    ("variable", "value", "arguments"),
    [
        ("POOLSCOPE_SPANS", "some", {"mode": "some"}),
        ("POOLSCOPE_SLOW_THRESHOLD", "soon", {"threshold": "soon"}),
        ("POOLSCOPE_SLOW_THRESHOLD", "-1", {"threshold": -1}),
        ("POOLSCOPE_SLOW_THRESHOLD", "nan", {"threshold": float("nan")}),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable_and_nothing_is_traced(
    variable: str,
    value: str,
    arguments: dict[str, str | float],
    provider: TracerProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match=f"{variable}.*got") as by_argument:
        trace_pools(provider, **arguments)  # type: ignore[arg-type]
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable) as by_variable:
        trace_pools(provider)
    assert not listens()
    if variable == "POOLSCOPE_SPANS":
        assert str(by_argument.value) == str(by_variable.value)
        assert "all, slow, off" in str(by_variable.value)


def test_what_is_given_in_words_goes_before_wrong_variables(
    provider: TracerProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POOLSCOPE_SPANS", "some")
    monkeypatch.setenv("POOLSCOPE_SLOW_THRESHOLD", "soon")
    tracer = trace_pools(provider, mode="slow", threshold=1.0)
    assert listens()
    tracer.close()


# Opened and closed


def test_a_closed_tracer_traces_nothing_and_keeps_nothing_until_it_is_asked_for_again(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    async def main() -> None:
        async with bench(max_size=2) as b:
            with under(provider):
                first = await b.holder(1.0)
                second, waiter = await b.holder(3.0), await queue(b, 9.0)
                assert tracer.pending == 3
                tracer.close()
                assert tracer.pending == 0
                assert not listens()
                await first
                assert trace_pools(provider) is tracer
                await ended(second, waiter)
                await b.hold(2.0)
            assert tracer.pending == 0

    run_virtual(main())
    assert [duration(span) for span in named(exporter, "pool.use")] == [2.0]
    assert len(named(exporter, "pool.acquire")) == 3  # and two before it was closed


def test_a_tracer_opened_while_requests_wait_tells_how_long_they_waited(
    provider: TracerProvider, exporter: InMemorySpanExporter
) -> None:
    opened: list[PoolTracer] = []

    async def main() -> None:
        async with bench(max_size=1) as b:
            holder = await b.holder(2.0)
            with under(provider) as parent:
                waiter = await queue(b)
                await asyncio.sleep(1.0)
                opened.append(trace_pools(provider))
                await asyncio.gather(holder, waiter)
            assert opened[0].pending == 0
            assert trace.get_current_span() is not parent

    run_virtual(main())
    opened[0].close()
    (acquire,) = named(exporter, "pool.acquire")
    assert duration(acquire) == 2.0
    (parent,) = named(exporter, "request")
    assert acquire.parent is not None
    assert acquire.parent.span_id == id_of(parent)
