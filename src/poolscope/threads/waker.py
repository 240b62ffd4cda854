"""What one thread waits for and another sets."""

from __future__ import annotations

import threading
from contextlib import suppress


class ThreadWaker:
    """A waker made of one lock."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        """Be not set."""
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float) -> bool:
        """Wait until it is set; False when that took too long."""
        return self._lock.acquire(True, min(timeout, threading.TIMEOUT_MAX))

    def set(self) -> None:
        """Let the thread that waits go on. May be called again."""
        with suppress(RuntimeError):
            self._lock.release()
