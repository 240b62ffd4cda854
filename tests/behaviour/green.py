"""Threads in virtual time: each is a greenlet on a virtual event loop, and none runs beside it.

So a pool for threads can be driven by the tests of the asyncio pool: what blocks there is awaited
here, and cancelling a task is an interrupt that strikes a thread where it waits.
"""

import asyncio
import functools
import inspect
import math
from collections.abc import Callable
from contextvars import Context
from types import TracebackType
from typing import Any

from greenlet import getcurrent
from sqlalchemy.util.concurrency import await_only, greenlet_spawn

from poolscope.sync_pool import SyncConnectionPool


class GreenLock:
    """Complains if a thread that holds it ever waits: others run then, and may want it."""

    def __init__(self) -> None:
        self.owner: object = None
        self.depth = 0

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def acquire(self, timeout: float = 0) -> bool:
        assert self.owner in (None, getcurrent()), "somebody waits while holding the lock"
        self.owner = getcurrent()
        self.depth += 1
        return True

    def release(self) -> None:
        self.depth -= 1
        if not self.depth:
            self.owner = None


class GreenWaker:
    def __init__(self) -> None:
        self._future = asyncio.get_running_loop().create_future()

    def wait(self, timeout: float) -> bool:
        limit = None if timeout == math.inf else max(0.0, timeout)
        await_only(asyncio.wait({self._future}, timeout=limit))
        return self._future.done()

    def set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


class GreenWorkers:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, job: Callable[[], object]) -> None:
        task = asyncio.get_running_loop().create_task(self._do(job), context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, job: Callable[[], object]) -> None:
        await greenlet_spawn(job)

    def close(self) -> None:
        """Nothing lingers here."""

    async def kill(self) -> None:
        """End the threads that no pool would ever see again: their functions never return."""
        for task in self._tasks.copy():
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class GreenSystem:
    def __init__(self) -> None:
        self.crew = GreenWorkers()

    def lock(self) -> Any:
        return GreenLock()

    def owns(self, lock: GreenLock) -> bool:
        return lock.owner is getcurrent()

    def waker(self) -> GreenWaker:
        return GreenWaker()

    def workers(self, name: str) -> GreenWorkers:
        return self.crew

    def call_later(self, delay: float, call: Callable[[], object]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay, call, context=Context())

    def is_struck(self) -> bool:
        return False

    def runs_loop(self) -> bool:
        return False


class GreenLease:
    """`async with` around a lease of a thread."""

    def __init__(self, lease: Any) -> None:
        self._lease = lease

    async def __aenter__(self) -> Any:
        return await greenlet_spawn(lambda: self._lease.__enter__())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await greenlet_spawn(self._lease.__exit__, kind, error, traceback)


_BLOCKING = ("initialize", "wait_ready", "close", "acquire", "release", "detach", "resize", "drain")


class GreenPool:
    """A pool for threads that looks like one for asyncio."""

    def __init__(self, factory: Any, settings: Any = None, *functions: Any, **more: Any) -> None:
        self.system = GreenSystem()
        named = {
            name: _plain(value) if name.endswith("_func") else value for name, value in more.items()
        }
        plain = map(_plain, functions)
        self.real: SyncConnectionPool[Any] = SyncConnectionPool(
            _plain(factory), settings, *plain, system=self.system, **named
        )

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.real, name)
        if name not in _BLOCKING:
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await greenlet_spawn(lambda: found(*args, **kwargs))

        return call

    def __repr__(self) -> str:
        return repr(self.real)

    def connection(self, *args: Any, **kwargs: Any) -> GreenLease:
        return GreenLease(self.real.connection(*args, **kwargs))

    async def __aenter__(self) -> "GreenPool":
        await greenlet_spawn(self.real.__enter__)
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await greenlet_spawn(self.real.__exit__, *exc_info)


def _plain(function: Any) -> Any:
    """Make a blocking function of an async one."""
    if not callable(function):
        return function

    @functools.wraps(function, updated=())
    def call(*args: Any) -> Any:
        result = function(*args)
        return await_only(result) if inspect.isawaitable(result) else result

    return call
