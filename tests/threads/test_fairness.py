"""Who waits longest comes first, and nobody waits much longer than the others."""

import statistics
import threading
import time
from itertools import pairwise

import pytest

from poolscope import ConnectionPoolSettings, SyncConnectionPool, events
from tests.threads.real import Connection, RealLedger, Recorder, in_threads, until

THREADS, SIZE, ROUNDS = 32, 10, 40


def crowded(hold: float) -> tuple[list[list[float]], Recorder]:
    """Let 32 threads take turns; return the waits of each, and the events."""
    ledger = RealLedger()
    settings = ConnectionPoolSettings(min_size=SIZE, max_size=SIZE, max_idle=SIZE)
    waits: list[list[float]] = [[] for _ in range(THREADS)]
    pool = SyncConnectionPool(ledger.open, settings, close_func=ledger.close)
    recorder = Recorder(pool)
    with pool:
        start = threading.Barrier(THREADS)

        def work(mine: list[float]) -> None:
            start.wait()
            for _ in range(ROUNDS):
                began = time.monotonic()
                with pool.connection() as connection:
                    mine.append(time.monotonic() - began)
                    connection.use(lambda: time.sleep(hold))

        in_threads(*(lambda mine=mine: work(mine) for mine in waits))
        recorder.check(pool.stats())
    ledger.audit()
    assert ledger.most_open == SIZE
    return waits, recorder


def turns_of_others(recorder: Recorder) -> int:
    """Return how many later requests, at most, had a connection before one that stood in line."""
    worst, line = 0, dict[int, int]()
    for event in sorted(recorder.events, key=lambda event: event.sequence):
        if isinstance(event, events.RequestQueued):
            line[event.request_id] = 0
        elif isinstance(event, events.ConnectionAcquired):
            worst = max(worst, line.pop(event.request_id, 0))
            for waiting in line:
                line[waiting] += waiting < event.request_id
    return worst


@pytest.mark.parametrize("hold", [0.001, 0.0])
def test_of_32_threads_on_10_connections_nobody_starves(hold: float) -> None:
    waits, recorder = crowded(hold)
    assert all(len(each) == ROUNDS for each in waits)
    if hold:  # else those who run take turns while others, though granted, wait for the processor
        assert turns_of_others(recorder) <= 4 * THREADS


def test_the_longest_wait_is_at_most_3_times_the_median() -> None:
    # One thread in the way of all others, of whatever program, is no news of the pool.
    attempts = []
    for _ in range(3):
        waits = [wait for each in crowded(0.002)[0] for wait in each[2:]]
        attempts.append(max(waits) / statistics.median(waits))
        if attempts[-1] <= 3:
            return
    pytest.fail(f"longest wait / median: {attempts}")


def test_connections_are_granted_in_order_of_arrival() -> None:
    ledger = RealLedger()
    with SyncConnectionPool(ledger.open, ConnectionPoolSettings(max_size=1)) as pool:
        served: list[int] = []
        first: Connection = pool.acquire()

        def want(number: int) -> None:
            with pool.connection():
                served.append(number)

        threads = []
        for number in range(50):
            threads.append(threading.Thread(target=want, args=(number,)))
            threads[-1].start()
            until(lambda: pool.stats().waiting == len(threads))
        pool.release(first)
        for thread in threads:
            thread.join(5)
        assert served == list(range(50))
        assert all(a < b for a, b in pairwise(served))
