"""Thirty tasks on five connections, and all that can go wrong: drawn from one seed, virtual time.

The last seed is new in every run; `POOLSCOPE_SEED=<number>` repeats it.
"""

import asyncio
import os
import random
from collections import Counter
from contextlib import AsyncExitStack, nullcontext, suppress

import pytest

from poolscope import ConnectionPool, ConnectionPoolSettings, events
from poolscope.errors import PoolError, PoolTimeoutError, ReleaseError
from poolscope.testing import FakeConnection, Ledger, Replay, clock, run_virtual
from poolscope.testing.ledger import Behaviour, answer, fail, never, slow
from tests.behaviour.bench import Driver, kill_threads, make_pool

TASKS = 30
SIZE = 5
LONGEST_WAIT = 3.0

FRESH_SEED = int(os.environ.get("POOLSCOPE_SEED") or random.SystemRandom().getrandbits(32))
SEEDS = (*range(120), FRESH_SEED)

# Coarse, so that much falls on the same instant: deadlines, deliveries, cancellations.
INSTANTS = (0.0, 0.0, 0.1, 0.1, 0.2, 0.5, 1.0)


class Storm:
    """A pool in bad weather, and its books, which are compared after every event."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ledger = Ledger()
        self.replay = Replay()
        self.faults: list[str] = []
        self.heard: Counter[str] = Counter()
        """What the callers were told, to compare with the events."""
        self.cancelled: set[asyncio.Task[None]] = set()
        self.detached: set[FakeConnection] = set()
        self.ceiling = SIZE
        self.closed_early = self.luck(0.2)
        self.pool = self._make_pool()
        self.pool.bus.subscribe(self._watch)

    def _make_pool(self) -> ConnectionPool[FakeConnection]:
        settings = ConnectionPoolSettings(
            min_size=self.random.randint(0, 2),
            max_size=SIZE,
            name="storm",
            max_idle=self.random.randint(0, SIZE),
            max_waiting=self.random.choice([None, None, 10, 20]),
            max_connecting=self.random.randint(1, 3),
            max_lifetime=self.random.choice([2.0, 1000.0]),
            idle_timeout=self.random.choice([0.3, 1000.0]),
            leak_threshold=self.random.choice([None, 0.2]),
            retry_limit=self.random.randint(0, 2),
            retry_delay=0.2,
            connect_timeout=0.5,
            validate_timeout=0.5,
            close_timeout=0.5,
        )
        return make_pool(
            self.ledger.open,
            settings,
            self.random.choice([None, self.ledger.validate]),
            self.ledger.close,
            reset_func=self.random.choice([None, self.ledger.reset]),
            clock=clock,
        )

    # The weather

    def instant(self) -> float:
        return self.random.choice(INSTANTS)

    def luck(self, chance: float) -> bool:
        return self.random.random() < chance

    def _trouble(self, name: str) -> Behaviour:
        if self.luck(0.9):
            return slow(self.instant() / 5)
        if name == "validate" and self.luck(0.5):
            return answer(False)
        return self.random.choice([fail(), slow(0.5), never])

    async def go_wild(self) -> None:
        """Let the server be unreliable, and the operator busy, while all tasks run."""
        for name in self.ledger.scripts:
            self.ledger.script(name, [self._trouble(name) for _ in range(2_000)])
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(self._customer())
            group.create_task(self._server())
            group.create_task(self._operator())

    async def _server(self) -> None:
        for _ in range(20):
            await asyncio.sleep(self.instant())
            alive = sorted(self.ledger.open_connections, key=lambda c: c.serial)
            if alive:
                self.ledger.kill(self.random.choice(alive))

    async def _operator(self) -> None:
        for _ in range(self.random.randint(4, 8)):
            await asyncio.sleep(self.instant())
            if self.luck(0.3):
                await self.pool.drain()
            else:
                low = self.random.randint(0, 2)
                await self.pool.resize(low, low + self.random.randint(1, 5))
        if self.closed_early:
            await self.pool.close(self.instant())
            assert self.pool.stats().size == 0
        else:
            await self.pool.resize(0, SIZE)

    # The customers

    async def _customer(self) -> None:
        for _ in range(6):
            await asyncio.sleep(self.instant())
            errand = asyncio.create_task(self._errand())
            if self.luck(0.3):
                asyncio.get_running_loop().call_later(self.instant(), self._cancel, errand)
            await asyncio.wait({errand})
            if not errand.cancelled():
                errand.result()

    def _cancel(self, errand: asyncio.Task[None]) -> None:
        if errand.cancel():
            self.cancelled.add(errand)

    async def _errand(self) -> None:
        limit = self.instant() if self.luck(0.3) else None
        with suppress(ConnectionError, TimeoutError, ZeroDivisionError):
            async with asyncio.timeout(limit):
                await self.random.choice([self._borrow, self._borrow_by_hand])()

    def _timeout(self) -> float:
        return self.random.choice([0.0, 0.5, LONGEST_WAIT, LONGEST_WAIT])

    async def _borrow(self) -> None:
        async with AsyncExitStack() as stack:
            try:
                connection = await stack.enter_async_context(self.pool.connection(self._timeout()))
            except BaseException as error:
                return self._told(error)
            self.heard["acquired"] += 1
            await self._use(connection)
            if self.luck(0.05) and not self.closed_early:
                self.detached.add(await self.pool.detach(connection))
                connection.terminate()
            elif self.luck(0.05):
                raise ZeroDivisionError

    async def _borrow_by_hand(self) -> None:
        try:
            connection = await self.pool.acquire(self._timeout())
        except BaseException as error:
            return self._told(error)
        self.heard["acquired"] += 1
        try:
            await asyncio.sleep(self.instant())
        finally:
            with suppress(ReleaseError) if self.closed_early else nullcontext():
                await self.pool.release(connection)

    async def _use(self, connection: FakeConnection) -> None:
        for _ in range(self.random.randint(0, 2)):
            await connection.execute(self.random.randint(0, 2), behaviour=slow(self.instant()))

    def _told(self, error: BaseException) -> None:
        self.heard[type(error).__name__] += 1
        if not isinstance(error, PoolError):
            raise error

    # The books

    def _watch(self, event: events.Event) -> None:
        """Compare everything, whenever the pool has told all it has done."""
        self.replay(event)
        stats = self.pool.stats()
        if stats.sequence != event.sequence or self.faults:
            return
        try:
            self.replay.check(stats)
            self.ceiling = max(self.ceiling, stats.max_size)
            assert stats.size <= self.ceiling, stats
            opened = len(self.ledger.open_connections - self.detached)
            assert opened - self._late() <= self.ceiling, f"{opened} open of {self.ceiling}"
            # Just shrunk: there may be more than max_size, but from now on never more than now.
            self.ceiling = max(stats.max_size, stats.size, opened - self._late())
            assert not (stats.oldest_wait and stats.idle), f"waits beside an idle one: {stats}"
            wait = getattr(event, "wait", 0.0)
            assert wait <= LONGEST_WAIT + 0.001, event
        except AssertionError as error:
            self.faults.append(f"after {event}: {error}")

    def _late(self) -> int:
        """Return how many connections may be open that were given up: no thread can be stopped."""
        if Driver.name == "asyncio":
            return 0
        failed = self.replay.of(events.ConnectFailed)
        return sum(isinstance(e.error, TimeoutError) for e in failed)  # type: ignore[attr-defined]

    async def calm_down(self) -> None:
        """Repair the server; after a while all is idle, all can be had, and limits hold."""
        for script in self.ledger.scripts.values():
            script.clear()
        await asyncio.sleep(10)
        stats = self.pool.stats()
        assert (stats.waiting, stats.in_use, stats.connecting, stats.closing) == (0, 0, 0, 0)
        async with asyncio.timeout(60), AsyncExitStack() as leases:
            for _ in range(SIZE):
                connection = await leases.enter_async_context(self.pool.connection(LONGEST_WAIT))
                self.heard["acquired"] += 1
                with suppress(ConnectionError):
                    await connection.execute()
            assert self.pool.stats().in_use == SIZE
            await self.pool.resize(0, 2)
        await asyncio.sleep(10)
        assert self.pool.stats().size <= 2

    def audit(self) -> None:
        assert not self.faults, self.faults
        self.replay.check(self.pool.stats())
        self.ledger.audit()
        assert all(errand.cancelled() for errand in self.cancelled)
        self._compare_with_what_callers_heard()

    def _compare_with_what_callers_heard(self) -> None:
        counts, heard = self.replay.counts, self.heard.copy()
        failed = [e.reason.value for e in self.replay.of(events.AcquireFailed)]  # type: ignore[attr-defined]
        assert heard.pop("acquired", 0) == counts[events.ConnectionAcquired]
        assert heard.pop(PoolTimeoutError.__name__, 0) == counts[events.AcquireTimedOut]
        assert heard.pop("CancelledError", 0) == failed.count("cancelled")
        assert heard.total() == len(failed) - failed.count("cancelled")


def weather(seed: int) -> Storm:
    """Let one storm pass."""
    random.seed(seed)  # the pool draws the jitter of retries and ages from there

    async def pass_through() -> Storm:
        storm = Storm(seed)
        await storm.go_wild()
        if not storm.closed_early:
            await storm.calm_down()
        await storm.pool.close()
        await kill_threads(storm.pool)
        storm.audit()
        return storm

    return run_virtual(pass_through())


@pytest.mark.parametrize("seed", SEEDS, ids="seed_{}".format)
def test_in_any_weather_the_books_balance_and_nothing_is_lost(seed: int) -> None:
    storm = weather(seed)
    assert storm.replay.counts[events.ConnectionRequested] > TASKS


def test_a_seed_repeats_its_storm() -> None:
    first, second = weather(FRESH_SEED), weather(FRESH_SEED)
    assert [(type(e), e.time, e.sequence) for e in first.replay.events] == [
        (type(e), e.time, e.sequence) for e in second.replay.events
    ]
