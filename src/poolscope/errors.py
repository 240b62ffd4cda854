"""The error tree. Every error says what happened, the state of the pool, and the remedy.

    PoolError
    ├── PoolTimeoutError      also TimeoutError   no connection within the deadline
    ├── PoolClosedError       also RuntimeError   the pool is closed, or closing
    ├── QueueFullError                            `max_waiting` callers already wait
    ├── ConnectFailedError                        the factory failed; its error is the cause
    ├── ValidationFailedError                     new connections do not pass `validate_func`
    ├── ReleaseError                              released twice, or to the wrong pool
    ├── WrongLoopError        also RuntimeError   used from another event loop or thread
    └── MissingDriverError    also ImportError    the driver a URL needs is not installed

`error.stats` is the pool's snapshot at that moment, where there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from poolscope.stats import PoolStats


class PoolError(Exception):
    """Base of all errors raised by a pool."""

    def __init__(self, message: str, stats: PoolStats | None = None) -> None:
        """Keep the message and the snapshot it speaks of."""
        super().__init__(message)
        self.stats = stats


class PoolTimeoutError(PoolError, TimeoutError):
    """No connection could be had within the deadline."""


class PoolClosedError(PoolError, RuntimeError):
    """The pool is closed and gives out no connections."""


class QueueFullError(PoolError):
    """As many callers wait as `max_waiting` allows."""


class ConnectFailedError(PoolError):
    """New connections fail; the driver's own error is `__cause__`."""


class ValidationFailedError(PoolError):
    """Connections that were only just opened do not pass `validate_func`."""


class ReleaseError(PoolError):
    """The connection is not on loan from this pool."""


class WrongLoopError(PoolError, RuntimeError):
    """The pool belongs to another event loop, or to another thread."""
