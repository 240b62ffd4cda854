"""Callers of one pool, whatever drives it, and the books of what became of them."""

import asyncio
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from typing import Any, Self

from poolscope import events
from poolscope.stats import PoolStats
from poolscope.testing import Replay
from tests.servers.lenders import PATIENCE, SIZE, Lender, Pooled

CALLERS = SIZE + 2
STILL = frozenset({"away", "waiting", "holding"})
"""Where callers are who do nothing, and nothing more before they are told to."""


class Books:
    """Replays events in their order. Threads publish theirs each by itself."""

    def __init__(self) -> None:
        self.replay = Replay()
        self._heard: dict[int, events.Event] = {}

    def __call__(self, event: events.Event) -> None:
        self._heard[event.sequence] = event

    def check(self, stats: PoolStats) -> bool:
        """Compare with a snapshot; False if an event before it has yet to be heard of."""
        if self._write() != stats.sequence:
            return False
        self.replay.check(stats)
        return True

    def conclude(self, told: Pooled) -> None:
        """Check that a pool that has ended keeps nothing."""
        last = self._write()
        replay = self.replay
        assert not self._heard, f"events are missing from {last + 1} on"
        assert not replay.faults, replay.faults[:5]
        left = replay.requests, replay.leases, replay.connecting, replay.open
        assert not any(left), left
        self.compare(told)

    def _write(self) -> int:
        """Write down what was heard, up to the first event that is missing; return how many."""
        counts = self.replay.counts
        while (event := self._heard.pop(counts.total() + 1, None)) is not None:
            self.replay(event)
        return counts.total()

    def compare(self, told: Pooled) -> None:
        """Compare with the metrics, while nothing happens."""
        counts, metrics = self.replay.counts, told.metrics
        failures = Counter(e.reason for e in self.replay.of(events.AcquireFailed))
        failures[events.FailureReason.TIMEOUT] = counts[events.AcquireTimedOut]
        assert metrics.acquired == counts[events.ConnectionAcquired]
        assert +Counter(metrics.failures) == +failures
        assert metrics.opened == counts[events.ConnectionOpened]
        assert metrics.connect_failures == counts[events.ConnectFailed]
        assert +Counter(metrics.closed) == self.replay.reasons
        assert metrics.idle_connections + metrics.active_connections == len(self.replay.open)


class Crowd(ABC):
    """Asks one pool again and again, and stands still when it is told to."""

    pool: Pooled

    def __init__(self, lender: Lender, url: str) -> None:
        self.lender = lender
        self.url = lender.url(url)
        self.books = Books()
        self.goes_on = False
        self.places = ["away"] * CALLERS
        self.served = [0] * CALLERS
        self.outcomes: Counter[str] = Counter()
        self.longest: Counter[str] = Counter()
        """The longest time in seconds it took to enter, and to leave."""
        self._halted = False
        self._gate = threading.Lock()

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def begin(self) -> None:
        """Have all callers ask, until the end."""

    @abstractmethod
    def end(self) -> None:
        """Let all go home, and wait until they have."""

    @abstractmethod
    def everything(self) -> Any:
        """Return a context in which all connections are held; it gives the server's numbers."""

    @abstractmethod
    def close(self) -> None:
        """Close the pool, and leave nothing behind."""

    @abstractmethod
    def dispose(self) -> None:
        """Close the pool under those who use it."""

    def __exit__(self, *_: object) -> None:
        try:
            self.end()
        finally:
            self.close()

    def __str__(self) -> str:
        callers = f"callers {Counter(self.places)}, {self.outcomes}, {self.longest}"
        return f"{self.lender}: {self.pool.stats()}; {callers}"

    def stats(self) -> PoolStats:
        stats = self.pool.stats()
        assert stats is not None
        return stats

    @property
    def rests(self) -> bool:
        stats = self.pool.stats()  # none of an engine that was just disposed of
        moving = stats is not None and stats.connecting + stats.closing + stats.granted
        return not moving and STILL.issuperset(self.places)

    def halt(self, halted: bool) -> None:
        with self._gate:
            self._halted = halted

    # What a caller notes

    def may_go_on(self, number: int) -> bool:
        """Go on, if nobody holds it back."""
        with self._gate:
            if not self._halted:
                self.places[number] = "busy"
            return not self._halted

    def note(self, way: str, began: float) -> float:
        """Note how long it took to enter or to leave; return the time."""
        now = time.monotonic()
        self.longest[way] = max(self.longest[way], now - began)
        return now

    def failed(self, error: Exception) -> None:
        if isinstance(error, AssertionError):
            raise error
        self.outcomes[type(error).__name__] += 1


