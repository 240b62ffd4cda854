"""What falls due by itself: an alarm rings, and a decision sees to it."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from poolscope.core.slot import C
from poolscope.engine import BaseEngine
from poolscope.faults import where
from poolscope.threads.system import System, Timer, Workers

logger = logging.getLogger("poolscope")

SHORTEST_DELAY = 1e-6
"""Seconds. An alarm that rings too early by a rounding error is set again, and must not spin."""


class Alarmed(BaseEngine[C]):
    """Has one alarm, which does not keep it alive."""

    system: System
    workers: Workers
    _alarm: Timer | None = None
    _alarm_at = math.inf

    def decide(self, decision: Callable[[float], Any], *, asks: bool = False) -> Any:
        """Have the core decide in one piece."""
        raise NotImplementedError

    def set_alarm(self, due: float, now: float) -> None:
        """Have the alarm ring then, if it does not ring before."""
        if due >= self._alarm_at:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        delay = due - now
        if delay > 0:
            delay = max(delay, SHORTEST_DELAY)
        self._alarm_at = due
        self._alarm = self.system.call_later(delay, partial(_ring, weakref.ref(self)))

    def rung(self) -> None:
        """See to what has fallen due."""
        try:
            self.decide(self.forget_alarm)
        except Exception as error:
            text = "upkeep of pool %r failed; it goes on in a second: %s"
            logger.error(text, self.name, where(error))
            self._alarm = self.system.call_later(1.0, partial(_ring, weakref.ref(self)))

    def forget_alarm(self, _now: float = 0.0) -> None:
        """Have no alarm set: it has rung, or is of a process that is not this one."""
        self._alarm, self._alarm_at = None, math.inf

    def cancel_alarm(self) -> None:
        """Ring no more."""
        if self._alarm is not None:
            self._alarm.cancel()
        self.forget_alarm()


def _ring(engine_ref: weakref.ref[Alarmed[Any]]) -> None:
    """Ring the alarm of an engine that may be gone."""
    if (engine := engine_ref()) is not None:
        engine.workers.start(engine.rung)
