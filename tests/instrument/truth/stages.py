"""Where callers live: in threads, or as tasks of an event loop that has a thread of its own.

Callers are coroutines in both. In threads they never suspend: what they wait for blocks.
"""

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self


class Stage(ABC):
    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...

    @abstractmethod
    def begin(self, life: Coroutine[Any, Any, None]) -> "Future[None]":
        """Have a caller live there."""

    @abstractmethod
    def do(self, deed: Coroutine[Any, Any, Any]) -> Any:
        """Do something there, and return what comes of it."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None: ...

    async def attempt(self, turn: Coroutine[Any, Any, None], key: object) -> None:
        """Take a turn, which can be given up where that is possible."""
        await turn

    def give_up(self, key: object, may: Callable[[], bool]) -> None:
        """Cancel a turn, if that may be, and where it can be."""
        return None


class Threads(Stage):
    def __init__(self, callers: int) -> None:
        self._threads = ThreadPoolExecutor(callers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def begin(self, life: Coroutine[Any, Any, None]) -> "Future[None]":
        return self._threads.submit(self.do, life)

    def do(self, deed: Coroutine[Any, Any, Any]) -> Any:
        try:
            deed.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError(f"{deed} waits, though there is no loop")

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - there is no loop


class Loop(Stage):
    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop
        self._turns: dict[object, asyncio.Task[None]] = {}

    def __enter__(self) -> Self:
        begun = threading.Event()
        self._thread = threading.Thread(target=self._run, args=[begun.set])
        self._thread.start()
        begun.wait()
        return self

    def __exit__(self, *_: object) -> None:
        async def look_around() -> set[asyncio.Task[Any]]:
            return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]

        try:
            left = self.do(look_around())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        assert not left, f"tasks left behind: {left}"

    def _run(self, begun: Callable[[], None]) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            self._loop.call_soon(begun)
            self._loop.run_forever()

    def begin(self, life: Coroutine[Any, Any, None]) -> "Future[None]":
        return asyncio.run_coroutine_threadsafe(life, self._loop)

    def do(self, deed: Coroutine[Any, Any, Any]) -> Any:
        return self.begin(deed).result(30)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def attempt(self, turn: Coroutine[Any, Any, None], key: object) -> None:
        self._turns[key] = task = asyncio.create_task(turn)
        await asyncio.wait({task})
        del self._turns[key]
        if not task.cancelled():
            task.result()

    def give_up(self, key: object, may: Callable[[], bool]) -> None:
        def cancel() -> None:
            turn = self._turns.get(key)
            if turn is not None and not turn.cancelling() and may():
                turn.cancel()

        self._loop.call_soon_threadsafe(cancel)
