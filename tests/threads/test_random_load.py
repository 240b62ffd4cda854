"""Many threads on few connections, and all that can go wrong, at a switch every microsecond.

Who does what is drawn from a seed, which pytest shows; `POOLSCOPE_SEED=<number>` repeats the draw
of the last one, though not the interleaving, which is the system's.
"""

import gc
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress

import pytest

from poolscope import ConnectionPoolSettings, SyncConnectionPool, events
from poolscope.errors import ConnectFailedError, PoolClosedError, PoolError, ReleaseError
from poolscope.functions import prompt
from tests.threads.real import (
    Connection,
    RealLedger,
    Recorder,
    check_metrics,
    in_threads,
    pool_threads,
    until,
)

THREADS = 24
SIZE = 4
SECONDS = 0.7
FRESH_SEED = int(os.environ.get("POOLSCOPE_SEED") or random.SystemRandom().getrandbits(32))
SEEDS = (*range(4), FRESH_SEED)


pytestmark = pytest.mark.usefixtures("frequent_switches")


class Storm:
    """A pool in bad weather, and its books."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.ceiling = SIZE
        self.closes_early = self.random.random() < 0.3
        self.ledger = RealLedger(tolerant=self.closes_early)
        for name in ("open", "validate", "reset", "close"):
            self.ledger.delays[name] = self._trouble(random.Random(f"{seed} {name}"))
        self.detached: list[Connection] = []
        self.outcomes: list[str] = []
        self.pool = self._make_pool()
        self.recorder = Recorder(self.pool)
        self.pool.bus.subscribe(self._look)

    def _make_pool(self) -> SyncConnectionPool[Connection]:
        choose = self.random.choice
        mark: Callable[[Callable[..., object]], Callable[..., object]]
        mark = choose([prompt(), lambda function: function])
        ledger = self.ledger
        return SyncConnectionPool(
            ledger.open,
            ConnectionPoolSettings(
                min_size=choose([0, 1, 2]),
                max_size=SIZE,
                max_idle=choose([1, SIZE]),
                max_waiting=choose([None, 10]),
                max_connecting=choose([1, 3]),
                max_lifetime=choose([0.02, 100.0]),
                idle_timeout=choose([0.01, 100.0]),
                leak_threshold=choose([None, 0.005]),
                retry_limit=choose([0, 2]),
                retry_delay=0.001,
                connect_timeout=choose([0.02, 5.0]),
                validate_timeout=choose([0.01, 5.0]),
                close_timeout=5.0,
                acquire_timeout=5.0,
            ),
            mark(lambda connection: ledger.validate(connection)) if choose([0, 1]) else None,
            ledger.close,
            reset_func=mark(lambda connection: ledger.reset(connection))
            if choose([0, 1])
            else None,
            connect_inline=choose([False, False, True]),
        )

    @staticmethod
    def _trouble(dice: random.Random) -> Callable[[], object]:
        def step() -> object:
            luck = dice.random()
            if luck < 0.02:
                raise ConnectionRefusedError
            if luck < 0.1:
                time.sleep(dice.choice([0.0001, 0.001, 0.012]))
            return luck > 0.04

        return step

    def _look(self, event: events.Event) -> None:
        """Call the pool while it publishes, as subscribers may."""
        assert self.pool.stats().sequence >= event.sequence

    # What threads do

    def customer(self, number: int) -> Callable[[], None]:
        dice = random.Random(f"{self.seed} {number}")
        deeds = [self._borrow] * 6 + [self._borrow_by_hand] * 3 + [
            self._raise, self._detach, self._lose, self._release_twice, self._hurry,
        ]  # fmt: skip

        def visit() -> None:
            while time.monotonic() < self.end:
                try:
                    dice.choice(deeds)(dice)
                except (PoolError, ConnectionError, ZeroDivisionError) as error:
                    self.outcomes.append(type(error).__name__)
                    if isinstance(error, PoolClosedError):
                        return

        return visit

    @staticmethod
    def _pause(dice: random.Random) -> None:
        time.sleep(dice.choice([0, 0, 0.0001, 0.001]))

    def _borrow(self, dice: random.Random) -> None:
        with self.pool.connection() as connection:
            connection.use(lambda: self._pause(dice))

    def _borrow_by_hand(self, dice: random.Random) -> None:
        connection = self.pool.acquire()
        connection.use(lambda: self._pause(dice))
        with suppress(ReleaseError) if self.closes_early else nullcontext():
            self.pool.release(connection)

    def _raise(self, dice: random.Random) -> None:
        with self.pool.connection() as connection:
            connection.use()
            raise dice.choice([ConnectionResetError, ZeroDivisionError])

    def _detach(self, dice: random.Random) -> None:
        with self.pool.connection() as connection:
            connection.use()
            self.ledger.closed(connection)  # it is nobody's concern any more
            self.pool.detach(connection)

    def _lose(self, dice: random.Random) -> None:
        lease = self.pool.connection()
        lease.__enter__().use()

    def _release_twice(self, dice: random.Random) -> None:
        connection = self.pool.acquire()
        self.pool.release(connection)
        # Another may have it by now, whose lease this must not end; it is ours to try only when
        # nobody can have it.
        with pytest.raises(ReleaseError):
            self.pool.release(object())  # type: ignore[arg-type]

    def _hurry(self, dice: random.Random) -> None:
        with self.pool.connection(dice.choice([0.0, 0.0001, 0.002])) as connection:
            connection.use()

    def operator(self) -> None:
        dice = random.Random(f"{self.seed} operator")
        while time.monotonic() < self.end:
            time.sleep(0.01)
            with suppress(PoolClosedError):
                if dice.random() < 0.3:
                    self.pool.drain()
                else:
                    low = dice.randint(0, 2)
                    self.pool.resize(low, low + dice.randint(1, SIZE - 2))
                self.pool.get_metrics().to_dict()
        if self.closes_early:
            self.pool.close(dice.choice([0.0, 0.005]))
            assert self.pool.stats().size == 0
        else:
            self.pool.resize(0, SIZE)

    # The weather, and the books

    def go_wild(self) -> None:
        self.end = time.monotonic() + SECONDS
        in_threads(*(self.customer(number) for number in range(THREADS)), self.operator)

    def calm_down(self) -> None:
        self.ledger.delays.clear()
        pool = self.pool
        held = [self._insist() for _ in range(SIZE)]
        assert pool.stats().in_use == SIZE
        for connection in held:
            connection.use()
            pool.release(connection)
        until(lambda: pool.stats().in_use == pool.stats().waiting == 0)

    def _insist(self) -> Connection:
        """Acquire a connection; that a busy machine is too slow to connect in time is no news."""
        while True:
            with suppress(ConnectFailedError):
                return self.pool.acquire(5.0)

    def audit(self) -> None:
        until(lambda: not pool_threads())
        replay = self.recorder.check(self.pool.stats())
        check_metrics(self.pool, replay)
        self.ledger.audit()
        assert self.ledger.most_open <= SIZE + self._late()
        assert self.pool.bus.failures == 0
        told = self.outcomes.count("PoolTimeoutError")
        assert told == replay.counts[events.AcquireTimedOut]

    def _late(self) -> int:
        """Return how many connects were given up: each may still open one, which is closed then."""
        return sum(isinstance(e, events.ConnectFailed) for e in self.recorder.events)


@pytest.mark.parametrize("seed", SEEDS, ids="seed_{}".format)
def test_however_threads_interleave_the_books_balance_and_nothing_is_lost(seed: int) -> None:
    storm = Storm(seed)
    storm.go_wild()
    if not storm.closes_early:
        storm.calm_down()
    storm.pool.close()
    storm.audit()


def test_of_many_who_release_the_same_connection_one_succeeds() -> None:
    ledger = RealLedger()
    pool = SyncConnectionPool(ledger.open, ConnectionPoolSettings(max_size=1))
    recorder = Recorder(pool)
    with pool:
        for _ in range(100):
            connection, refused = pool.acquire(), []
            start = threading.Barrier(4)

            def release() -> None:
                start.wait()  # noqa: B023
                try:
                    pool.release(connection)  # noqa: B023
                except ReleaseError:
                    refused.append(1)  # noqa: B023

            in_threads(*[release] * 4)
            assert len(refused) == 3
        assert pool.stats().idle == 1
        assert sum(isinstance(e, events.MisuseDetected) for e in recorder.events) == 300


def test_no_lost_lease_waits_for_the_collector_of_cycles() -> None:
    gc.collect()
    gc.disable()
    try:
        storm = Storm(2)  # it connects inline, where frames of callers are at hand to be kept
        storm.go_wild()
        storm.calm_down()
    finally:
        gc.enable()
    storm.pool.close()
    storm.audit()
