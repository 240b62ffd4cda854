"""How an asyncio pool calls what an application gave it."""

from __future__ import annotations

import inspect
from asyncio import Future
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from poolscope.aio.jobs import Jobs
from poolscope.functions import C, Function, Functions, close_plainly
from poolscope.settings import ConnectionPoolSettings


@dataclass(slots=True, repr=False)
class Connector(Functions[C]):
    """Calls the functions, each plain or async, with the time limits of the settings."""

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
            if self.can_terminate(connection):
                jobs.say_goodbye(closing, partial(self.terminate, connection))
            else:
                jobs.start(closing)

        connection = await jobs.call(self.factory, limit=settings.connect_timeout, late=close_late)
        if connection is None:
            raise TypeError("factory returned None instead of a connection")
        # Some drivers' connections can be awaited, too; these things are of no other use.
        if inspect.iscoroutinefunction(connection) or isinstance(connection, Coroutine | Future):
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
        close = self.close_func or close_plainly
        try:
            await jobs.call(close, connection, limit=settings.close_timeout)
        except Exception as error:
            self.terminate(connection)
            return error
        except BaseException:
            self.terminate(connection)
            raise
        return None
