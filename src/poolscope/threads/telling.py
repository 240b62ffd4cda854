"""Publishing from many threads, in one of which signal handlers may raise at any call.

Most events are published by the thread that made the decision, in which no handler runs. Only what
is told of the quick ways in and out is told by callers themselves. Between the last step of a hook,
which is a Python function, and the count of it nothing can come: so who is interrupted knows how
many have heard, puts that down as `untold`, and a thread of the pool tells the others.
"""

from __future__ import annotations

from collections import deque
from threading import get_ident
from typing import Any

from poolscope.bus import Tap
from poolscope.core.journal import Record
from poolscope.core.slot import C
from poolscope.events import Event
from poolscope.faults import is_interrupt, runs_handlers, was_raised_by_handler
from poolscope.threads.alarm import Alarmed

Untold = tuple[type[Event], tuple[Any, ...], tuple[Tap, ...], int]
"""An event whose telling was interrupted: its type, its fields, who is told, and how many were."""


class Telling(Alarmed[C]):
    """Tells subscribers all that happens, each of them once."""

    def begin_telling(self) -> None:
        """Have nothing to tell."""
        self.bus.raised = {}
        self.untold: deque[Untold] = deque()
        self._partly: dict[int, tuple[Tap, ...]] = {}
        """Who is still to hear of events that some have heard of, by their numbers."""
        self._publishing: dict[int, list[Record]] = {}
        """What threads are publishing just now."""

    def record(self, kind: type[Event], told: int, *fields: Any) -> None:
        """Have an event published that the core leaves to its driver, but to the first `told`.

        Call it in decisions.
        """
        self._put_down(kind, (self.name, *fields), self.hooks[kind], told)

    def collect_untold(self) -> None:
        """Have the others told of what was interrupted. Call it in decisions."""
        while self.untold:
            self._put_down(*self.untold.popleft())

    def _put_down(
        self, kind: type[Event], fields: tuple[Any, ...], hooks: tuple[Tap, ...], told: int
    ) -> None:
        if told:
            self._partly[fields[2]] = hooks[told:]
        self.core.journal.outbox.append((kind, fields))

    def publish(self, records: list[Record]) -> None:
        """Publish events in this thread, in order even if a subscriber calls the pool."""
        if not records:
            return
        me, publishing = get_ident(), self._publishing
        if (earlier := publishing.get(me)) is not None:
            earlier += records
            return
        publishing[me] = records
        try:
            for kind, fields in records:  # which may become more meanwhile
                hooks = self.hooks[kind]
                if self._partly:
                    hooks = self._partly.pop(fields[2], hooks)
                for hook in hooks:
                    try:
                        hook(*fields)
                    except BaseException as error:  # a subscriber must not harm the pool
                        self.bus.report(hook, kind, error)
        finally:
            del publishing[me]

    def is_interrupt(self, error: BaseException) -> bool:
        """Tell whether an error came from a signal handler, and so is meant for who runs here."""
        return self.system.is_struck() and is_interrupt(error)

    def judge(self, first: int) -> None:
        """Say of what came up while handlers were called whether it is their failure.

        Raises:
            BaseException: a signal handler had raised it, in this thread, when the event of this
                number was told, or one after it. What is older went out with another.
        """
        raised, struck = self.bus.raised or {}, None
        for culprit in list(raised):
            kind, error = raised.get(culprit, (None, None))
            if kind is None or error is None:
                continue  # judged by another thread
            mine = self.system.is_struck()
            if was_raised_by_handler(error) and (mine or not runs_handlers()):
                if mine:  # else it is left to the main thread
                    struck = error if culprit[1] >= first else struck
                    raised.pop(culprit, None)
            elif raised.pop(culprit, None) is not None:
                culprit[0].failed(kind, error, self.bus)
        if struck is not None:
            raise struck
