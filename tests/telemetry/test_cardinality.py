"""Whatever a program does, the number of series is bounded, and no count is lost or goes down."""

import gc
import inspect
import itertools
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    rule,
    run_state_machine_as_test,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View

from poolscope import ConnectFailedError, ConnectionPool, ConnectionPoolSettings, EventBus, bus
from poolscope import registry as pools
from poolscope.events import ConnectionReleased, PoolClosed
from poolscope.histogram import Histogram
from poolscope.reasons import CloseReason, ConnectFault, FailureReason
from poolscope.stats import PoolState, PoolStats
from poolscope.telemetry import catalog, readings
from poolscope.telemetry.otel_export import temporality_preference
from poolscope.telemetry.otel_metrics import observe_pools
from poolscope.telemetry.prometheus import PoolCollector
from tests.support import run
from tests.telemetry.outbox import Road, metrics_of, road, series_now, summed
from tests.telemetry.series import Series, collected, key, of_families, of_otel
from tests.telemetry.traffic import FakeSource, expect

pytestmark = pytest.mark.timeout(180)  # with CI set some take longer than others may

POOL = "db_client_connection_pool_name"
OVERFLOW = "otel_metric_overflow"
MANY = 100_000
FEWER = MANY if "CI" in os.environ else 10_000
MOST = catalog.MOST_POOLS
STATE = "db_client_connection_state"
LEAKS = "poolscope_connection_leaks"
USE_TIME = "db_client_connection_use_time_seconds"
PER_POOL = 95
"""Series of a pool in Prometheus, buckets included, before anything went wrong."""


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    """The sum of the pools beyond the limit lasts as long as the process; other tests have none."""
    readings.forget()
    yield
    readings.forget()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let only so many pools have series of their own."""
    monkeypatch.setattr(pools, "MOST_POOLS", 2)
    return 2


# Errors


def distinct_error(number: int) -> Exception:
    base = (TimeoutError, ConnectionRefusedError, OSError, ValueError)[number % 4]
    name = f"Auth{number}" if number % 8 == 3 else f"Error{number}"
    return type(name, (base,), {})(f"text {number} of secret-{number}")


def test_a_hundred_thousand_errors_make_as_many_series_as_one_of_each_kind(
    reader: InMemoryMetricReader,
) -> None:
    numbers = iter(range(FEWER))

    def connect() -> None:
        raise distinct_error(next(numbers))

    def now(way: Road) -> list[set[object]]:
        return [{*scraped()}, {*series_now(way)}, {*of_otel(reader)}]

    async def main() -> None:
        settings = ConnectionPoolSettings(min_size=0, retry_limit=0, retry_delay=0, name="orders")
        with road() as way:
            async with ConnectionPool(connect, settings) as pool:
                for _ in range(8):
                    await expect(ConnectFailedError, pool)
                before = now(way)
                for _ in range(FEWER - 8):
                    await expect(ConnectFailedError, pool)
                assert now(way) == before
                assert sum(pool.get_metrics().connect_faults.values()) == FEWER

    run(main())


# Pools


class Uncounted:
    """The counts of a pool that does nothing but leak."""

    start_time = 1.7e9
    failures = connect_faults = closed = failed_wait = failed_create = MappingProxyType({})
    wait = create = Histogram(catalog.WAIT_BUCKETS)
    use = Histogram(catalog.USE_BUCKETS)

    def __init__(self, leaks: int) -> None:
        self.leaks = leaks


class Tiny:
    """A pool so small that a hundred thousand of them are no trouble."""

    __slots__ = ("__weakref__", "metrics", "name", "state")

    bus = EventBus()
    target = None
    omits = frozenset[str]()

    def __init__(self, name: str, leaks: int = 0) -> None:
        self.name = name
        self.metrics = Uncounted(leaks)
        self.state: PoolState = "open"
        pools.register(self)

    def stats(self) -> PoolStats:
        return PoolStats(
            self.name, 0.0, 0, self.state, 0, 10, 5, 1, 2, 0, 0, 3, 0, 0.0, 0.0, None, 0, 2, 0.0,
            1.5, 10.0,
        )  # fmt: skip


def close(source: Any) -> None:
    """What a pool does at its end."""
    source.state = "closed"
    bus.ROOT.publish(PoolClosed, source.name, 0.0, 1)
    pools.release(source.name, source)


@pytest.fixture
def crowd(request: pytest.FixtureRequest) -> Iterator[list[Tiny]]:
    """So many pools; the n-th has leaked n % 7 connections."""
    sources = [Tiny(f"tenant-{number}", number % 7) for number in range(request.param)]
    yield sources
    for source in sources:
        pools.release(source.name, source)


def scraped(*families: str) -> Series:
    """What Prometheus shows, of some families or of all."""
    shown = PoolCollector().collect()
    return of_families(each for each in shown if not families or each.name in families)


def as_labels(series: Series) -> Series:
    """What a Collector makes of attributes that are true."""
    return {
        (name, frozenset((label, "true" if v is True else v) for label, v in labels)): value
        for (name, labels), value in series.items()
    }


def leaks(series: Series) -> float:
    """What all series together say."""
    return sum(value for (name, _), value in series.items() if name == f"{LEAKS}_total")


def overflowed(series: Series, name: str, **labels: str) -> float:
    return series[key(name, **labels, **{OVERFLOW: "true"})]


def names_in(series: Series) -> set[str]:
    return {pool for _, labels in series if (pool := dict(labels).get(POOL))}


@pytest.mark.parametrize("crowd", [MANY], indirect=True)
def test_a_hundred_thousand_pools_at_once_have_a_fixed_number_of_series(crowd: list[Tiny]) -> None:
    total = sum(source.metrics.leaks for source in crowd)
    series = scraped()
    assert len(series) == (MOST + 1) * PER_POOL + 1
    assert names_in(series) == {source.name for source in crowd[:MOST]}
    assert series[key("poolscope_pools")] == MANY
    assert leaks(series) == total
    own = sum(source.metrics.leaks for source in crowd[:MOST])
    assert overflowed(series, f"{LEAKS}_total") == total - own
    assert overflowed(series, "db_client_connection_max") == 10 * (MANY - MOST)
    for source in crowd[MOST::2]:
        close(source)
    series = scraped("poolscope_pools", LEAKS, "db_client_connection_max")
    assert series[key("poolscope_pools")] == MANY - (MANY - MOST) // 2
    assert leaks(series) == total
    assert overflowed(series, "db_client_connection_max") == 10 * (MANY - MOST) // 2


@pytest.mark.parametrize("crowd", [FEWER], indirect=True)
def test_opentelemetry_is_given_no_more_of_them_on_either_road(
    reader: InMemoryMetricReader, crowd: list[Tiny]
) -> None:
    with road() as way:
        data = way.get_metrics_data()
    for metrics, exact in ((metrics_of(data), True), (collected(reader), False)):
        for metric in catalog.METRICS:
            if exact or metric.kind != "histogram":  # by the API only those come that were recorded
                parts = len(readings.NUMBERS.get(metric.name, [metric]))
                most = 1 if metric is catalog.POOLS else (MOST + 1) * parts
                # An SDK may have a limit of its own, and move some to its own overflow.
                size = len(metrics[metric.name].data.data_points)
                assert size == most if exact else size <= most
        points = metrics[catalog.LEAKS.name].data.data_points
        assert sum(point.value for point in points) == sum(s.metrics.leaks for s in crowd)
        assert [p.attributes for p in points if catalog.POOL_NAME not in p.attributes] == [
            {catalog.OVERFLOW: True}
        ]
        assert [p.value for p in metrics[catalog.POOLS.name].data.data_points] == [FEWER]


def test_pools_made_when_places_are_free_again_have_series_of_their_own(few: int) -> None:
    first = [FakeSource(f"pool-{number}") for number in range(few)]
    late = FakeSource("late")
    assert names_in(scraped()) == {source.name for source in first}
    close(first[0])
    assert names_in(scraped()) == {first[1].name}, "one that came late stays where it is"
    fresh = FakeSource("fresh")
    assert names_in(scraped()) == {first[1].name, "fresh"}
    later = FakeSource("later")
    assert names_in(scraped()) == {first[1].name, "fresh"}
    assert scraped()[key("poolscope_pools")] == 4
    for source in (first[1], late, fresh, later):
        close(source)
    again = FakeSource("late")
    assert names_in(scraped()) == {"late"}
    close(again)
    series = scraped()
    assert names_in(series) == set()
    assert series[key("poolscope_pools")] == 0


def test_of_a_hundred_thousand_pools_one_after_the_other_nothing_remains() -> None:
    with road() as way:
        for number in range(FEWER):
            source = Tiny(f"job-{number}", leaks=1)
            if number % 2_500 == 0:
                assert names_in(scraped()) == {source.name}
                series = series_now(way)
                assert series[key("poolscope_pools")] == 1
                # Those that closed meanwhile are sent once, if they are not too many.
                assert len(names_in(series)) <= 1 + 1_000
            close(source)
        way.get_metrics_data()
        assert series_now(way) == {key("poolscope_pools"): 0}
    assert scraped() == {key("poolscope_pools"): 0}
    assert pools.live() == []


def test_what_an_sdk_with_a_limit_keeps_of_pools_that_closed_is_bounded() -> None:
    if "aggregation_cardinality_limit" not in inspect.signature(View).parameters:
        pytest.skip("this SDK has no limit; 1.45.2 is the first that has")
    few = View(instrument_name="*", aggregation_cardinality_limit=100)  # not 2,000: it is quicker
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], views=[few], shutdown_on_exit=False)
    observer = observe_pools(provider)

    def live_and_die(start: int, count: int) -> None:
        sources = [Tiny(f"job-{number}") for number in range(start, start + count)]
        for source in sources:
            fields = (0.0, 1, 1, f"{source.name}#1", 0.1, 0.0)
            bus.ROOT.publish(ConnectionReleased, source.name, *fields)
        assert all(len(m.data.data_points) <= 101 for m in collected(reader).values())
        for source in sources:
            close(source)

    live_and_die(0, 500)
    gc.collect()
    tracemalloc.start()
    try:
        for start in range(500, 1500, 100):
            live_and_die(start, 100)
        gc.collect()
        growth, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        observer.close()
        provider.shutdown()
    # Each of these 1,000 pools would have 33 attribute sets of some 1 KB.
    assert growth < 1_000 * 1_000


# The sum of those beyond the limit


class Books(RuleBasedStateMachine):
    """Open, close, lose and count pools at random; keep books of what is to be seen of them."""

    sources = Bundle("sources")
    NAMES = st.sampled_from(["a", "b", "c"])

    def __init__(self) -> None:
        super().__init__()
        self.most = pools.MOST_POOLS
        pools.MOST_POOLS = 2  # type: ignore[misc]
        readings.forget()
        self.own: dict[str, FakeSource] = {}
        self.beyond: dict[str, FakeSource] = {}
        self.gone = 0
        """What those beyond the limit had counted when they closed."""
        self.seen: set[str] = set()
        """Those beyond the limit that were ever read."""
        self.before = 0.0
        self.started = False
        self.way = Road()
        self.deltas = Road(temporality_preference() | dict.fromkeys(
            temporality_preference(), AggregationTemporality.DELTA))  # fmt: skip

    def teardown(self) -> None:
        try:
            for source in [*self.own.values(), *self.beyond.values()]:
                self.close(source)
            self.check()
            total = as_labels(summed(self.deltas.outbox.sent))
            if self.started:
                assert overflowed(total, f"{LEAKS}_total") == self.gone
        finally:
            pools.MOST_POOLS = self.most  # type: ignore[misc]
            self.way.close()
            self.deltas.close()
            readings.forget()

    @rule(target=sources, name=NAMES)
    def open(self, name: str) -> Any:
        is_beyond = len(self.own) >= 2
        source = FakeSource(name)
        (self.beyond if is_beyond else self.own)[source.name] = source
        return source.name

    @rule(name=sources, number=st.integers(1, 5))
    def count(self, name: str, number: int) -> None:
        if (source := self.own.get(name) or self.beyond.get(name)) is not None:
            source.metrics.leaks += number
            source.metrics.failures[FailureReason.TIMEOUT] += number
            source.metrics.closed[CloseReason.IDLE] += number
            for _ in range(number):
                source.metrics.use.record(0.1 * number)

    @rule(name=consumes(sources))
    def end(self, name: str) -> None:
        if (source := self.own.get(name) or self.beyond.get(name)) is not None:
            self.close(source)

    def close(self, source: FakeSource) -> None:
        if self.own.pop(source.name, None) is None:
            del self.beyond[source.name]
            self.seen.discard(source.name)
            self.gone += source.metrics.leaks
            self.started = True
        close(source)

    @rule(name=consumes(sources))
    def lose(self, name: str) -> None:
        self.own.pop(name, None)
        source = self.beyond.pop(name, None)
        if name in self.seen:
            assert source is not None
            self.gone += source.metrics.leaks
            self.seen.discard(name)

    @rule(name=sources)
    def begin_again(self, name: str) -> None:
        """What a pool does that could not open: it closes, is registered, and may try again."""
        if (source := self.own.get(name) or self.beyond.get(name)) is not None:
            source.state = "new" if source.state == "open" else "open"

    @rule()
    def check(self) -> None:
        self.seen |= self.beyond.keys()
        self.started = self.started or bool(self.beyond)
        serving = [s for s in [*self.own.values(), *self.beyond.values()] if s.state == "open"]
        for series in (scraped(), as_labels(series_now(self.way))):
            shown = {n for n in names_in(series) if n in self.own and self.own[n].state == "open"}
            assert shown == {n for n, s in self.own.items() if s.state == "open"}
            assert series[key("poolscope_pools")] == len(serving)
            assert any(OVERFLOW in dict(labels) for _, labels in series) == self.started
            if self.started:
                self.check_sum(series)
        assert names_in(scraped()) == {n for n, s in self.own.items() if s.state == "open"}
        series_now(self.deltas)

    def check_sum(self, series: Series) -> None:
        total = self.gone + sum(source.metrics.leaks for source in self.beyond.values())
        assert overflowed(series, f"{LEAKS}_total") == total
        assert overflowed(series, "db_client_connection_timeouts_total") == total
        assert overflowed(series, "poolscope_connection_closed_total", reason="idle") == total
        assert overflowed(series, f"{USE_TIME}_count") == total
        seconds = overflowed(series, f"{USE_TIME}_sum")
        assert seconds >= self.before, "it looks as if it had begun anew"
        self.before = seconds
        open_ = [source for source in self.beyond.values() if source.state == "open"]
        count = "db_client_connection_count"
        states = (overflowed(series, count, **{STATE: state}) for state in ("idle", "used"))
        assert sum(states) == sum(source.size for source in open_)
        assert overflowed(series, "poolscope_acquire_timeout_seconds") == (10 if open_ else 0)


def test_whatever_pools_do_each_count_is_in_exactly_one_series() -> None:
    # Half as many runs as the profile says, for each looks at everything again and again.
    runs = settings.default.max_examples // 2
    run_state_machine_as_test(Books, settings=settings(max_examples=runs, stateful_step_count=30))


def test_a_sum_never_goes_down_by_the_order_in_which_pools_close(few: int) -> None:
    holds = (0.1, 0.2, 0.3, 0.7)
    own = [FakeSource("own") for _ in range(few)]
    before = 0.0
    for order in itertools.permutations(range(len(holds))):
        beyond = [FakeSource("tenant") for _ in holds]
        for source, seconds in zip(beyond, holds, strict=True):
            source.metrics.use.record(seconds)
        for index in order:
            now = overflowed(scraped(), f"{USE_TIME}_sum")
            assert now >= before
            before = now
            close(beyond[index])
    assert overflowed(scraped(), f"{USE_TIME}_sum") == pytest.approx(24 * sum(holds))
    for source in own:
        close(source)


def test_pools_beyond_the_limit_may_count_in_one_place(few: int) -> None:
    sources = [FakeSource("orders") for _ in range(few + 2)]
    for source in sources:
        source.metrics = sources[0].metrics
    sources[0].metrics.leaks = 5
    for source in reversed(sources):
        assert overflowed(scraped(), f"{LEAKS}_total") == 10
        close(source)
    assert overflowed(scraped(), f"{LEAKS}_total") == 10


def test_a_pool_beyond_the_limit_that_could_not_open_at_first_counts_once(few: int) -> None:
    async def main() -> None:
        error: Exception | None = ConnectionRefusedError()

        def connect() -> object:
            if error is not None:
                raise error
            return object()

        others = [FakeSource("own") for _ in range(few)]
        settings = ConnectionPoolSettings(min_size=1, retry_limit=1, retry_delay=0)
        pool = ConnectionPool(connect, settings)
        name, refused = "poolscope_connect_failures_total", {"error_type": "refused"}
        for _ in range(2):
            with pytest.raises(ConnectFailedError):
                await pool.initialize()
            failed = pool.get_metrics().connect_faults[ConnectFault.REFUSED]
            assert overflowed(scraped(), name, **refused) == failed > 0
            assert scraped()[key("poolscope_pools")] == few
        error = None
        async with pool:
            async with pool.connection():
                pass
            assert overflowed(scraped(), name, **refused) == failed
            assert scraped()[key("poolscope_pools")] == few + 1
        series = scraped()
        assert overflowed(series, name, **refused) == failed
        assert overflowed(series, f"{USE_TIME}_count") == 1
        for source in others:
            close(source)

    run(main())


def test_a_pool_that_cannot_be_read_any_more_stays_in_the_sum(few: int) -> None:
    def fail() -> PoolStats:
        raise OSError

    sources = [FakeSource("orders") for _ in range(few + 3)]
    for source in sources[few:]:
        source.metrics.leaks = 3
    assert overflowed(scraped(), f"{LEAKS}_total") == 9
    for source in sources[few : few + 2]:
        source.stats = fail  # type: ignore[method-assign]
    series = scraped()
    assert overflowed(series, f"{LEAKS}_total") == 9
    assert series[key("poolscope_pools")] == few + 1
    for source in sources:
        close(source)
    assert overflowed(scraped(), f"{LEAKS}_total") == 9


def test_counts_that_cannot_be_read_hide_no_other_pool(few: int) -> None:
    class Broken(Uncounted):
        @property
        def closed(self) -> None:  # type: ignore[override]
            raise OSError

    sources = [Tiny(f"tenant-{number}", leaks=1) for number in range(2 * few)]
    for broken in sources[::2]:
        broken.metrics = Broken(1)
    with road() as way:
        for series in (scraped(), as_labels(series_now(way))):
            assert names_in(series) == {"tenant-1"}
            assert overflowed(series, f"{LEAKS}_total") == 1
            assert series[key("poolscope_pools")] == 2
    for source in sources:
        close(source)


def test_counts_are_exact_while_several_threads_look_and_pools_come_and_go(few: int) -> None:
    own = [FakeSource("own") for _ in range(few)]
    ended = threading.Event()
    wrong: list[object] = []

    def look() -> None:
        before = 0.0
        while not ended.is_set():
            (rest,) = [r for r in readings.readings() if catalog.OVERFLOW in r.attributes] or [None]
            now = 0.0 if rest is None else rest.counts.leaks
            if now < before:
                wrong.append((before, now))
            before = now

    def work() -> None:
        for _ in range(300):
            source = FakeSource("tenant")
            source.metrics.leaks += 1
            time.sleep(0)  # the turn of another thread
            close(source)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    workers = [threading.Thread(target=work) for _ in range(2)]
    for thread in lookers + workers:
        thread.start()
    for thread in workers:
        thread.join()
    ended.set()
    for thread in lookers:
        thread.join()
    for source in own:
        close(source)
    assert wrong == []
    assert overflowed(scraped(), f"{LEAKS}_total") == 600


FORK = """
import os, sys
from poolscope import registry
from poolscope.telemetry import readings
from tests.telemetry.test_cardinality import Tiny, close

def counted():
    return [(reading.attributes, reading.counts.leaks) for reading in readings.readings()]

registry.MOST_POOLS = 0
close(Tiny("tenant", leaks=3))
print(counted(), flush=True)
if (child := os.fork()) == 0:
    print(counted(), flush=True)
    close(Tiny("tenant", leaks=4))
    print(counted(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(counted())
"""


def test_a_forked_child_begins_its_sum_anew() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True)
    assert done.stderr == ""
    three, four = ([({catalog.OVERFLOW: "true"}, number)] for number in (3, 4))
    assert done.stdout.splitlines() == [str(three), "[]", str(four), str(three)]
