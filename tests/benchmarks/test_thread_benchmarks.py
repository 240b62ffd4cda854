import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore, Event

import pytest

from benchmarks import thread_contestants
from benchmarks.case import SIZE, Borrow, Case, UnsoundError, inspect
from benchmarks.crowd import ThreadBox
from benchmarks.plan import make_plan
from benchmarks.timing import time_cycles
from tests.support import run

ROOT = Path(__file__).parent.parent.parent


def test_a_glance_at_threads_prints_our_rows_without_any_server() -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "threads"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("|")]
    assert rows.count(thread_contestants.OURS) == 3
    assert {thread_contestants.SILENT, thread_contestants.QUEUE_POOL} <= {*rows}
    assert "Goal not checked: poolscope's cycle to psycopg_pool's." in done.stdout


def test_a_thread_that_starves_cannot_hide() -> None:
    box_is_over = Event()
    favourite: list[threading.Thread] = []

    @contextmanager
    def borrow() -> Iterator[None]:
        favourite.append(threading.current_thread())
        if threading.current_thread() is not favourite[0]:
            box_is_over.wait()
        yield

    timer = threading.Timer(0.1, box_is_over.set)
    timer.start()
    outcome = ThreadBox(borrow, crowd=5).run(seconds=0.05)
    timer.join()
    assert outcome.starved == 4
    assert outcome.longest_to_median > 10
    assert outcome.longest_to_median_turns > 10


def test_a_thread_that_fails_is_not_taken_for_one_that_starves() -> None:
    @contextmanager
    def borrow() -> Iterator[None]:
        raise ZeroDivisionError
        yield

    with pytest.raises(ZeroDivisionError):
        ThreadBox(borrow, crowd=3).run(seconds=0.01)


def test_a_pool_for_threads_that_lends_too_much_is_not_measured() -> None:
    @contextmanager
    def borrow() -> Iterator[object]:
        yield object()

    with pytest.raises(UnsoundError, match=f"generous does not lend {SIZE} connections"):
        run(inspect(Case("generous", "fake", borrow, is_sync=True)))


def test_a_pool_that_refuses_instead_of_waiting_is_sound() -> None:
    left = BoundedSemaphore(SIZE)
    idle = [object() for _ in range(SIZE)]

    @contextmanager
    def borrow() -> Iterator[object]:
        if not left.acquire(blocking=False):
            raise LookupError("all are lent")
        connection = idle.pop()
        yield connection
        idle.append(connection)
        left.release()

    seen = run(inspect(Case("strict", "fake", borrow, is_sync=True)))
    assert seen == frozenset(map(id, idle))


def test_a_pool_for_threads_is_timed_where_no_event_loop_runs() -> None:
    has_loop: set[bool] = set()

    @contextmanager
    def borrow() -> Iterator[None]:
        has_loop.add(asyncio._get_running_loop() is not None)
        yield

    case = Case("plain", "fake", borrow, identify=None, is_sync=True)
    run(time_cycles([case], make_plan(quick=True, rounds=2, seed=1)))
    assert has_loop == {False}


def test_a_pool_without_a_with_statement_is_timed_by_its_own_calls() -> None:
    calls: list[str] = []

    def cycles(_: Borrow, count: int) -> None:
        for _number in range(count):
            calls.append("get")
            calls.append("put")

    def borrow() -> object:
        raise AssertionError("this is only for looking at the pool")

    case = Case("bare", "fake", borrow, identify=None, is_sync=True, cycles=cycles)
    times = run(time_cycles([case], make_plan(quick=True, rounds=2, seed=1)))
    assert all(nanoseconds > 0 for nanoseconds in times["bare"])
    assert calls.count("get") > 16
