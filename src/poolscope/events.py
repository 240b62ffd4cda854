"""Everything that can happen to a pool, as typed events: subject and past participle.

Every event says which pool, when (the pool's monotonic clock, in seconds) and in which order
(`sequence` rises by one with each event of a pool, whether or not anybody listens). Events are
never changed once made. `request_id` is the sequence number of the `ConnectionRequested` that
an event answers. Durations are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from poolscope.reasons import AcquireSource as AcquireSource
from poolscope.reasons import CloseReason as CloseReason
from poolscope.reasons import ConnectFault as ConnectFault
from poolscope.reasons import FailureReason as FailureReason
from poolscope.reasons import Misuse as Misuse
from poolscope.stats import PoolStats


@dataclass(slots=True, repr=False)
class Event:
    """What all events have in common."""

    pool: str
    time: float
    sequence: int

    def __repr__(self) -> str:
        """Return the fields: of an error the type only, for its text may hold a secret."""
        shown = (f"{f.name}={_shown(getattr(self, f.name))}" for f in fields(self) if f.repr)
        return f"{type(self).__name__}({', '.join(shown)})"


def _shown(value: object) -> str:
    return type(value).__name__ if isinstance(value, BaseException) else repr(value)


# Requests: one ConnectionRequested, RequestQueued if it has to wait, then exactly one of the three
# outcomes.


@dataclass(slots=True, repr=False)
class ConnectionRequested(Event):
    """A caller asked for a connection."""


@dataclass(slots=True, repr=False)
class RequestQueued(Event):
    """A request has to wait: no connection is idle. `waiting` is its place in the line, from 1."""

    request_id: int
    waiting: int


@dataclass(slots=True, repr=False)
class ConnectionAcquired(Event):
    """A request got a connection. `wait` is the time since it was made."""

    request_id: int
    wait: float
    source: AcquireSource
    connection_id: str


@dataclass(slots=True, repr=False)
class AcquireTimedOut(Event):
    """A request reached its deadline. `error` is the last connect error, if that is the cause."""

    request_id: int
    wait: float
    stats: PoolStats
    error: BaseException | None


@dataclass(slots=True, repr=False)
class AcquireFailed(Event):
    """A request ended without a connection for another reason than its deadline."""

    request_id: int
    wait: float
    reason: FailureReason
    error: BaseException | None


# Leases: each ConnectionAcquired is followed by exactly one of these three.


@dataclass(slots=True, repr=False)
class ConnectionReleased(Event):
    """A caller gave its connection back, held for `use`; resetting it took `reset` of that."""

    request_id: int
    connection_id: str
    use: float
    reset: float


@dataclass(slots=True, repr=False)
class ConnectionDetached(Event):
    """A caller took its connection out of the pool for good. It counts as closed for the pool."""

    request_id: int
    connection_id: str
    use: float
    age: float


@dataclass(slots=True, repr=False)
class LeakReclaimed(Event):
    """A connection was taken back by force: its holder lost it, or the pool had to close."""

    request_id: int
    connection_id: str
    use: float
    reason: CloseReason
    acquired_at: str | None


# The life of a connection.


@dataclass(slots=True, repr=False)
class ConnectStarted(Event):
    """The factory was called. Ends with ConnectionOpened or ConnectFailed of the same id.

    `request_id` is the waiting request that caused it, 0 if it is to keep `min_size`. Whoever is
    first in line when it is open gets it.
    """

    connection_id: str
    attempt: int
    request_id: int


@dataclass(slots=True, repr=False)
class ConnectionOpened(Event):
    """A connection was opened. `create` is the time the factory took."""

    connection_id: str
    create: float


@dataclass(slots=True, repr=False)
class ConnectFailed(Event):
    """A connection could not be opened, in the `attempt`-th try since the last success."""

    connection_id: str
    create: float
    attempt: int
    error: BaseException
    fault: ConnectFault


@dataclass(slots=True, repr=False)
class ConnectionClosed(Event):
    """A connection left the pool, from this moment on. `age` counts from its opening."""

    connection_id: str
    reason: CloseReason
    age: float


@dataclass(slots=True, repr=False)
class CloseFailed(Event):
    """Closing a connection raised or took too long. The pool has let go of it all the same."""

    connection_id: str
    error: BaseException


# The life of a pool.


@dataclass(slots=True, repr=False)
class PoolOpened(Event):
    """The pool began to serve."""


@dataclass(slots=True, repr=False)
class PoolResized(Event):
    """The limits of the pool were changed."""

    min_size: int
    max_size: int


@dataclass(slots=True, repr=False)
class PoolDrained(Event):
    """A new generation began: every older connection is closed when it is free."""

    generation: int


@dataclass(slots=True, repr=False)
class PoolClosed(Event):
    """The pool is closed; no connection of it is left."""


# Diagnoses.


@dataclass(slots=True, repr=False)
class SaturationStarted(Event):
    """Requests wait while `max_size` connections are in use: the pool is the bottleneck."""

    waiting: int


@dataclass(slots=True, repr=False)
class SaturationEnded(Event):
    """Nobody waits any more, or a place is free. At most `peak_waiting` waited meanwhile."""

    duration: float
    peak_waiting: int


@dataclass(slots=True, repr=False)
class LeakSuspected(Event):
    """A connection has been in use longer than `leak_threshold`.

    `acquired_at` is where it was acquired, `stack` what its holder is doing now.
    """

    request_id: int
    connection_id: str
    use: float
    acquired_at: str | None
    # With lines of the program, which may hold a query.
    stack: str = field(repr=False)


@dataclass(slots=True, repr=False)
class LeakReturned(Event):
    """A connection suspected to be leaked came back after all."""

    request_id: int
    connection_id: str
    use: float


@dataclass(slots=True, repr=False)
class MisuseDetected(Event):
    """The pool was used in a way no correct program uses it."""

    misuse: Misuse
    detail: str


@dataclass(slots=True, repr=False)
class SubscriberFailed(Event):
    """A subscriber raised. Repeated failure detaches it."""

    subscriber: str
    error: BaseException
    detached: bool


EVENT_TYPES: tuple[type[Event], ...] = (
    ConnectionRequested,
    RequestQueued,
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
    SaturationStarted,
    SaturationEnded,
    LeakSuspected,
    LeakReturned,
    MisuseDetected,
    SubscriberFailed,
)
