"""Where cancellation is tried: a pool on a scripted server, others, and what went before."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.errors import PoolClosedError, PoolError
from poolscope.events import ConnectionRequested
from poolscope.testing import FakeConnection, Ledger, Replay, clock
from poolscope.testing.ledger import Behaviour, fail, never, slow
from tests.behaviour.bench import kill_threads, make_pool

HOOKS = ("open", "validate", "reset", "close")
BEHAVIOURS: Mapping[str, Behaviour | None] = {
    "ok": None,
    "failing": fail(),
    "slow": slow(1.0),
    "never": never,
    "stubborn": lambda: ignore_cancellation(6.0),
}
COMMON = ("ok", "failing", "slow", "never")
FINE: Mapping[str, str] = dict.fromkeys(HOOKS, "ok")


async def ignore_cancellation(seconds: float) -> None:
    """Sleep, and go on sleeping when cancelled, as some drivers do."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (left := end - loop.time()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(left)


class Stage:
    """A pool of two on a scripted server, and others who want connections too."""

    def __init__(
        self, hooks: Mapping[str, str] = FINE, *, careful: bool = True, min_size: int = 0
    ) -> None:
        self.hooks = hooks
        self.ledger = Ledger()
        self.replay = Replay()
        self.others: list[asyncio.Task[None]] = []
        self.refusals: list[PoolError] = []
        self.pool: ConnectionPool[FakeConnection] = make_pool(
            self.ledger.open,
            ConnectionPoolSettings(
                min_size=min_size,
                max_size=2,
                max_connecting=1,
                retry_limit=1,
                retry_delay=0.1,
                connect_timeout=3,
                validate_timeout=2,
                close_timeout=4,
                acquire_timeout=8,
            ),
            self.ledger.validate if careful else None,
            self.ledger.close,
            reset_func=self.ledger.reset if careful else None,
            clock=clock,
        )
        self.pool.bus.subscribe(self.replay)

    def begin(self) -> None:
        """Let the server be as bad as it is meant to be, from now on."""
        self.began = clock()
        for hook, how in self.hooks.items():
            if (behaviour := BEHAVIOURS[how]) is not None:
                self.ledger.script(hook, [behaviour] * 999)

    def repair(self) -> None:
        for script in self.ledger.scripts.values():
            script.clear()

    async def insist(self, hold: float = 0.0) -> None:
        """Want a connection, and try until there was one."""
        while True:
            try:
                async with self.pool.connection() as connection:
                    await connection.execute()
                    return await asyncio.sleep(hold)
            except PoolClosedError as error:
                return self.refusals.append(error)
            except PoolError as error:
                self.refusals.append(error)
            await asyncio.sleep(0.5)

    def add_other(self, hold: float = 0.0) -> None:
        self.others.append(asyncio.create_task(self.insist(hold)))

    async def others_are_served(self) -> None:
        async with asyncio.timeout(300):
            await asyncio.gather(*self.others)
        if self.hooks == FINE:
            assert not self.refusals

    async def all_connections_can_be_had(self) -> None:
        async with asyncio.timeout(300), AsyncExitStack() as leases:
            for _ in range(self.pool.settings.max_size):
                connection = await leases.enter_async_context(self.pool.connection())
                await connection.execute()

    def books_balance(self) -> None:
        self.replay.check(self.pool.stats())
        counted = self.pool.get_metrics().connection_requests
        assert counted == self.replay.counts[ConnectionRequested]

    async def nothing_is_left(self) -> None:
        await self.pool.close()
        if "stubborn" in self.hooks.values():
            await asyncio.sleep(6.1)  # until the last of them is through
        await kill_threads(self.pool)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        self.ledger.audit()
        self.books_balance()
        assert self.pool.stats().size == 0


Scene = Callable[[Stage], Awaitable[None]]


async def nothing_open(stage: Stage) -> None:
    """The victim waits for a connect."""


async def one_idle(stage: Stage) -> None:
    """The victim validates what is there."""
    await stage.insist()


async def one_dead(stage: Stage) -> None:
    """The victim's validation fails, and a connect follows."""
    await stage.insist()
    for connection in stage.ledger.open_connections.copy():
        stage.ledger.kill(connection)


async def all_in_use(stage: Stage) -> None:
    """The victim waits in line, and is handed what others give back."""
    stage.add_other(hold=1.0)
    stage.add_other(hold=2.0)
    await asyncio.sleep(0.5)


async def one_returns_and_one_never_does(stage: Stage) -> None:
    """The victim closes a pool of which one connection comes back in time."""
    stage.add_other(hold=2.0)
    stage.add_other(hold=1000.0)
    await asyncio.sleep(0.5)


async def one_is_connecting(stage: Stage) -> None:
    """The victim closes a pool in the midst of a connect, with one connection in use."""
    stage.add_other(hold=2.0)
    await asyncio.sleep(0.5)
    stage.ledger.script("open", [slow(2.0)])
    stage.add_other()
    await asyncio.sleep(0.5)


async def one_is_validated(stage: Stage) -> None:
    """The victim closes a pool that is just about to lend a connection."""
    await stage.insist()
    stage.ledger.script("validate", [never])
    stage.add_other()
    await asyncio.sleep(0.5)


async def one_is_reset(stage: Stage) -> None:
    """The victim closes a pool that is just taking a connection back."""
    stage.ledger.script("reset", [never])
    stage.add_other()
    await asyncio.sleep(0.5)


Body = Callable[[Stage], Awaitable[None]]


async def borrow(stage: Stage) -> None:
    async with stage.pool.connection() as connection:
        await connection.execute(2)


async def borrow_by_hand(stage: Stage) -> None:
    connection = await stage.pool.acquire()
    try:
        await connection.execute(2)
    finally:
        await stage.pool.release(connection)


async def borrow_two(stage: Stage) -> None:
    async with stage.pool.connection(timeout=5) as one:
        await one.execute()
        async with stage.pool.connection(timeout=5) as other:
            await asyncio.gather(one.execute(), other.execute())
