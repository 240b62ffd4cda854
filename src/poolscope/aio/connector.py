"""What an application gives a pool to work with: how to open, check, reset and close."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from poolscope.aio.jobs import Jobs
from poolscope.settings import ConnectionPoolSettings

C = TypeVar("C")

Factory = Callable[[], C | Awaitable[C]]
Function = Callable[[C], Any]


@dataclass(slots=True, repr=False)  # a factory may hold a DSN
class Connector(Generic[C]):
    """Four functions, each plain or async, called with the time limits of the settings."""

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

    @property
    def plain_check(self) -> Function[C] | None:
        """Return `validate_func`, unless it is known to be async."""
        check = self.validate_func
        return None if inspect.iscoroutinefunction(check) else check

    async def open(self, jobs: Jobs, settings: ConnectionPoolSettings) -> C:
        """Call the factory. A connection that comes too late is closed."""

        def close_late(connection: Any) -> None:
            if connection is None:
                return
            closing = self.close(connection, jobs, settings)
            if hasattr(connection, "terminate"):
                jobs.say_goodbye(closing, partial(terminate, connection))
            else:
                jobs.start(closing)

        connection = await jobs.call(self.factory, limit=settings.connect_timeout, late=close_late)
        if connection is None:
            raise TypeError("factory returned None instead of a connection")
        if inspect.iscoroutinefunction(connection) or inspect.isawaitable(connection):
            raise TypeError(
                f"factory returned {type(connection).__name__} instead of a connection; "
                "await it, or call it, in the factory"
            )
        return connection  # type: ignore[no-any-return]

    async def is_valid(self, connection: C, lease: int, jobs: Jobs, limit: float) -> bool:
        """Ask `validate_func`; whatever it returns counts as true or false."""
        assert self.validate_func is not None
        return bool(await jobs.call(self.validate_func, connection, limit=limit, lease=lease))

    async def reset(self, connection: C, lease: int, jobs: Jobs, limit: float) -> None:
        """Call `reset_func`."""
        assert self.reset_func is not None
        await jobs.call(self.reset_func, connection, limit=limit, lease=lease)

    async def close(
        self, connection: C, jobs: Jobs, settings: ConnectionPoolSettings
    ) -> BaseException | None:
        """Close a connection, with `close_func` or its own `close()`; return what went wrong."""
        close = self.close_func or _close
        try:
            await jobs.call(close, connection, limit=settings.close_timeout)
        except Exception as error:
            terminate(connection)
            return error
        except BaseException:
            terminate(connection)
            raise
        return None


def _close(connection: Any) -> Any:
    close = getattr(connection, "close", None)
    return close() if callable(close) else None


def terminate(connection: Any) -> bool:
    """Drop a connection without saying goodbye, if it knows how (as asyncpg's do)."""
    try:
        connection.terminate()
    except Exception:  # it cannot, or its event loop is gone: nothing more can be done
        return False
    return True
