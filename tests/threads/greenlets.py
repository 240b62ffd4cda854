"""A program of greenlets: `greenlets.py before|after`. It patches before or after it imports us.

200 greenlets use 10 connections; some are struck by `gevent.Timeout`, some are killed. See
test_greenlets.
"""

import sys

import gevent
import gevent.monkey

if sys.argv[1] == "before":
    gevent.monkey.patch_all()
import json
import random
import time
from collections import Counter

import gevent.pool

from poolscope import ConnectionPoolSettings, SyncConnectionPool
from poolscope.errors import PoolError
from poolscope.functions import prompt
from tests.threads.real import Connection, RealLedger, Recorder, check_metrics

if sys.argv[1] == "after":
    gevent.monkey.patch_all()

GREENLETS, SIZE, ROUNDS = 200, 10, 10
outcomes: Counter[str] = Counter()
dice = random.Random(sys.argv[2])
ledger = RealLedger(tolerant=True)


def pause() -> None:
    time.sleep(dice.choice([0, 0, 0.0001, 0.001]))


ledger.delays = dict.fromkeys(("open", "validate", "reset", "close"), pause)


def make_pool() -> SyncConnectionPool[Connection]:
    mark = prompt() if dice.random() < 0.5 else lambda function: function
    settings = ConnectionPoolSettings(
        max_size=SIZE, max_idle=SIZE, max_lifetime=0.05, retry_delay=0
    )
    return SyncConnectionPool(
        ledger.open,
        settings,
        mark(lambda c: ledger.validate(c)),
        ledger.close,
        reset_func=mark(lambda c: ledger.reset(c)),
    )


def borrow() -> None:
    with pool.connection() as connection:
        connection.use(pause)


def borrow_by_hand() -> None:
    connection = pool.acquire()
    try:
        connection.use(pause)
    finally:
        pool.release(connection)


def work() -> None:
    for _ in range(ROUNDS):
        with gevent.Timeout(dice.choice([0.0005, 0.002, 0.01, 5]), False):
            try:
                dice.choice([borrow, borrow, borrow_by_hand])()
                outcomes["done"] += 1
            except PoolError as error:
                outcomes[type(error).__name__] += 1
            except gevent.Timeout:
                outcomes["struck"] += 1
                raise


def go_wild() -> None:
    greenlets = [gevent.spawn(work) for _ in range(GREENLETS)]
    time.sleep(0.05)
    for greenlet in dice.sample(greenlets, 40):
        greenlet.kill(block=False)
    gevent.joinall(greenlets, timeout=20)
    assert all(greenlet.dead for greenlet in greenlets), "a greenlet hangs"
    assert not [g.exception for g in greenlets if g.exception], "one failed"


def serve_in_order() -> list[int]:
    """Return in which order greenlets are served that come one after the other."""
    served: list[int] = []

    def want(number: int) -> None:
        with pool.connection():
            served.append(number)

    held = [pool.acquire() for _ in range(SIZE)]
    waiting = []
    for number in range(50):
        waiting.append(gevent.spawn(want, number))
        while pool.stats().waiting <= number:
            time.sleep(0)
    for greenlet in waiting[:10]:
        greenlet.kill()
    pool.release(held.pop())
    gevent.joinall(waiting, timeout=10)
    for connection in held:
        pool.release(connection)
    return served


if __name__ == "__main__":
    pool = make_pool()
    recorder = Recorder(pool)
    go_wild()
    end = time.monotonic() + 5
    while (pool.stats().in_use or pool.stats().waiting) and time.monotonic() < end:
        time.sleep(0.01)
    served = serve_in_order()
    leases = [pool.connection(5) for _ in range(SIZE)]
    for lease in leases:
        lease.__enter__().use()
    for lease in leases:
        lease.__exit__(None, None, None)
    pool.close()
    time.sleep(0.05)  # whoever was killed may still be at work on a connection
    replay = recorder.check(pool.stats())
    check_metrics(pool, replay)
    ledger.audit()
    print(json.dumps({"outcomes": outcomes, "served": served}))
