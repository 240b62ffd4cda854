"""The closed sets: where from, why not, why closed. What labels and attributes are made of."""

from __future__ import annotations

from enum import StrEnum


class AcquireSource(StrEnum):
    """Where an acquired connection came from."""

    IDLE = "idle"
    """It was idle in the pool."""
    NEW = "new"
    """It had just been opened."""
    HANDOFF = "handoff"
    """Another caller released it to the one first in line."""


class FailureReason(StrEnum):
    """Why a request ended without a connection; `error.type` on the wire."""

    TIMEOUT = "timeout"
    """Its deadline passed."""
    QUEUE_FULL = "queue_full"
    """`max_waiting` others were waiting already."""
    CLOSED = "closed"
    """The pool was closing or closed."""
    CONNECT_FAILED = "connect_failed"
    """No connection could be opened, `retry_limit` tries included."""
    VALIDATION_FAILED = "validation_failed"
    """New connections did not pass `validate_func`."""
    CANCELLED = "cancelled"
    """Its caller gave it up."""


class ConnectFault(StrEnum):
    """Why a connection could not be opened; `error.type` on the wire."""

    TIMEOUT = "timeout"
    """The server did not answer within `connect_timeout`, or the driver's own limit."""
    REFUSED = "refused"
    """The server refused the connection: nobody listens there."""
    AUTH = "auth"
    """The server did not accept user, password or rights."""
    OTHER = "other"
    """Anything else; the type of the error says more."""
    ABANDONED = "abandoned"
    """The pool itself gave it up, because it was closed: no failure of the server."""


class CloseReason(StrEnum):
    """Why a connection was closed. Each has exactly one reason."""

    IDLE = "idle"
    """It was idle longer than `idle_timeout`, beyond `min_size`."""
    LIFETIME = "lifetime"
    """It reached `max_lifetime`, less its jitter."""
    VALIDATION = "validation"
    """It did not pass `validate_func`."""
    RESET = "reset"
    """`reset_func` failed, or took too long."""
    DIRTY = "dirty"
    """Its caller left in the middle of something: cancelled, timed out or interrupted."""
    BROKEN = "broken"
    """It broke: its caller left with a connection error, or its event loop was closed."""
    STALE = "stale"
    """It is older than the last `drain()`."""
    LEAK = "leak"
    """Its holder lost it."""
    EXCESS = "excess"
    """There were more than `max_size` or `max_idle` allow."""
    POOL_CLOSED = "pool_closed"
    """The pool closed."""
    FORKED = "forked"
    """It belongs to the parent process."""


class Misuse(StrEnum):
    """A call that no correct program makes. It is counted and changes nothing."""

    DOUBLE_RELEASE = "double_release"
    """A connection of the pool was given back that is not on loan (any more)."""
    FOREIGN_RELEASE = "foreign_release"
    """What was given back is not on loan from this pool."""
    WRONG_LOOP = "wrong_loop"
    """The pool was used from another event loop than its own."""
    BLOCKED_LOOP = "blocked_loop"
    """A pool for threads was used on the thread of a running event loop."""