class Threads(Crowd):
    """Callers that are threads."""

    def __enter__(self) -> Self:
        self.pool = self.lender.open(self.url, self.books, self.lender.options)
        self._threads = ThreadPoolExecutor(CALLERS)
        self.begin()
        return self

    def begin(self) -> None:
        self.goes_on = True
        self._lives = [self._threads.submit(self._live, number) for number in range(CALLERS)]

    def _live(self, number: int) -> None:
        while self.goes_on:
            self._rest(number, "away")
            self._ask(number)
        self.places[number] = "away"

    def _rest(self, number: int, place: str) -> None:
        self.places[number] = place
        time.sleep(random.expovariate(100))
        while not self.may_go_on(number):
            time.sleep(0.005)

    def _ask(self, number: int) -> None:
        began, entered = time.monotonic(), False
        self.places[number] = "waiting"
        try:
            with self.pool.lease() as connection:
                self.places[number] = "busy"
                self.note("enter", began)
                entered = True
                try:
                    self.lender.session(connection)
                    self._rest(number, "holding")
                    self.lender.session(connection)
                finally:
                    self.places[number] = "leaving"
                    began = time.monotonic()
            self.served[number] += 1
        except Exception as error:
            self.failed(error)
        finally:
            self.note("leave" if entered else "enter", began)

    def end(self) -> None:
        self.goes_on = False
        self.halt(False)
        for life in self._lives:
            life.result(60)

    @contextmanager
    def everything(self) -> Iterator[list[Any]]:
        with ExitStack() as leases:
            held = [leases.enter_context(self.pool.lease()) for _ in range(SIZE)]
            yield [self.lender.session(connection) for connection in held]

    def dispose(self) -> None:
        self.pool.close()

    def close(self) -> None:
        self._threads.shutdown()
        self.pool.close()


class Tasks(Crowd):
    """Callers that are tasks of an event loop, which runs in a thread of its own."""

    def __enter__(self) -> Self:
        begun = threading.Event()
        self._thread = threading.Thread(target=self._run, args=[begun])
        self._thread.start()
        begun.wait()
        try:
            self.pool = self.do(self.lender.open(self.url, self.books, self.lender.options))
        except BaseException:
            self._stop()
            raise
        self.begin()
        return self

    def begin(self) -> None:
        self.goes_on = True
        lives = map(self._live, range(CALLERS))
        self._lives = [asyncio.run_coroutine_threadsafe(life, self._loop) for life in lives]

    def _run(self, begun: threading.Event) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self._loop.call_soon(begun.set)
            self._loop.run_forever()

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _live(self, number: int) -> None:
        while self.goes_on:
            await self._rest(number, "away")
            await self._ask(number)
        self.places[number] = "away"

    async def _rest(self, number: int, place: str) -> None:
        self.places[number] = place
        await asyncio.sleep(random.expovariate(100))
        while not self.may_go_on(number):  # noqa: ASYNC110 - it is told by another thread
            await asyncio.sleep(0.005)

    async def _session(self, connection: Any) -> Any:
        async with asyncio.timeout(2 * PATIENCE):
            return await self.lender.session(connection)

    async def _ask(self, number: int) -> None:
        began, entered = time.monotonic(), False
        self.places[number] = "waiting"
        try:
            async with self.pool.lease() as connection:
                self.places[number] = "busy"
                self.note("enter", began)
                entered = True
                try:
                    await self._session(connection)
                    await self._rest(number, "holding")
                    await self._session(connection)
                finally:
                    self.places[number] = "leaving"
                    began = time.monotonic()
            self.served[number] += 1
        except Exception as error:
            self.failed(error)
        finally:
            self.note("leave" if entered else "enter", began)

    def end(self) -> None:
        self.goes_on = False
        self.halt(False)
        for life in self._lives:
            life.result(60)

    @contextmanager
    def everything(self) -> Iterator[list[Any]]:
        leases = AsyncExitStack()

        async def hold() -> list[Any]:
            held = [await leases.enter_async_context(self.pool.lease()) for _ in range(SIZE)]
            return [await self.lender.session(connection) for connection in held]

        try:
            yield self.do(hold())
        finally:
            self.do(leases.aclose())

    def dispose(self) -> None:
        self.do(self.pool.close())

    def close(self) -> None:
        if not self._thread.is_alive():
            return

        async def look_around() -> set[asyncio.Task[Any]]:
            return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

        try:
            self.do(self.pool.close())
            assert not (left := self.do(look_around())), f"tasks left behind: {left}"
        finally:
            self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def crowd(lender: Lender, url: str) -> Crowd:
    return (Tasks if lender.in_loop else Threads)(lender, url)
