"""The live pools of this process, weakly held: where pulled gauges come from."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from poolscope.events import FailureReason
from poolscope.histogram import Histogram
from poolscope.stats import PoolStats

if TYPE_CHECKING:
    from poolscope.bus import EventBus


class Counts(Protocol):
    """What exporters read of a pool's `ConnectionPoolMetrics`. Safe from any thread."""

    @property
    def connection_timeouts(self) -> int:
        """Return how many requests reached their deadline."""

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
        """Return the seconds connects took, failed ones included."""


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

    def stats(self) -> PoolStats:
        """Return its levels, in one consistent snapshot. Safe from any thread."""


naming = threading.RLock()
"""Held from the choice of a name until its pool is registered under it."""
_sources: weakref.WeakValueDictionary[str, Source] = weakref.WeakValueDictionary()
_serial = 0


def free_name(wanted: str | None) -> str:
    """Return a name no live pool has: as wanted, with a suffix, or `pool-1`, ... Hold `naming`."""
    global _serial
    if wanted is None:
        _serial += 1
        wanted = f"pool-{_serial}"
    name, number = wanted, 1
    while name in _sources:
        number += 1
        name = f"{wanted}-{number}"
    return name


def register(source: Source) -> None:
    """Let a pool be found under its name, for as long as it lives."""
    with naming:
        _sources[source.name] = source


def release(name: str, source: Source) -> None:
    """Give the name back; the source is seen no more."""
    with naming:
        if _sources.get(name) is source:
            del _sources[name]


def live() -> list[Source]:
    """Return the live pools, by name."""
    with naming:
        return [source for _, source in sorted(_sources.items())]


def _after_fork_in_child() -> None:
    global naming
    naming = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
