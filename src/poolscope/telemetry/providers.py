"""One set of subscribers per OpenTelemetry provider, however often they are asked for."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

P = TypeVar("P")


class Switch(Protocol):
    """Something that can be opened and closed, any number of times."""

    def open(self) -> None:
        """Begin; without effect when already open."""

    def close(self) -> None:
        """End; without effect when already closed."""


S = TypeVar("S", bound=Switch)


class PerProvider(Generic[P, S]):
    """Remember what was made for each provider.

    That has to outlive `close()`: a meter gives out each instrument only once, and would ignore
    the callbacks of a second one of that name. The application may set the global provider after
    we have begun with the placeholder that stands for it; so None is remembered as "whichever is
    global". Safe from any thread.
    """

    def __init__(self, current: Callable[[], P], make: Callable[[P], S]) -> None:
        """Get the global provider from `current`; make what belongs to a provider with `make`."""
        self._current = current
        self._make = make
        self._made: list[tuple[weakref.ref[P] | None, S]] = []
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork_in_child)

    def _after_fork_in_child(self) -> None:
        self._lock = threading.Lock()

    def open(self, provider: P | None) -> S:
        """Return what belongs to a provider, opened; None is the global one."""
        current = self._current()
        wanted = current if provider is None else provider
        with self._lock:
            made = self._find(wanted, current)
            if made is None:
                made = self._make(wanted)
                self._made.append((None if wanted is current else weakref.ref(wanted), made))
            made.open()
        return made

    def all(self) -> list[S]:
        """Return all that was made, opened or closed."""
        return [made for _, made in list(self._made)]

    def _find(self, wanted: P, current: P) -> S | None:
        self._made = [(ref, made) for ref, made in self._made if ref is None or ref() is not None]
        for ref, made in self._made:
            if (current if ref is None else ref()) is wanted:
                return made
        return None
