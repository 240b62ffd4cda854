import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from benchmarks import assembled, collectors, contestants, exported, roads, watched
from benchmarks.backend import EXPORTED, Backend, backend
from benchmarks.case import Case, UnsoundError
from benchmarks.collection import collect_once
from benchmarks.collectors import Collector
from benchmarks.handmade import Idle, Lease
from benchmarks.plan import Plan, make_plan
from benchmarks.server import Server
from benchmarks.timing import time_cycles, time_periods
from tests.support import run

ROOT = Path(__file__).parent.parent.parent
NO_SERVER = Server(None)


def quick() -> Plan:
    return make_plan(quick=True, rounds=2, seed=1)


@pytest.mark.slow
def test_a_glance_at_telemetry_proves_and_prints_every_row() -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "telemetry", "collection"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = {line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("|")}
    assert watched.OPENERS.keys() <= rows
    assert {exported.EXPORT, exported.FOREIGN, exported.PROMETHEUS} <= rows
    assert "lock and deque, five instruments, a span" in rows
    assert {collectors.SAMPLES, collectors.POINTS, collectors.FOREIGN} <= rows


def test_telemetry_is_on_only_while_its_own_case_is_timed() -> None:
    timed: list[tuple[str, bool]] = []

    def case(name: str) -> Case:
        @asynccontextmanager
        async def active() -> AsyncIterator[None]:
            assert not on
            on.add(name)
            yield
            on.discard(name)

        @asynccontextmanager
        async def borrow() -> AsyncIterator[None]:
            timed.append((name, on == {name}))
            yield

        return Case(name, "none", borrow, identify=None, active=active)

    on: set[str] = set()
    cases = [case("first"), case("second")]
    run(time_cycles(cases, quick()))
    assert {*timed} == {("first", True), ("second", True)}


def test_a_pool_for_plain_with_blocks_is_timed_as_well() -> None:
    idle = Idle()
    lent: list[Lease] = []

    def borrow() -> Lease:
        lent.append(Lease(idle))
        return lent[-1]

    case = Case("plain", "fake", borrow, identify=None, is_sync=True)
    times = run(time_cycles([case], quick()))
    assert all(nanoseconds > 0 for nanoseconds in times["plain"])
    assert len(lent) > 16
    assert len(idle.connections) == 10


def test_spans_that_are_not_made_are_noticed() -> None:
    async def main() -> None:
        spans = watched.Spans(frozenset({"pool.acquire"}), ALWAYS_OFF)
        async with spans.open("claims to trace", NO_SERVER) as case:
            with pytest.raises(UnsoundError, match=r"spans were made of \['pool.acquire'\]"):
                await time_cycles([case], quick())

    run(main())


def test_spans_that_nobody_said_would_be_made_are_noticed() -> None:
    async def main() -> None:
        async with watched.Spans(frozenset()).open("claims to be quiet", NO_SERVER) as case:
            with pytest.raises(UnsoundError, match=r"but of \['pool.acquire', 'pool.use'\]"):
                await time_cycles([case], quick())

    run(main())


def test_metrics_alone_are_not_measured_while_somebody_else_listens() -> None:
    async def main() -> None:
        async with contestants.our_pool() as pool:
            pool.bus.subscribe(print)
            with pytest.raises(UnsoundError, match="metrics alone hear of an acquire"):
                await watched.counting(pool).__aenter__()

    run(main())


def test_exports_that_never_arrive_are_noticed() -> None:
    @contextmanager
    def nowhere(_backend: Backend, _period: float) -> Iterator[None]:
        yield

    async def main(backend: Backend) -> None:
        leaving = exported.leaving(nowhere, backend, 0.01, lambda: 3)
        async with watched.watch(leaving, "claims to export", NO_SERVER) as case:
            with pytest.raises(UnsoundError, match="arrived while the cycle was timed"):
                await time_periods([case], quick())

    with backend() as receiver:
        run(main(receiver))


@pytest.mark.parametrize("road", [roads.export, roads.foreign, roads.prometheus])
def test_a_road_leads_to_the_other_process(road: roads.Road) -> None:
    async def main(backend: Backend) -> int:
        async with contestants.our_pool() as pool:
            with road(backend, 0.02):
                async with pool.connection():
                    pass
            return backend.scrapes() if road is roads.prometheus else backend.exports()

    with backend() as receiver:
        assert run(main(receiver)) > 0
    assert receiver.process.poll() == 0


def test_only_messages_with_the_histogram_count_as_exports() -> None:
    with backend() as receiver:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for body in (b"anything", b"and " + EXPORTED):
            request = urllib.request.Request(receiver.endpoint, body, method="POST")
            with opener.open(request) as answer:
                assert answer.status == 200
        assert receiver.exports() == 1


def test_a_collection_that_misses_a_pool_is_noticed() -> None:
    collector = Collector("forgetful", lambda: "one", lambda _: 1)
    assert collect_once(collector, 1) >= 0
    with pytest.raises(UnsoundError, match="forgetful shows 2 pools, but 1"):
        collect_once(collector, 2)


def test_without_the_instrumentation_its_row_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.sqlalchemy", None)
    (section,) = run(assembled.measure(NO_SERVER, quick()))
    assert [row[0] for row in section.rows][-1] == "lock and deque, five instruments, a span"
    assert list(section.missing) == ["SQLAlchemy engine, instrumented"]
