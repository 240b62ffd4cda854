"""Settings of a pool, validated when made and whenever a field is set."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Self

from poolscope.faults import shown
from poolscope.target import Target

_COUNTS = frozenset(
    {"min_size", "max_size", "max_idle", "max_waiting", "max_connecting", "retry_limit"}
)
_SECONDS = frozenset(
    {
        "max_lifetime",
        "acquire_timeout",
        "idle_timeout",
        "retry_delay",
        "connect_timeout",
        "validate_timeout",
        "close_timeout",
        "leak_threshold",
    }
)
_AT_LEAST_ONE = frozenset({"max_size", "max_connecting", "max_waiting"})
_ABOVE_ZERO = frozenset(
    {"max_lifetime", "idle_timeout", "connect_timeout", "validate_timeout", "leak_threshold"}
)
_OPTIONAL = frozenset({"name", "max_waiting", "leak_threshold", "target"})


@dataclass(slots=True)
class ConnectionPoolSettings:
    """Say how a pool behaves. Durations are in seconds, sizes are counts.

    A field may be set again until a pool is made with the settings: each pool keeps a copy.

    Raises:
        ValueError: a value has the wrong type or range, or `min_size` exceeds `max_size`.
    """

    min_size: int = 1
    """Connections kept open even when nobody asks."""
    max_size: int = 10
    """Connections open at most, those being opened or closed included."""
    max_idle: int = 5
    """Idle connections kept at most; never fewer than `min_size`."""
    max_lifetime: float = 3600
    """Age at which a connection is replaced, less its jitter."""
    acquire_timeout: float = 10.0
    """Time an acquire may take: queue, connect and validation together. 0 tries once."""
    idle_timeout: float = 300.0
    """Time after which an idle connection beyond `min_size` is closed."""
    retry_limit: int = 3
    """Failed connects are tried again this often before the longest waiter fails."""
    retry_delay: float = 1.0
    """Upper bound of the first pause between tries; it doubles, with full jitter."""
    validate_on_acquire: bool = True
    """Whether `validate_func` is asked before a connection is handed out."""
    name: str | None = None
    """Name on every event, metric and error. Never put a secret in it. Default: `pool-1`, ..."""
    max_waiting: int | None = None
    """Callers that may wait at most; one more fails with QueueFullError. None: no limit."""
    max_connecting: int = 4
    """Connections being opened at the same time, at most."""
    connect_timeout: float = 10.0
    """Time one call of the factory may take."""
    validate_timeout: float = 5.0
    """Time one validation, or one reset, may take."""
    close_timeout: float = 5.0
    """Time one connection may take to close, and `close()` waits for connections in use."""
    lifetime_jitter: float = 0.1
    """Share of `max_lifetime` (0 to 1) by which lives are shortened at random."""
    leak_threshold: float | None = 60.0
    """Time in use after which a leak is suspected. None: never."""
    target: Target | str | None = None
    """What the pool connects to, for its spans. Of a URL, user and password are not kept."""

    def __post_init__(self) -> None:
        """Check what concerns two fields."""
        if self.min_size > self.max_size:
            raise ValueError(
                f"min_size must not exceed max_size: got min_size={self.min_size}, "
                f"max_size={self.max_size}"
            )

    def __setattr__(self, field: str, value: Any) -> None:
        """Check the value before it is set."""
        _check(field, value)
        if field == "target" and isinstance(value, str):
            value = Target.from_url(value)
        object.__setattr__(self, field, value)

    def copy(self, **changes: Any) -> Self:
        """Return a checked copy with some fields changed."""
        return type(self)(**({f.name: getattr(self, f.name) for f in fields(self)} | changes))

    @classmethod
    def create_aggressive(cls) -> Self:
        """Return settings for much traffic: many connections, little patience."""
        return cls(
            min_size=10,
            max_size=100,
            max_idle=20,
            max_lifetime=1800,
            acquire_timeout=5.0,
            idle_timeout=600.0,
            retry_limit=5,
            retry_delay=0.1,
            validate_on_acquire=False,
        )

    @classmethod
    def create_conservative(cls) -> Self:
        """Return settings for a small server: few connections, much patience."""
        return cls(
            min_size=1,
            max_size=5,
            max_idle=2,
            max_lifetime=7200,
            acquire_timeout=30.0,
            idle_timeout=1800.0,
        )

    @classmethod
    def create_balanced(cls) -> Self:
        """Return settings for an ordinary service."""
        return cls(min_size=5, max_size=20, max_idle=10, retry_delay=0.5)


def _check(field: str, value: Any) -> None:
    """Raise ValueError, naming field and value, unless the value suits the field."""
    if field not in ConnectionPoolSettings.__dataclass_fields__:
        raise ValueError(f"{field} is no setting of a pool")
    if value is None and field in _OPTIONAL:
        return
    if field in _COUNTS:
        _check_count(field, value)
    elif field in _SECONDS:
        _check_number(field, value, above_zero=field in _ABOVE_ZERO)
    elif field == "lifetime_jitter":
        _check_number(field, value)
        if value > 1:
            bound = "a share between 0 and 1"
            raise ValueError(f"lifetime_jitter must be {bound}: got {shown(value)}")
    elif field == "validate_on_acquire" and not isinstance(value, bool):
        raise ValueError(f"validate_on_acquire must be True or False: got {shown(value)}")
    elif field == "target" and not isinstance(value, Target | str):
        # Never its value: it may be somebody's DSN.
        raise ValueError(f"target must be a URL or a Target: got a {type(value).__name__}")
    elif field == "name" and not (isinstance(value, str) and value.strip()):
        raise ValueError(f"name must be a non-empty string: got {shown(value)}")


def _check_count(field: str, value: Any) -> None:
    least = 1 if field in _AT_LEAST_ONE else 0
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{field} must be a whole number of at least {least}: got {shown(value)}")


def _check_number(field: str, value: Any, *, above_zero: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or math.isnan(value) or value < 0 or (above_zero and value == 0):
        bound = "above 0" if above_zero else "of at least 0"
        raise ValueError(f"{field} must be a number {bound}: got {shown(value)}")
