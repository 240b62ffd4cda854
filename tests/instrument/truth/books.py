"""What the events of a foreign pool add up to, and which connection is which at a server."""

import asyncio
import threading
from collections import Counter

from poolscope import events as e
from poolscope.instrument import ForeignPool
from poolscope.stats import PoolStats
from poolscope.testing import Replay


class Foreign(Replay):
    """Replays the events of a foreign pool, whose line is not the pool's own.

    Threads come and go while one of them looks at it, so a place in it means little.
    """

    def __init__(self, reconnects: bool) -> None:
        super().__init__()
        self.reconnects = reconnects

    def _ConnectionClosed(self, event: e.ConnectionClosed) -> None:
        leased = event.connection_id in self.leases.values()
        self._expect(self.reconnects or not leased, f"closed though leased: {event}")
        self._expect(event.connection_id in self.open, f"closed twice: {event}")
        self.open.discard(event.connection_id)
        self.reasons[event.reason] += 1

    def _RequestQueued(self, event: e.RequestQueued) -> None:
        self._expect(event.request_id in self.requests, f"queued when ended: {event}")
        self._expect(event.request_id not in self.queued, f"queued twice: {event}")
        self._expect(event.waiting > 0, f"no place in the line: {event}")
        self.queued.add(event.request_id)

    def _SaturationStarted(self, event: e.SaturationStarted) -> None:
        self._expect(self.saturation is None, f"saturated twice: {event}")
        self.saturation = event

    def _SaturationEnded(self, event: e.SaturationEnded) -> None:
        self._expect(self.saturation is not None, f"never began: {event}")
        self.saturation = None

    def _check_saturation(self, stats: PoolStats) -> None:
        self._expect(self.saturation is None or stats.saturation_time > 0, f"{stats}")


def _here() -> object:
    """Return the task or thread that runs this."""
    try:
        return asyncio.current_task() or threading.get_ident()
    except RuntimeError:
        return threading.get_ident()


class Books:
    """Subscribe this before there is a pool. Safe from any thread."""

    def __init__(self, reconnects: bool) -> None:
        self.replay = Foreign(reconnects)
        self.numbers: dict[str, int] = {}
        """The server's numbers of connections, as far as callers have learned them."""
        self._lock = threading.Lock()
        self._heard: dict[tuple[str, int], e.Event] = {}
        self._counts: Counter[type[e.Event]] = Counter()
        self._last: dict[object, str] = {}
        """The connection that was lent or opened last, by who got it."""
        self._next = 1
        self._name = ""

    def __call__(self, event: e.Event) -> None:
        if hasattr(event, "error"):
            event.error = None  # its traceback would keep connections alive, and so open
        with self._lock:
            self._heard[event.pool, event.sequence] = event
            self._counts[type(event)] += 1
            if isinstance(event, e.ConnectionAcquired | e.ConnectionOpened):
                self._last[_here()] = event.connection_id

    def about(self, source: ForeignPool) -> None:
        self._name = source.name

    def learn(self, number: int) -> None:
        """Note what the server calls the connection that this task or thread got last."""
        with self._lock:
            self.numbers[self._last[_here()]] = number

    @property
    def begun(self) -> int:
        """Return how many connections were begun."""
        return self._counts[e.ConnectStarted]

    @property
    def gone(self) -> int:
        """Return how many connections left the pool."""
        return self._counts[e.ConnectionClosed] + self._counts[e.ConnectionDetached]

    def settle(self) -> int:
        """Write down what was heard, up to the first event that is missing; return how many."""
        with self._lock:
            while (event := self._heard.pop((self._name, self._next), None)) is not None:
                self.replay(event)
                self._next += 1
            return self._next - 1

    def differences(self, source: ForeignPool) -> list[str]:
        """Compare with what was counted, and the laws with each other. Only rest gives none."""
        replay, metrics = self.replay, source.metrics
        counts = replay.counts
        failures = Counter(event.reason for event in replay.of(e.AcquireFailed))
        failures[e.FailureReason.TIMEOUT] = counts[e.AcquireTimedOut]
        ended = counts[e.ConnectionReleased] + counts[e.ConnectionDetached]
        ended += counts[e.LeakReclaimed]
        failed = sum(each.count for each in list(metrics.failed_wait.values()))
        gone = sum(list(metrics.closed.values())) + metrics.detached
        pairs: dict[str, tuple[object, object]] = {
            "acquired": (metrics.acquired, counts[e.ConnectionAcquired]),
            "waits": (metrics.wait.count, metrics.acquired),
            "failures": (+Counter(metrics.failures), +failures),
            "failed waits": (failed, failures.total()),
            "leases": (metrics.use.count, ended),
            "in use": (metrics.acquired, ended + len(replay.leases)),
            "opened": (metrics.opened, counts[e.ConnectionOpened]),
            "creates": (metrics.create.count, metrics.opened),
            "connect failures": (metrics.connect_failures, counts[e.ConnectFailed]),
            "closed": (+Counter(metrics.closed), replay.reasons),
            "open": (metrics.opened, gone + len(replay.open)),
            "requests": (
                counts[e.ConnectionRequested],
                metrics.acquired + failed + len(replay.requests),
            ),
        }
        return [f"{what}: {one} and {two}" for what, (one, two) in pairs.items() if one != two]
