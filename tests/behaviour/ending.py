"""A program that ends in the midst of something: `ending.py WAY [DSN]`. See test_interpreter_exit.

Its last act is to print the time; its status is 7.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.testing import Ledger
from poolscope.testing.ledger import fail, never, slow

# That a step was slow, which debug mode says as a warning, is news of the machine.
logging.getLogger("asyncio").setLevel(logging.ERROR)

ledger = Ledger()
kept: list[object] = []
"""What lives until the interpreter takes it down."""


def make_pool(dsn: str | None = None) -> ConnectionPool[Any]:
    settings = ConnectionPoolSettings(min_size=2, max_size=3)
    if dsn is None:
        return ConnectionPool(
            ledger.open, settings, ledger.validate, ledger.close, reset_func=ledger.reset
        )
    import asyncpg

    return ConnectionPool(
        lambda: asyncpg.connect(dsn, ssl=False), settings, reset_func=asyncpg.Connection.reset
    )


def end() -> NoReturn:
    print(time.monotonic(), flush=True)
    sys.exit(7)


async def hold(seconds: float = 100.0) -> None:
    async with pool.connection():
        await asyncio.sleep(seconds)


async def ask() -> None:
    async with pool.connection() as connection:
        await connection.fetchval("select pg_sleep(100)")


async def crowd() -> None:
    """Have some hold all connections, if they can, and others wait."""
    kept.extend(asyncio.create_task(hold()) for _ in range(9))
    await asyncio.sleep(0.1)


# The ways to end


def never_opened() -> None:
    pass


async def closed() -> None:
    async with pool:
        await hold(0)


async def idle() -> None:
    await pool.initialize()


async def in_use() -> None:
    kept.append(await pool.acquire())


async def waited_for() -> None:
    await pool.initialize()
    await crowd()


async def left_in_the_midst() -> None:
    await waited_for()
    end()


async def left_with_a_lease() -> None:
    async with pool.connection():
        end()


async def connecting() -> None:
    ledger.script("open", [never] * 9)
    await crowd()


async def validating() -> None:
    await pool.initialize()
    ledger.script("validate", [never] * 9)
    await crowd()


async def resetting() -> None:
    ledger.script("reset", [never] * 9)
    kept.append(asyncio.create_task(hold(0)))
    await asyncio.sleep(0.1)


async def closing() -> None:
    await pool.initialize()
    ledger.script("close", [never] * 9)
    kept.append(asyncio.create_task(pool.close()))
    await asyncio.sleep(0.1)


async def interrupted() -> None:
    """Nobody knows what state the connections are in, and closing them takes its time."""
    ledger.script("reset", [fail()] * 9)
    ledger.script("close", [slow(0.3)] * 9)
    await waited_for()


async def asking() -> None:
    kept.extend(asyncio.create_task(ask()) for _ in range(9))
    await asyncio.sleep(0.3)


def used_on_two_loops_in_turn() -> None:
    asyncio.run(hold(0))
    asyncio.run(waited_for())


def heard_by_a_slow_subscriber() -> None:
    pool.bus.buffered(lambda event: time.sleep(0.01))
    asyncio.run(waited_for())


WAYS: tuple[Callable[[], Awaitable[None] | None], ...] = (
    never_opened,
    closed,
    idle,
    in_use,
    waited_for,
    left_in_the_midst,
    left_with_a_lease,
    connecting,
    validating,
    resetting,
    closing,
    interrupted,
    used_on_two_loops_in_turn,
    heard_by_a_slow_subscriber,
)

if __name__ == "__main__":
    name, *dsn = sys.argv[1:]
    pool = make_pool(*dsn)
    way = globals()[name]
    if asyncio.iscoroutinefunction(way):
        asyncio.run(way())
    else:
        way()
    end()
