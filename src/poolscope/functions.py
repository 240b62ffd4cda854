"""What an application gives a pool to work with: how to open, check, reset, close and drop."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])

Factory = Callable[[], C | Awaitable[C]]
Function = Callable[[C], Any]

_PROMPT, _INTERRUPT = "_poolscope_prompt", "_poolscope_interrupt"


def prompt(interrupt: Callable[[Any], object] | None = None) -> Callable[[F], F]:
    """Mark a `validate_func` or `reset_func` as one a thread may call itself, as `@prompt()`.

    Others are called in a thread of the pool, because only there can a time limit be kept, and that
    costs two changes of threads. A prompt function always returns soon by itself; or when
    `interrupt(connection)` is called, which another thread does when the time is up (it may shut
    down the connection's socket): the connection is closed then.
    """

    def mark(function: F) -> F:
        setattr(function, _PROMPT, True)
        setattr(function, _INTERRUPT, interrupt)
        return function

    return mark


def is_prompt(function: Callable[..., Any] | None) -> bool:
    """Tell whether a function was marked with `prompt`."""
    return getattr(function, _PROMPT, False) is True


def interrupter(function: Callable[..., Any]) -> Callable[[Any], object] | None:
    """Return what interrupts a prompt function, if it was named."""
    found: Callable[[Any], object] | None = getattr(function, _INTERRUPT, None)
    return found


@dataclass(slots=True, repr=False)  # a factory may hold a DSN
class Functions(Generic[C]):
    """The functions of one pool."""

    factory: Factory[C]
    validate_func: Function[C] | None = None
    close_func: Function[C] | None = None
    reset_func: Function[C] | None = None
    terminate_func: Function[C] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be called, before any connection is lost over it."""
        if not callable(self.factory):
            # Never its value: somebody may have given the DSN, and its password, by mistake.
            kind = type(self.factory).__name__
            raise ValueError(f"factory must be a function that opens a connection: got a {kind}")
        for name in ("validate_func", "close_func", "reset_func", "terminate_func"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                kind = type(function).__name__
                raise ValueError(f"{name} must be callable or None: got a {kind}")
        if inspect.iscoroutinefunction(self.terminate_func):
            raise ValueError("terminate_func must be plain: there may be no event loop to await it")

    def terminate(self, connection: Any) -> bool:
        """Drop a connection without saying goodbye; False if nobody knows how, or it failed."""
        return terminate(connection, self.terminate_func)

    def can_terminate(self, connection: Any) -> bool:
        """Tell whether somebody knows how to drop such a connection."""
        return self.terminate_func is not None or hasattr(connection, "terminate")


def close_plainly(connection: Any) -> Any:
    """Call a connection's own `close()`, if it has one; return what that returns."""
    close = getattr(connection, "close", None)
    return close() if callable(close) else None


def terminate(connection: Any, terminate_func: Function[Any] | None = None) -> bool:
    """Drop a connection by that function, or by its own `terminate()` (as asyncpg's have)."""
    try:
        if terminate_func is not None:
            terminate_func(connection)
        else:
            connection.terminate()
    except Exception:  # it cannot, or its event loop is gone: nothing more can be done
        return False
    return True
