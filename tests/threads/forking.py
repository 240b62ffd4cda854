"""A program that forks while threads use its pool: `forking.py MOMENT FILE`. See test_processes.

Each connection writes into FILE who does what to whose connection. The child uses the pool in
threads of its own, prints its numbers as a line of JSON, and ends with status 7; meanwhile its
parent goes on.
"""

import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import NoReturn

from poolscope import ConnectionPoolSettings, SyncConnectionPool
from tests.threads.real import Recorder, check_metrics, in_threads

MOMENTS = (
    "unopened",
    "idle",
    "in_use",
    "waited_for",
    "opening",
    "validating",
    "resetting",
    "closing",
    "ending",
    "deciding",
    "publishing",
    "inside",
    "unwound",
)

serials = itertools.count()
kept: list[threading.Thread] = []
delays: Counter[str] = Counter()
"""How many ms each step takes."""


class Connection:
    """Knows the process that opened it, and writes down each that touches it."""

    def __init__(self) -> None:
        self.name = f"{os.getpid()} {next(serials)}"
        self.note("open")

    def note(self, deed: str) -> None:
        os.write(file, f"{os.getpid()} {deed} {self.name}\n".encode())

    def terminate(self) -> None:
        self.note("close")


def open_() -> Connection:
    time.sleep(delays["opening"] / 1000)
    return Connection()


def validate(connection: Connection) -> bool:
    connection.note("validate")
    time.sleep(delays["validating"] / 1000)
    return True


def reset(connection: Connection) -> None:
    connection.note("reset")
    time.sleep(delays["resetting"] / 1000)


def close(connection: Connection) -> None:
    time.sleep(delays["closing"] / 1000)
    connection.note("close")


def clock() -> float:
    """Read the clock, under the lock of a decision."""
    time.sleep(delays["deciding"] / 1000)
    return time.monotonic()


def listen(event: object) -> None:
    time.sleep(delays["publishing"] / 1000)


def use(times: int, hold: float = 0.0) -> Callable[[], None]:
    def borrow() -> None:
        for _ in range(times):
            with pool.connection() as connection:
                connection.note("use")
                time.sleep(hold)

    return borrow


def use_much() -> None:
    in_threads(*[use(20)] * 6)


def rest() -> int:
    """Return how often a process uses the pool after its first storm."""
    return 880 if moment == "deciding" else 50


def numbers() -> list[int]:
    """Return what a scrape would show: requests, acquired, opened, idle."""
    metrics = pool.get_metrics()
    return [metrics.connection_requests, metrics.acquired, metrics.opened, pool.stats().idle]


def check_books(after: int = 0) -> None:
    replay = recorder.replay(after)
    replay.check(pool.stats())
    check_metrics(pool, replay)


def live_as_child() -> list[int]:
    other.close()
    last_of_parent = pool.stats().sequence
    use_much()
    used = numbers()
    use(rest())()
    pool.close()
    check_books(last_of_parent)
    return used


def fork() -> int:
    """Fork; the child does not return."""
    child = os.fork()
    if child == 0:
        try:
            delays.clear()
            unused = numbers()
            print(json.dumps([unused, live_as_child()]), flush=True)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        if moment == "unwound":
            sys.exit(7)  # through all that the parent was doing
        os._exit(7)
    return child


def go_on_beside(child: int) -> NoReturn:
    """Use the pool until the child has ended; end with its status."""
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        use_much()
    use(rest())()
    pool.close()
    other.close()
    check_books()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def begin(target: Callable[[], None], count: int) -> None:
    kept.extend(threading.Thread(target=target, daemon=True) for _ in range(count))
    for thread in kept[-count:]:
        thread.start()


def get_busy() -> None:
    delays["opening" if moment in ("unwound", "inside") else moment] = 100
    if moment in ("deciding", "publishing"):
        delays[moment] = 20
    if moment == "closing":
        begin(pool.drain, 1)
    elif moment == "ending":
        begin(other.close, 1)
    elif moment != "idle":
        begin(use(2, 0.1), 9 if moment != "in_use" else 1)
    time.sleep(0.15 if moment == "resetting" else 0.05)


if __name__ == "__main__":
    moment, path = sys.argv[1:]
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    pool = SyncConnectionPool(
        open_,
        ConnectionPoolSettings(min_size=2, max_size=3),
        validate,
        close,
        reset_func=reset,
        clock=clock,
    )
    other = SyncConnectionPool(open_, ConnectionPoolSettings(name="other"), close_func=close)
    held = other.acquire()
    recorder = Recorder(pool)
    pool.bus.subscribe(listen)
    if moment == "unopened":
        other.release(held)
        other.close()
        go_on_beside(fork())
    use(3)()
    if moment == "inside":
        with pool.connection() as connection:
            child = fork()
            connection.note("use")
    else:
        get_busy()
        child = fork()
    delays.clear()
    other.release(held)
    for thread in kept:
        thread.join()
    go_on_beside(child)
