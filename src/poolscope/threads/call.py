"""One call of a function of the application, which may take long, fail, or never return."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from poolscope.faults import is_interrupt, without_frames
from poolscope.threads.system import Timer

if TYPE_CHECKING:
    from poolscope.threads.turns import Turns


class Call:
    """Ends once: when the function returned or raised, or when the pool gave it up before.

    A job for a thread of the pool; `run_here` is for the thread that asked.
    """

    __slots__ = ("_engine", "_function", "_late", "_then", "begun", "done", "error", "insists",
                 "live", "outcome", "result", "timer")  # fmt: skip

    def __init__(
        self,
        engine: Turns[Any],
        function: Callable[[], Any],
        then: Callable[[Call, float], object],
        late: Callable[[Any], object] | None = None,
    ) -> None:
        """Prepare a call. `then(call, now)` is part of the decision by which it ends."""
        self._engine: Turns[Any] | None = engine
        self._function = function
        self._then: Callable[[Call, float], object] | None = then
        self._late = late
        self.begun = False
        self.insists = False
        """The function is to be called even if it was given up before: a close, by nobody else."""
        self.live = True
        """It has not ended yet. Changed in decisions only."""
        self.result: Any = None
        self.error: BaseException | None = None
        self.outcome: tuple[Any, BaseException | None] | None = None
        """What the function returned or raised, until that is handed on."""
        self.timer: Timer | None = None
        self.done = engine.system.waker()

    def __call__(self) -> None:
        """Call the function, unless it is too late, and hand on what became of it."""
        if not self.begun and (self.live or self.insists):
            self._call()
        self._hand_on()

    def run_here(self) -> None:
        """Call the function in this thread; raise what is not its failure but an interrupt."""
        if self.begun:
            return
        self._call()
        outcome = self.outcome
        error = outcome[1] if outcome is not None else None
        if error is not None and (is_interrupt(error) or not isinstance(error, Exception)):
            self.outcome = None, CancelledError()
            self._hand_on()
            raise error
        if isinstance(error, Exception):  # the pool keeps it, and its frames know who asked
            self.outcome = None, without_frames(error)
            del error
        self._hand_on()

    def _call(self) -> None:
        """Call the function, and put down what became of it: any thread can hand that on."""
        try:
            self.begun = True
            self.outcome = self._function(), None
        except BaseException as error:
            self.outcome = None, error

    def _hand_on(self) -> None:
        outcome, self.outcome = self.outcome, None
        if outcome is None:
            return
        result, error = outcome
        try:
            self._end(result, error)
        except BaseException:
            self.outcome = outcome
            raise
        if error is None and self.result is not result and self._late is not None:
            self._late(result)
        # The traceback of an error knows this call, and a pool that is not used keeps the error.
        self._engine = self._late = self._then = None
        self._function = _done

    def give_up(self, error: BaseException) -> bool:
        """End it now; what it returns later goes to `late`. False: it has ended before."""
        return self._end(None, error)

    def _end(self, result: Any, error: BaseException | None) -> bool:
        engine = self._engine
        return engine is not None and engine.decide(lambda now: self.end(result, error, now))

    def end(self, result: Any, error: BaseException | None, now: float) -> bool:
        """End it, as part of a decision. False: it has ended before."""
        if not self.live:
            return False
        self.live = False
        self.result, self.error = result, error
        if self.timer is not None:
            self.timer.cancel()
        try:
            if self._then is not None:
                self._then(self, now)
        finally:
            with suppress(Exception):
                self.done.set()
        return True


def _done() -> None:
    """Stand for the function of a call that has ended."""
