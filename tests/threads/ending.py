"""A program that ends in the midst of something: `ending.py WAY`. See test_processes.

Its last act is to print the time; its status is 7.
"""

import atexit
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from poolscope import ConnectionPoolSettings, SyncConnectionPool
from poolscope.errors import PoolClosedError
from tests.threads.real import RealLedger

ledger = RealLedger(tolerant=True)
kept: list[object] = []
"""What lives until the interpreter takes it down."""


def make_pool() -> SyncConnectionPool[Any]:
    settings = ConnectionPoolSettings(min_size=2, max_size=3)
    return SyncConnectionPool(
        ledger.open, settings, ledger.validate, ledger.close, reset_func=ledger.reset
    )


def never() -> None:
    threading.Event().wait()


def end() -> NoReturn:
    print(time.monotonic(), flush=True)
    sys.exit(7)


def hold(seconds: float = 100.0) -> None:
    with suppress(PoolClosedError), pool.connection():
        time.sleep(seconds)


def crowd(count: int = 9) -> None:
    """Have some hold all connections, if they can, and others wait."""
    for _ in range(count):
        threading.Thread(target=hold, daemon=True).start()
    time.sleep(0.1)


# The ways to end


def never_opened() -> None:
    pass


def closed() -> None:
    with pool:
        hold(0)


def idle() -> None:
    pool.initialize()


def in_use() -> None:
    kept.append(pool.acquire())


def held_by_a_lease() -> None:
    lease = pool.connection()
    lease.__enter__()
    kept.append(lease)


def waited_for() -> None:
    pool.initialize()
    crowd()


def left_with_a_lease() -> None:
    with pool.connection():
        end()


def left_by_a_thread() -> None:
    """End while a thread that is waited for gives back its connection."""
    threading.Thread(target=hold, args=(0.2,)).start()
    time.sleep(0.05)


def connecting() -> None:
    ledger.delays["open"] = never
    crowd()


def validating() -> None:
    pool.initialize()
    ledger.delays["validate"] = never
    crowd()


def resetting() -> None:
    ledger.delays["reset"] = never
    threading.Thread(target=hold, args=(0,), daemon=True).start()
    time.sleep(0.1)


def closing() -> None:
    pool.initialize()
    ledger.delays["close"] = never
    threading.Thread(target=pool.close, daemon=True).start()
    time.sleep(0.1)


def closed_at_exit() -> None:
    waited_for()
    atexit.register(pool.close, 0.1)


def used_at_exit() -> None:
    idle()
    atexit.register(pool.close)
    atexit.register(hold, 0)


def lost_at_exit() -> None:
    """Have a lease and its pool be freed when modules are taken down."""
    held_by_a_lease()
    kept.append(kept)


def heard_by_a_slow_subscriber() -> None:
    pool.bus.buffered(lambda event: time.sleep(0.01))
    waited_for()


WAYS: tuple[Callable[[], None], ...] = (
    never_opened,
    closed,
    idle,
    in_use,
    held_by_a_lease,
    waited_for,
    left_with_a_lease,
    left_by_a_thread,
    connecting,
    validating,
    resetting,
    closing,
    closed_at_exit,
    used_at_exit,
    lost_at_exit,
    heard_by_a_slow_subscriber,
)

if __name__ == "__main__":
    pool = make_pool()
    globals()[sys.argv[1]]()
    end()
