"""A buffer between the bus and a slow subscriber: its own worker, bounded, drop-oldest, counted."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from poolscope.events import Event

logger = logging.getLogger("poolscope")


class Buffer:
    """Call a handler from a thread of its own. The thread starts with the first event.

    When `maxsize` events wait the oldest is dropped and counted, so that a hung handler costs
    bounded memory and no delay. received = delivered + dropped + len(buffer), at any moment.
    """

    def __init__(self, handler: Callable[[Any], object], maxsize: int) -> None:
        """Keep at most `maxsize` events."""
        if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize < 1:
            raise ValueError(f"maxsize must be a whole number of at least 1: got {maxsize!r}")
        self._handler = handler
        self.__qualname__ = str(getattr(handler, "__qualname__", type(handler).__qualname__))
        self._maxsize = maxsize
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self._closed = False
        self.received = 0
        self.dropped = 0
        self.failures = 0
        _buffers.add(self)

    def __len__(self) -> int:
        return len(self._events)

    def __call__(self, event: Event) -> None:
        """Take an event in. Never waits for the handler."""
        with self._changed:
            if self._closed:
                return
            self.received += 1
            if len(self._events) >= self._maxsize:
                self._events.popleft()
                self.dropped += 1
            self._events.append(event)
            self._changed.notify()
            if self._worker is None:
                self._worker = threading.Thread(
                    target=_work, args=(weakref.ref(self),), name="poolscope-buffer", daemon=True
                )
                self._worker.start()

    def close(self, timeout: float = 1.0) -> None:
        """Let the worker deliver what waits, for so long at most, then end it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            worker = self._worker
        if worker is not None and worker is not threading.current_thread():
            worker.join(timeout)

    def _next(self) -> Event | None:
        """Wait for an event; None after a second without any, or when closed and empty."""
        with self._changed:
            if not self._events and not self._closed:
                self._changed.wait(1.0)
            return self._events.popleft() if self._events else None

    def _deliver(self, event: Event) -> None:
        try:
            self._handler(event)
        except BaseException as error:  # a subscriber must not harm anybody
            self.failures += 1
            if self.failures == 1:
                logger.error("subscriber %s failed", self.__qualname__, exc_info=error)

    def _after_fork(self) -> None:
        """Begin anew in a child process, where the worker does not exist."""
        self._changed = threading.Condition()
        self._events.clear()
        self._worker = None
        self.received = self.dropped = self.failures = 0


def _work(buffer_ref: weakref.ref[Buffer]) -> None:
    """Deliver events until the buffer is closed and empty, or gone."""
    while (buffer := buffer_ref()) is not None:
        event = buffer._next()
        if event is not None:
            buffer._deliver(event)
        elif buffer._closed:
            return
        del buffer, event


_buffers: weakref.WeakSet[Buffer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for buffer in tuple(_buffers):
        buffer._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
