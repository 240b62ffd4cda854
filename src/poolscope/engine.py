"""What the drivers of asyncio and of threads have in common: one core, told of and looked at."""

from __future__ import annotations

import random
import warnings
import weakref
from collections.abc import Callable
from sys import is_finalizing
from typing import Any, Generic, NoReturn

from poolscope import registry
from poolscope.bus import EventBus
from poolscope.core import verdicts
from poolscope.core.journal import Journal
from poolscope.core.pool_core import PoolCore
from poolscope.core.slot import C
from poolscope.core.ticket import Ticket
from poolscope.events import CloseReason, Misuse
from poolscope.functions import Functions
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.settings import ConnectionPoolSettings
from poolscope.stats import PoolStats
from poolscope.strain import Strain
from poolscope.target import Target


class BaseEngine(Generic[C]):
    """Holds one core and what it needs; subclasses do what it says."""

    omits: frozenset[str] = frozenset()
    """It can tell all metrics."""

    kind = "a pool"
    """How a program makes such a pool."""

    _forked = False
    """This is a child process, and what is here belongs to the parent."""

    def __init__(
        self,
        settings: ConnectionPoolSettings,
        functions: Functions[C],
        bus: EventBus,
        clock: Callable[[], float],
        metrics: ConnectionPoolMetrics,
    ) -> None:
        """Make an engine that does not run yet."""
        self.settings = settings.copy()
        self.bus = bus
        self.hooks = bus.hooks
        self.clock = clock
        self.timeout = self.settings.acquire_timeout
        self.resets = functions.reset_func is not None
        self.terminate = functions.terminate
        self.checks = self.settings.validate_on_acquire and functions.validate_func is not None
        self.metrics = metrics
        self.core: PoolCore[C]
        with registry.naming:
            self.name = registry.free_name(self.settings.name)
            self.renew()
            registry.register(self)
        # Weakly, so that neither the bus nor the metrics keep a lost pool alive.
        bus.owner = myself = weakref.ref(self)
        metrics.subscribe_to(bus, myself)

    def renew(self) -> None:
        """Begin with a new core; its events go on counting where the old one's ended."""
        journal, strain = Journal(self.name, self.hooks), Strain()
        if hasattr(self, "core"):
            journal, strain = self.core.journal, self.core.strain
        self.core = PoolCore(
            self.name, self.settings, journal, random, checks=self.checks, strain=strain
        )

    @property
    def target(self) -> Target | None:
        """Return what it connects to, if the settings say so."""
        return self.settings.target if isinstance(self.settings.target, Target) else None

    def stats(self) -> PoolStats:
        """Return the levels at this moment. Safe from any thread."""
        return self.core.stats(self.clock())

    def misused(self, misuse: Misuse, detail: str) -> None:
        """Count a call that no correct program makes."""
        raise NotImplementedError

    def subscriber_failed(self, name: str, error: BaseException, detached: bool) -> None:
        """Tell of it later: others are still to hear of the event at which it failed."""
        raise NotImplementedError

    # What becomes of it

    def count_from_zero(self) -> None:
        """Begin all counts anew, as a forked child does."""
        self.metrics.reset()
        self.core.strain.reset()
        self.bus.forget()

    def abandon_parent(self) -> None:
        """Forget the parent's connections in a child process, without a word on their sockets."""
        self._forked = True
        _inherited.extend(slot.connection for slot in self.core.places.slots)
        error = RuntimeError("this process was forked from the one that used the pool")
        try:
            self.core.abandon(CloseReason.FORKED, error, self.clock())
        except Exception:  # another thread was in the middle of a decision
            self.renew()

    def __del__(self) -> None:
        """Drop what was left open, and say so, unless the interpreter is ending anyway."""
        if is_finalizing() or not hasattr(self, "core") or self._forked:
            return
        left = [s.connection for s in self.core.places.slots if s.connection is not None]
        if not left or self.core.state == "closed":
            return
        for connection in left:
            self.terminate(connection)
        warnings.warn(
            f"pool {self.name!r} was lost with {len(left)} open connections; close it, or use it "
            f"as `{self.kind}`",
            ResourceWarning,
            stacklevel=2,
        )


class Readiness(Generic[C]):
    """Whether a pool that begins has its `min_size` connections, or never will."""

    def __init__(self, engine: BaseEngine[C], *, give_up: bool) -> None:
        """Look from now on. With `give_up` it is over when `retry_limit` is exhausted."""
        self._engine = engine
        self._core = engine.core
        self._began = engine.core.backoff.round
        self._started = engine.clock()
        self._give_up = give_up

    def _is_ready(self) -> bool:
        return self._core.places.open >= self._core.settings.min_size

    def _is_hopeless(self) -> bool:
        return self._give_up and self._core.backoff.exhausted(self._began)

    def is_settled(self) -> bool:
        """Tell whether waiting on makes no difference."""
        return self._is_ready() or self._core.state != "open" or self._is_hopeless()

    def judge(self) -> None:
        """Raise what kept the pool from being ready, if it is not."""
        core, stats = self._core, self._engine.stats()
        error = core.backoff.error
        if core.state != "open":
            raise verdicts.closed(stats)
        if self._is_ready():
            return
        if self._is_hopeless() and error is not None:
            raise verdicts.connects_failed(stats, core.backoff.streak, error)
        raise verdicts.timed_out(stats, self._engine.clock() - self._started, error)


def refuse(ticket: Ticket[C]) -> NoReturn:
    """Raise the error a request was settled with."""
    verdict, ticket.error = ticket.error, None
    assert verdict is not None
    try:
        raise verdict
    finally:
        del verdict  # its traceback knows this frame


def doubt(kind: type[BaseException] | None) -> CloseReason | None:
    """Tell why a connection left by such an exception cannot be trusted, None if it can."""
    if kind is None:
        return None
    if issubclass(kind, TimeoutError) or not issubclass(kind, Exception):
        return CloseReason.DIRTY
    return CloseReason.BROKEN if issubclass(kind, ConnectionError | EOFError) else None


def keep_from_parent(*things: Any) -> None:
    """Keep what is a parent process's: freeing it here could speak on the parent's sockets."""
    _inherited.extend(things)


_inherited: list[object] = []
