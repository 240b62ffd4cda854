"""A program that forks while its pool is busy: `forking.py MOMENT FILE`. See test_interpreter_exit.

Each connection writes into FILE who does what to whose connection. The child uses the pool on a
loop of its own, prints its numbers as a line of JSON, and ends with status 7; meanwhile its parent
goes on.
"""

import asyncio
import itertools
import json
import logging
import os
import sys
import traceback
from collections import Counter

from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.testing import Replay

# That a step was slow, which debug mode says as a warning, is news of the machine.
logging.getLogger("asyncio").setLevel(logging.ERROR)

MOMENTS = (
    "unopened",
    "after_a_run",
    "idle",
    "in_use",
    "waited_for",
    "opening",
    "validating",
    "resetting",
    "closing",
    "unwound",
)

serials = itertools.count()
kept: list[asyncio.Task[None]] = []
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


async def open_() -> Connection:
    await asyncio.sleep(delays["opening"] / 1000)
    return Connection()


async def validate(connection: Connection) -> bool:
    connection.note("validate")
    await asyncio.sleep(delays["validating"] / 1000)
    return True


async def reset(connection: Connection) -> None:
    connection.note("reset")
    await asyncio.sleep(delays["resetting"] / 1000)


async def close(connection: Connection) -> None:
    await asyncio.sleep(delays["closing"] / 1000)
    connection.note("close")


async def use(times: int, hold: float = 0.005) -> None:
    for _ in range(times):
        async with pool.connection() as connection:
            connection.note("use")
            await asyncio.sleep(hold)


async def use_much() -> None:
    await asyncio.gather(*(use(5) for _ in range(6)))
    replay.check(pool.stats())


def numbers() -> list[int]:
    """Return what a scrape would show: requests, acquired, opened, idle."""
    metrics = pool.get_metrics()
    return [metrics.connection_requests, metrics.acquired, metrics.opened, pool.stats().idle]


async def live_as_child() -> list[int]:
    await use_much()
    used = numbers()
    await pool.close()
    replay.check(pool.stats())
    return used


def fork() -> int:
    """Fork; the child does not return."""
    child = os.fork()
    if child == 0:
        try:
            unused = numbers()
            print(json.dumps([unused, asyncio.run(live_as_child())]), flush=True)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        if moment == "unwound":
            sys.exit(7)  # through all that the parent was doing
        os._exit(7)
    return child


def lives(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def go_on_beside(child: int) -> None:
    """Use the pool until the child has ended; leave with its status."""
    while lives(child):
        await use_much()
    await pool.close()
    replay.check(pool.stats())
    sys.exit(status_of(child))


async def get_busy(moment: str) -> None:
    delays["opening" if moment == "unwound" else moment] = 100
    if moment == "closing":
        await use(2)
        await pool.drain()
    elif moment != "idle":
        kept.extend(asyncio.create_task(use(2, 0.1)) for _ in range(9 if moment != "in_use" else 1))
    await asyncio.sleep(0.15 if moment == "resetting" else 0.05)


async def fork_when_busy(moment: str) -> None:
    await use(3)
    await get_busy(moment)
    child = fork()
    delays.clear()
    await asyncio.gather(*kept)
    await go_on_beside(child)


def fork_between_runs() -> None:
    child = fork()
    asyncio.run(go_on_beside(child))


if __name__ == "__main__":
    moment, path = sys.argv[1:]
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    settings = ConnectionPoolSettings(min_size=2, max_size=3)
    pool = ConnectionPool(open_, settings, validate, close, reset_func=reset)
    replay = Replay()
    pool.bus.subscribe(replay)
    if moment == "after_a_run":
        asyncio.run(use(3))
    if moment in ("unopened", "after_a_run"):
        fork_between_runs()
    asyncio.run(fork_when_busy(moment))
