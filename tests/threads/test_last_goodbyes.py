"""What a pool of threads has no time left to close is closed all the same, by nobody else."""

import threading

from poolscope import SyncConnectionPool


class Thing:
    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


def test_what_is_held_when_a_pool_closes_is_closed_however_little_time_there_is():
    for _ in range(20):
        pool = SyncConnectionPool(Thing)
        held = pool.acquire()
        pool.close(timeout=0)
        assert held.closed.wait(5)
