"""A buffer between the bus and a slow subscriber: its own worker, bounded, drop-oldest, counted."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable

from poolscope.events import Event
from poolscope.faults import shown

# Reentrant, because a finalizer or a signal handler may come in while it is held.
_counting = threading.RLock()


class Origin:
    """The bus an event comes from: what becomes of the event is counted there."""

    failures: int
    """How often a subscriber raised over an event of this bus, its parents' included."""
    dropped: int
    """How many events of this bus were lost because a buffered subscriber was too slow."""

    def forget(self) -> None:
        """Count from zero, as a forked child does."""
        self.failures = self.dropped = 0

    def count_failure(self) -> None:
        """Count that a subscriber raised over an event of this bus. Safe from any thread."""
        with _counting:
            self.failures += 1

    def count_loss(self) -> None:
        """Count that an event of this bus was dropped. Safe from any thread."""
        with _counting:
            self.dropped += 1


Delivery = Callable[[Event, Origin], None]


class Buffer:
    """Deliver events from a thread of its own, which starts with the first event.

    When `maxsize` events wait the oldest is dropped and counted, so that a hung handler costs
    bounded memory and no delay. received = delivered + dropped + len(buffer), at any moment.
    """

    def __init__(self, deliver: weakref.WeakMethod[Delivery], maxsize: int) -> None:
        """Keep at most `maxsize` events; `deliver` must not raise. It is not kept alive."""
        if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize < 1:
            raise ValueError(f"maxsize must be a whole number of at least 1: got {shown(maxsize)}")
        self._deliver = deliver
        self._maxsize = maxsize
        self._events: deque[tuple[Event, Origin]] = deque()
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._closed = False
        self.received = 0
        self.dropped = 0
        _buffers.add(self)

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: Event, origin: Origin) -> None:
        """Take an event in, if need be in place of the oldest. Never waits for the handler."""
        loser = None
        with self._changed:
            if self._closed:
                return
            self.received += 1
            if len(self._events) >= self._maxsize:
                _, loser = self._events.popleft()
                self.dropped += 1
            self._events.append((event, origin))
            self._changed.notify()
        if loser is not None:
            loser.count_loss()
        if self._worker is None:
            self._start()

    def _start(self) -> None:
        target, args = _work, (weakref.ref(self),)
        worker = threading.Thread(target=target, args=args, name="poolscope-buffer", daemon=True)
        with self._changed:
            if self._worker is None:
                worker.start()  # if that fails, the next event tries again
                self._worker = worker

    def close(self, timeout: float = 1.0) -> None:
        """Let the worker deliver what waits, for so long at most, then end it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            worker = self._worker
        if worker is not None and worker is not threading.current_thread():
            worker.join(timeout)

    def work(self) -> bool:
        """Deliver an event, or wait a second for one; False when closed and empty."""
        with self._changed:
            if not self._events and not self._closed:
                self._changed.wait(1.0)
            oldest = self._events.popleft() if self._events else None
        if oldest is not None and (deliver := self._deliver()) is not None:
            deliver(*oldest)
        return oldest is not None or not self._closed

    def _after_fork(self) -> None:
        """Begin anew in a child process, where the worker does not exist."""
        self._changed = threading.Condition()
        self._events.clear()
        self._worker = None
        self.received = self.dropped = 0


def _work(buffer_ref: weakref.ref[Buffer]) -> None:
    """Deliver events until the buffer is closed and empty, or gone."""
    while (buffer := buffer_ref()) is not None and buffer.work():
        del buffer


_buffers: weakref.WeakSet[Buffer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for buffer in tuple(_buffers):
        buffer._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
