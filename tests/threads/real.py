"""A scripted server for real threads, with a ledger kept outside the pool."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from poolscope import events
from poolscope.stats import PoolStats
from poolscope.testing import Replay


class Connection:
    """A connection of a `RealLedger`. Using it while somebody else does is an error."""

    def __init__(self, ledger: "RealLedger") -> None:
        self.ledger = ledger
        self.alive = True
        self.user = threading.Lock()
        """Held by who uses it."""
        self.said_goodbye = False

    def use(self, deed: Callable[[], object] = int) -> None:
        """Do something, that nobody else may do at the same time."""
        if self.user.locked():
            self.ledger.faults.append(f"{self} used by two at once")
        with self.user:
            if not self.alive and not self.ledger.tolerant:
                self.ledger.faults.append(f"{self} used when closed")
            deed()

    def terminate(self) -> None:
        self.ledger.closed(self)


class RealLedger:
    """Opens, checks, resets and closes connections, in any thread; writes down what is open."""

    def __init__(self, *, tolerant: bool = False) -> None:
        self.tolerant = tolerant
        """A connection may be used when closed: a pool that closes takes it from its holder."""
        self.lock = threading.RLock()
        self.open_connections: dict[Connection, None] = {}
        self.opened = 0
        self.most_open = 0
        self.faults: list[str] = []
        self.delays: dict[str, Callable[[], object]] = {}
        """What each step does besides."""
        self.threads: dict[str, set[int]] = {}
        """Which threads did each step."""

    def _step(self, name: str) -> Any:
        self.threads.setdefault(name, set()).add(threading.get_ident())
        return self.delays.get(name, int)()

    def open(self) -> Connection:
        self._step("open")
        connection = Connection(self)
        with self.lock:
            self.opened += 1
            self.most_open = max(self.most_open, len(self.open_connections) + 1)
            self._enter(connection)
        return connection

    def _enter(self, connection: Connection) -> None:
        self.open_connections[connection] = None

    def validate(self, connection: Connection) -> bool:
        connection.use()
        return self._step("validate") is not False and connection.alive

    def reset(self, connection: Connection) -> None:
        connection.use()
        self._step("reset")

    def close(self, connection: Connection) -> None:
        if connection.said_goodbye:
            self.faults.append(f"{connection} closed twice")
        connection.said_goodbye = True
        self._step("close")
        self.closed(connection)

    def closed(self, connection: Connection) -> None:
        connection.alive = False
        with self.lock:
            self.open_connections.pop(connection, None)

    def audit(self) -> None:
        assert not self.faults, self.faults[:5]
        assert not self.open_connections, f"never closed: {self.open_connections}"


class Recorder:
    """Collects the events that threads publish at once; replays them in order."""

    def __init__(self, pool: Any) -> None:
        self.events: list[events.Event] = []
        # A method of C, which no signal can interrupt before it has done its work.
        pool.bus.subscribe(self.events.append)

    def replay(self, after: int = 0) -> Replay:
        """Replay what came after an event, by its number."""
        replay = Replay()
        for event in sorted(self.events, key=lambda event: event.sequence):
            if event.sequence > after:
                replay(event)
        return replay

    def check(self, stats: PoolStats) -> Replay:
        replay = self.replay()
        replay.check(stats)
        return replay


def check_metrics(pool: Any, replay: Replay) -> None:
    """Compare what the pool's own metrics have counted with its events."""
    metrics, stats, counts = pool.get_metrics(), pool.stats(), replay.counts
    assert metrics.acquired == counts[events.ConnectionAcquired]
    assert metrics.released == counts[events.ConnectionReleased]
    assert metrics.reclaimed == counts[events.LeakReclaimed]
    assert metrics.detached == counts[events.ConnectionDetached]
    assert metrics.opened == counts[events.ConnectionOpened]
    assert metrics.connection_requests == counts[events.ConnectionRequested]
    ended = metrics.released + metrics.reclaimed + metrics.detached
    assert metrics.acquired == ended + stats.in_use - stats.granted


def in_threads(*targets: Callable[[], object], timeout: float = 30.0) -> None:
    """Run all at once; raise what one of them raised."""
    errors: list[BaseException] = []

    def run(target: Callable[[], object]) -> None:
        try:
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in targets]
    for thread in threads:
        thread.start()
    end = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    if errors:
        raise errors[0]


def until(condition: Callable[[], object], timeout: float = 5.0) -> None:
    """Wait until a condition holds, which threads of the pool bring about."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.001)


def pool_threads() -> list[str]:
    """Return the names of the threads that pools have left."""
    return [t.name for t in threading.enumerate() if t.name.startswith("poolscope-")]


def tally(names: Iterable[str]) -> Counter[str]:
    return Counter(names)


def dice(seed: int) -> random.Random:
    return random.Random(seed)
