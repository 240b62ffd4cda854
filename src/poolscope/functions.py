"""What an application gives a pool to work with: how to open, check, reset and close."""

from __future__ import annotations

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
    """The four functions of one pool."""

    factory: Factory[C]
    validate_func: Function[C] | None = None
    close_func: Function[C] | None = None
    reset_func: Function[C] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be called, before any connection is lost over it."""
        if not callable(self.factory):
            # Never its value: somebody may have given the DSN, and its password, by mistake.
            kind = type(self.factory).__name__
            raise ValueError(f"factory must be a function that opens a connection: got a {kind}")
        for name in ("validate_func", "close_func", "reset_func"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                kind = type(function).__name__
                raise ValueError(f"{name} must be callable or None: got a {kind}")


def close_plainly(connection: Any) -> Any:
    """Call a connection's own `close()`, if it has one; return what that returns."""
    close = getattr(connection, "close", None)
    return close() if callable(close) else None


def terminate(connection: Any) -> bool:
    """Drop a connection without saying goodbye, if it knows how (as asyncpg's do)."""
    try:
        connection.terminate()
    except Exception:  # it cannot, or its event loop is gone: nothing more can be done
        return False
    return True
