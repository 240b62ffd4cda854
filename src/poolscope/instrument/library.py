"""What every adapter has to say of its library, and how its pools come to be observed."""

from __future__ import annotations

import gc
import logging
import os
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

from poolscope.faults import where
from poolscope.instrument.patches import Patches
from poolscope.instrument.source import ForeignPool

logger = logging.getLogger("poolscope")

MARK = "_poolscope"
"""The attribute of a pool in which wrappers find its source quickest, if it can have attributes."""


class Library(ABC):
    """A library whose pools can be observed: all of them, or one by one. Safe from any thread.

    Its methods are replaced while any of its pools is observed. A wrapper asks `source_of(pool)`
    what to report to, or quicker `pool.__dict__.get(MARK) or source_of(pool)`, and does nothing
    where that is None.
    """

    name: ClassVar[str]
    """What `instrument()` calls it."""
    distribution: ClassVar[str]
    """The package it comes in."""
    tried: ClassVar[str]
    """The versions it was tried with, in words."""

    def __init__(self) -> None:
        """Begin with nothing observed."""
        self.everywhere = False
        """Whether each pool is observed, those to come included."""
        self._patches = Patches()
        self._sources: weakref.WeakKeyDictionary[Any, ForeignPool] = weakref.WeakKeyDictionary()
        self._left: weakref.WeakSet[Any] = weakref.WeakSet()
        """Pools no longer observed, though each is."""
        self._warned = False
        self._renew_lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew_lock)

    def _renew_lock(self) -> None:
        # Reentrant, because a pool may be lost while it is held.
        self._lock = threading.RLock()

    # What an adapter says

    @abstractmethod
    def kinds(self) -> tuple[type, ...]:
        """Return the classes whose instances are pools. Raises ImportError if there are none."""

    @abstractmethod
    def patch(self, patches: Patches) -> None:
        """Replace the methods that tell what happens. May raise whatever a new version brings."""

    @abstractmethod
    def begin(self, pool: Any, name: str | None) -> ForeignPool:
        """Return a new source for a pool, whose levels were read once to see that they can be."""

    def pool_of(self, thing: Any) -> Any:
        """Return the pool that somebody means, such as that of an engine; None if it is none."""
        return thing if isinstance(thing, self.kinds()) else None

    def anchor(self, pool: Any) -> Any:
        """Return what lives as long as the pool, and can be weakly referenced: itself, if it can.

        It is what a source is found by, and what bears `MARK`.
        """
        return pool

    # What wrappers ask

    def source_of(self, pool: Any) -> ForeignPool | None:
        """Return what to report to, if the pool is observed, or is to be."""
        anchor = self.anchor(pool)
        source = self._sources.get(anchor)
        if source is None and self.everywhere and anchor not in self._left:
            source = self.meet(pool)
        return source

    # What applications ask

    def instrument(self) -> bool:
        """Observe each pool there will be; `meet` those that are there. False: it cannot be."""
        with self._lock:
            self.everywhere = self._apply()
            return self.everywhere

    def uninstrument(self) -> None:
        """Observe no pool any more, and put back all that was replaced."""
        with self._lock:
            self.everywhere = False
            for source in list(self._sources.values()):
                source.close()
            self._left.clear()
            self._patches.undo()

    def observe(self, pool: Any, name: str | None) -> ForeignPool | None:
        """Observe one pool; None if this version of the library does not let us."""
        with self._lock:
            if not self._apply():
                return None
            self._left.discard(self.anchor(pool))
            return self.meet(pool, name)

    def meet(self, pool: Any, name: str | None = None) -> ForeignPool | None:
        """Observe a pool, unless it is already; return its source."""
        with self._lock:
            anchor = self.anchor(pool)
            source = self._sources.get(anchor)
            if source is None:
                try:
                    source = self.begin(pool, name)
                except Exception as error:
                    self._left.add(anchor)
                    self.warn(error)
                    self._put_back()
                    return None
                self.adopt(pool, source)
            return source

    def adopt(self, pool: Any, source: ForeignPool) -> None:
        """Have a pool report to a source until one of the two ends."""
        with self._lock:
            anchor = self.anchor(pool)
            self._sources[anchor] = source
            finalizer = weakref.finalize(anchor, source.lost)
            finalizer.atexit = False
            source.end = partial(self._leave, weakref.ref(anchor), finalizer)
            if hasattr(anchor, "__dict__"):
                anchor.__dict__[MARK] = source

    def _leave(self, anchor_ref: weakref.ref[Any], finalizer: weakref.finalize[..., Any]) -> None:
        finalizer.detach()
        if (anchor := anchor_ref()) is None:
            return
        with self._lock:
            self._sources.pop(anchor, None)
            self._left.add(anchor)
            getattr(anchor, "__dict__", {}).pop(MARK, None)
            self._put_back()

    def _put_back(self) -> None:
        """Put back what was replaced, if no pool is observed."""
        if not self.everywhere and not self._sources:
            self._patches.undo()

    def _apply(self) -> bool:
        if not self._patches:
            try:
                self.patch(self._patches)
            except Exception as error:
                self._patches.undo()
                self.warn(error)
                return False
        return True

    def warn(self, error: Exception) -> None:
        """Say once that this version of the library cannot be observed, and what to do."""
        logger.log(
            logging.DEBUG if self._warned else logging.WARNING,
            "pools of %s %s are not observed: it differs from what poolscope knows (%s). The "
            "service goes on without their telemetry. Use a newer poolscope, or tell us: %s",
            self.distribution,
            self.version(),
            self.tried,
            where(error),
        )
        self._warned = True

    def version(self) -> str:
        """Return the version that is installed."""
        try:
            return version(self.distribution)
        except PackageNotFoundError:
            return "(unknown)"


def meet_all(libraries: Iterable[Library]) -> None:
    """Observe the pools that are there already, of libraries that observe each."""
    kinds = {kind: library for library in libraries for kind in library.kinds()}
    classes = tuple(kinds)
    # By type, for the `__class__` of a proxy may be anything, and may run code.
    for thing in gc.get_objects():
        if issubclass(type(thing), classes):
            for kind, library in kinds.items():
                if issubclass(type(thing), kind):
                    library.source_of(thing)
                    break
