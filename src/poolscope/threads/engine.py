"""What decisions lead to: connections opened and closed, by functions which may take long."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from sys import is_finalizing
from typing import Any

from poolscope.core.slot import C, Slot
from poolscope.events import CloseFailed
from poolscope.functions import close_plainly
from poolscope.threads.call import Call
from poolscope.threads.turns import Turns


class Engine(Turns[C]):
    """Calls the functions of the application, and reports to the core what became of that."""

    held: frozenset[Slot[C]] = frozenset()
    """Whose holders have not given back in time: these may be at work in their connections."""

    def call(
        self,
        function: Callable[[], Any],
        then: Callable[[Call, float], object],
        limit: float,
        name: str,
        late: Callable[[Any], object] | None = None,
    ) -> Call:
        """Return a call that ends by itself within `limit` seconds, `name` in its error."""
        call = Call(self, function, then, late)
        if limit < math.inf:
            give_up = partial(call.give_up, overdue(name, limit))
            call.timer = self.system.call_later(limit, partial(self.workers.start, give_up))
        return call

    def connecting(self, slot: Slot[C]) -> Call:
        """Return the call that opens a connection for a slot."""
        ended = partial(self._connect_ended, slot)
        factory, limit = self.functions.factory, self.settings.connect_timeout
        slot.holder = call = self.call(factory, ended, limit, name_of(factory), self.close_late)
        return call

    def _connect_ended(self, slot: Slot[C], call: Call, now: float) -> None:
        core, error, connection = self.core, call.error, call.result
        if slot.holder is not call:
            return  # of a parent process
        if error is None and inspect.isawaitable(connection):
            error = awaitable("factory", connection)
        elif error is None and inspect.iscoroutinefunction(connection):
            error = TypeError("factory returned function instead of a connection; call it there")
        elif error is None and connection is None:
            error = TypeError("factory returned None instead of a connection")
        elif error is None and core.places.find(connection) is not None:
            error = TypeError("factory returned a connection that is already in the pool")
        if error is not None:
            # An interrupt, or the CancelledError of a pool that closes, says nothing of the server.
            core.connect_failed(slot, error, now, abandoned=not isinstance(error, Exception))
        else:
            core.connected(slot, connection, now)

    def close_late(self, connection: Any) -> None:
        """Close a connection that came when nobody waited for it any more."""
        if connection is not None:
            self.workers.start(self._goodbye(connection, partial(self._late_closed, connection)))

    def _late_closed(self, connection: Any, call: Call, _now: float) -> None:
        if call.error is not None:
            self.afterwards.append(partial(self.terminate, connection))

    def closing(self, slot: Slot[C]) -> Call:
        """Return the call that closes the connection of a slot."""
        ended, shut = partial(self._close_ended, slot), self._drop if slot in self.held else None
        slot.holder = call = self._goodbye(slot.connection, ended, shut)
        return call

    def _goodbye(
        self,
        connection: Any,
        then: Callable[[Call, float], object],
        shut: Callable[[Any], object] | None = None,
    ) -> Call:
        name, limit = (
            name_of(self.functions.close_func or close_plainly),
            self.settings.close_timeout,
        )
        call = self.call(partial(shut or self._shut, connection), then, limit, name)
        call.insists = True
        return call

    def alone(self, function: Callable[[C], Any], connection: C) -> Any:
        """Call a function that may be given up, and have no other thread close meanwhile.

        Most drivers are not made for that: psycopg crashes the process. Who is to close leaves it
        to the thread that is at work.
        """
        self.at_work[id(connection)] = False
        try:
            return function(connection)
        finally:
            with self.lock:
                is_left_to_me = self.at_work.pop(id(connection))
            if is_left_to_me:
                self._shut(connection)

    def _drop(self, connection: Any) -> None:
        """Take a connection from its holder: few drivers have a goodbye for that."""
        if self.functions.can_terminate(connection):
            self.terminate(connection)
        else:
            self._shut(connection)

    def _shut(self, connection: Any) -> None:
        with self.lock:
            if is_left := id(connection) in self.at_work:
                self.at_work[id(connection)] = True
        if is_left:
            self.terminate(connection)  # which may end what it waits for
            return
        result = (self.functions.close_func or close_plainly)(connection)
        if inspect.isawaitable(result):
            raise awaitable("close_func", result)

    def _close_ended(self, slot: Slot[C], call: Call, now: float) -> None:
        if slot.holder is not call:
            return
        name = slot.connection_id
        if call.error is not None:
            self.afterwards.append(partial(self.terminate, slot.connection))
            self.core.journal.record(CloseFailed, now, name, call.error)
        self.core.disconnected(slot, now)

    def __del__(self) -> None:
        """Drop what was left open, and let no thread linger."""
        if hasattr(self, "workers") and not is_finalizing():
            self.cancel_alarm()
            self.guard.close()
            self.workers.close()
        super().__del__()


def awaitable(function: str, result: Any) -> TypeError:
    """Return the error for an async function where a plain one is needed."""
    getattr(result, "close", int)()
    return TypeError(
        f"{function} returned {type(result).__name__}, which has to be awaited: a pool for threads "
        "takes plain functions. Use ConnectionPool for async ones."
    )


def name_of(function: Callable[..., Any]) -> str:
    """Return how a function is called in a message."""
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def overdue(name: str, limit: float) -> TimeoutError:
    """Return the error of a function that took longer than it may."""
    return TimeoutError(f"{name} did not return within {limit:.2f} s")
