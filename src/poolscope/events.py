"""Everything that can happen to a pool, as typed events: subject and past participle.

Every event says which pool, when (the pool's monotonic clock, in seconds) and in which order
(`sequence` rises by one with each event of a pool, whether or not anybody listens). Events are
never changed once made. `request_id` is the sequence number of the `ConnectionRequested` that
an event answers. Durations are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from poolscope.stats import PoolStats


class AcquireSource(StrEnum):
    """Where an acquired connection came from."""

    IDLE = "idle"
    NEW = "new"
    HANDOFF = "handoff"


class FailureReason(StrEnum):
    """Why a request ended without a connection; `error.type` on the wire."""

    TIMEOUT = "timeout"
    QUEUE_FULL = "queue_full"
    CLOSED = "closed"
    CONNECT_FAILED = "connect_failed"
    VALIDATION_FAILED = "validation_failed"
    CANCELLED = "cancelled"


class CloseReason(StrEnum):
    """Why a connection was closed. Each has exactly one reason."""

    IDLE = "idle"
    LIFETIME = "lifetime"
    VALIDATION = "validation"
    RESET = "reset"
    DIRTY = "dirty"
    BROKEN = "broken"
    STALE = "stale"
    LEAK = "leak"
    EXCESS = "excess"
    POOL_CLOSED = "pool_closed"
    FORKED = "forked"


class Misuse(StrEnum):
    """A call that no correct program makes. It is counted and changes nothing."""

    DOUBLE_RELEASE = "double_release"
    FOREIGN_RELEASE = "foreign_release"
    WRONG_LOOP = "wrong_loop"


@dataclass(slots=True)
class Event:
    """What all events have in common."""

    pool: str
    time: float
    sequence: int


# Requests: one ConnectionRequested, then exactly one of the three outcomes.


@dataclass(slots=True)
class ConnectionRequested(Event):
    """A caller asked for a connection."""


@dataclass(slots=True)
class ConnectionAcquired(Event):
    """A request got a connection. `wait` is the time since it was made."""

    request_id: int
    wait: float
    source: AcquireSource
    connection_id: str


@dataclass(slots=True)
class AcquireTimedOut(Event):
    """A request reached its deadline. `error` is the last connect error, if that is the cause."""

    request_id: int
    wait: float
    stats: PoolStats
    error: BaseException | None


@dataclass(slots=True)
class AcquireFailed(Event):
    """A request ended without a connection for another reason than its deadline."""

    request_id: int
    wait: float
    reason: FailureReason
    error: BaseException | None


# Leases: each ConnectionAcquired is followed by exactly one of these three.


@dataclass(slots=True)
class ConnectionReleased(Event):
    """A caller gave its connection back, held for `use`; resetting it took `reset` of that."""

    request_id: int
    connection_id: str
    use: float
    reset: float


@dataclass(slots=True)
class ConnectionDetached(Event):
    """A caller took its connection out of the pool for good. It counts as closed for the pool."""

    request_id: int
    connection_id: str
    use: float
    age: float


@dataclass(slots=True)
class LeakReclaimed(Event):
    """A connection was taken back by force: its holder lost it, or the pool had to close."""

    request_id: int
    connection_id: str
    use: float
    reason: CloseReason
    acquired_at: str | None


# The life of a connection.


@dataclass(slots=True)
class ConnectStarted(Event):
    """The factory was called. Ends with ConnectionOpened or ConnectFailed of the same id."""

    connection_id: str
    attempt: int


@dataclass(slots=True)
class ConnectionOpened(Event):
    """A connection was opened. `create` is the time the factory took."""

    connection_id: str
    create: float


@dataclass(slots=True)
class ConnectFailed(Event):
    """A connection could not be opened, in the `attempt`-th try since the last success.

    `abandoned` says that the pool itself gave it up, because it was closed.
    """

    connection_id: str
    create: float
    attempt: int
    error: BaseException
    abandoned: bool


@dataclass(slots=True)
class ConnectionClosed(Event):
    """A connection left the pool, from this moment on. `age` counts from its opening."""

    connection_id: str
    reason: CloseReason
    age: float


@dataclass(slots=True)
class CloseFailed(Event):
    """Closing a connection raised or took too long. The pool has let go of it all the same."""

    connection_id: str
    error: BaseException


# The life of a pool.


@dataclass(slots=True)
class PoolOpened(Event):
    """The pool began to serve."""


@dataclass(slots=True)
class PoolResized(Event):
    """The limits of the pool were changed."""

    min_size: int
    max_size: int


@dataclass(slots=True)
class PoolDrained(Event):
    """A new generation began: every older connection is closed when it is free."""

    generation: int


@dataclass(slots=True)
class PoolClosed(Event):
    """The pool is closed; no connection of it is left."""


# Diagnoses.


@dataclass(slots=True)
class LeakSuspected(Event):
    """A connection has been in use longer than `leak_threshold`.

    `acquired_at` is where it was acquired, `stack` what its holder is doing now.
    """

    request_id: int
    connection_id: str
    use: float
    acquired_at: str | None
    stack: str


@dataclass(slots=True)
class LeakReturned(Event):
    """A connection suspected to be leaked came back after all."""

    request_id: int
    connection_id: str
    use: float


@dataclass(slots=True)
class MisuseDetected(Event):
    """The pool was used in a way no correct program uses it."""

    misuse: Misuse
    detail: str


@dataclass(slots=True)
class SubscriberFailed(Event):
    """A subscriber raised. Repeated failure detaches it."""

    subscriber: str
    error: BaseException
    detached: bool


EVENT_TYPES: tuple[type[Event], ...] = (
    ConnectionRequested,
    ConnectionAcquired,
    AcquireTimedOut,
    AcquireFailed,
    ConnectionReleased,
    ConnectionDetached,
    LeakReclaimed,
    ConnectStarted,
    ConnectionOpened,
    ConnectFailed,
    ConnectionClosed,
    CloseFailed,
    PoolOpened,
    PoolResized,
    PoolDrained,
    PoolClosed,
    LeakSuspected,
    LeakReturned,
    MisuseDetected,
    SubscriberFailed,
)
