"""The live pools of this process, weakly held: where pulled gauges come from."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from poolscope.events import CloseReason, ConnectFault, FailureReason
from poolscope.histogram import Histogram
from poolscope.stats import PoolStats
from poolscope.target import Target
from poolscope.telemetry.catalog import MOST_POOLS

if TYPE_CHECKING:
    from poolscope.bus import EventBus


class Counts(Protocol):
    """What exporters read of a pool's `ConnectionPoolMetrics`. Safe from any thread."""

    @property
    def start_time(self) -> float:
        """Return since when it has been counting, in seconds since 1970."""

    @property
    def failures(self) -> Mapping[FailureReason, int]:
        """Return how many requests ended without a connection, by reason."""

    @property
    def connect_faults(self) -> Mapping[ConnectFault, int]:
        """Return how many connects failed, by fault."""

    @property
    def closed(self) -> Mapping[CloseReason, int]:
        """Return how many connections were closed, by reason."""

    @property
    def leaks(self) -> int:
        """Return how many leases were suspected to be leaks."""

    @property
    def wait(self) -> Histogram:
        """Return the seconds until a connection was acquired."""

    @property
    def failed_wait(self) -> Mapping[FailureReason, Histogram]:
        """Return the seconds until a request ended without a connection, by reason."""

    @property
    def use(self) -> Histogram:
        """Return the seconds connections were held."""

    @property
    def create(self) -> Histogram:
        """Return the seconds it took to open a connection."""

    @property
    def failed_create(self) -> Mapping[ConnectFault, Histogram]:
        """Return the seconds a failed connect took, by fault."""


class Source(Protocol):
    """Something whose state can be read at any time: a pool of ours, or an observed one."""

    @property
    def name(self) -> str:
        """Return the name of the pool, unique in this process."""

    @property
    def bus(self) -> EventBus:
        """Return where its events are published."""

    @property
    def metrics(self) -> Counts:
        """Return what was counted."""

    @property
    def target(self) -> Target | None:
        """Return what it connects to, if known."""

    @property
    def omits(self) -> frozenset[str]:
        """Return the names of metrics it cannot tell: they are not shown."""

    def stats(self) -> PoolStats:
        """Return its levels, in one consistent snapshot. Safe from any thread."""


naming = threading.RLock()
"""Held from the choice of a name until its pool is registered under it."""
_sources: weakref.WeakValueDictionary[str, Source] = weakref.WeakValueDictionary()
_crowd: weakref.WeakSet[Source] = weakref.WeakSet()
"""Those that found `MOST_POOLS` others when they came."""
_when_released: list[Callable[[Source], object]] = []
_unnamed = 1
"""Where to look for a free `pool-N`. The number of a pool that was lost is not given again."""


def free_name(wanted: str | None) -> str:
    """Return a name no live pool has: as wanted, with a suffix, or `pool-1`, ... Hold `naming`.

    The number of a closed pool is given again: names become series, and series are to be few.
    """
    global _unnamed
    if wanted is None:
        while f"pool-{_unnamed}" in _sources:
            _unnamed += 1
        return f"pool-{_unnamed}"
    name, number = wanted, 1
    while name in _sources:
        number += 1
        name = f"{wanted}-{number}"
    return name


def register(source: Source) -> None:
    """Let a pool be found under its name, for as long as it lives."""
    with naming:
        if len(_sources) - len(_crowd) >= MOST_POOLS:
            _crowd.add(source)
        _sources[source.name] = source


def release(name: str, source: Source) -> None:
    """Give the name back; the source is seen no more."""
    global _unnamed
    with naming:
        is_here, was_beyond = _sources.get(name) is source, is_beyond(source)
        if is_here:
            del _sources[name]
            _crowd.discard(source)
        number = name.removeprefix("pool-")
        if len(number) < 10 and number.isascii() and number.isdigit():
            _unnamed = min(_unnamed, max(1, int(number)))
    if is_here and was_beyond:
        for call in _when_released:
            call(source)


def when_released(call: Callable[[Source], object]) -> None:
    """Have each pool that had no series of its own given to `call` when it is seen no more."""
    _when_released.append(call)


def find(name: str) -> Source | None:
    """Return the live pool of this name."""
    return _sources.get(name)


def live() -> list[Source]:
    """Return the live pools, by name."""
    with naming:
        return [source for _, source in sorted(_sources.items())]


def own() -> list[Source]:
    """Return the live pools that have series of their own, by name."""
    with naming:
        return [source for _, source in sorted(_sources.items()) if source not in _crowd]


def beyond() -> list[Source]:
    """Return the live pools that are to have no series of their own."""
    with naming:
        return list(_crowd)


def is_beyond(source: Source) -> bool:
    """Tell whether a live pool is to have no series of its own."""
    return source in _crowd


def _after_fork_in_child() -> None:
    global naming
    naming = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
