"""A pool whose connections open and close their sockets by themselves, and what is told of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from sys import _getframe, exc_info
from types import CodeType, FrameType
from typing import Any

from poolscope.events import CloseReason, FailureReason
from poolscope.instrument.reports import Connection, why
from poolscope.instrument.source import ForeignPool

_FAILURES = {
    "No connection available.": FailureReason.TIMEOUT,
    "Too many connections": FailureReason.QUEUE_FULL,
    "Connection not ready": FailureReason.VALIDATION_FAILED,
}
"""What pools raise of their own; all of it is `ConnectionError`, as are failed connects."""


class Watched(ForeignPool):
    """What a pool reports to. Connections are known by what has the socket."""

    is_cached = False
    """Whether what it lends answers from a cache, and something else has the socket."""

    def begin(self) -> None:
        """Know of nothing under way."""
        super().begin()
        self.opening: dict[int, Connection] = {}
        """Those being opened, by the identity of their objects."""
        self.broken: dict[int, CloseReason] = {}
        """Those lent whose sockets are closed, and why. They close when given back."""

    def retire(self) -> None:
        """Tell that the pool closed: the observation ends when the last lease does."""
        self.retired = True
        if not self.leases and not self.broken:
            self.close()

    def request_under_way(self) -> int:
        """Return the request for which this is called; 0 if it is for none."""
        frame: FrameType | None = _getframe(1)
        while frame is not None:
            if frame.f_code in LENDING:
                mine = frame.f_locals
                if mine.get("source") is self and "request" in mine:
                    return int(mine["request"])
            frame = frame.f_back
        return 0

    def begin_connect(self, connection: Any) -> Connection | None:
        """Tell that a socket is being opened. None: that was told already."""
        if self.state == "closed" or id(connection) in self.opening:
            return None
        new = self.connecting(self.request_under_way())
        self.opening[id(connection)] = new
        return new

    def end_connect(self, new: Connection, connection: Any, error: BaseException | None) -> None:
        """Tell what came of it. A socket may stay open though its greeting failed."""
        self.opening.pop(id(connection), None)
        if not is_open(connection):
            self.not_opened(new, error or ConnectionError())
            return
        if self.broken:
            self.settle(connection)
        self.opened(new, connection)

    def sever(self, connection: Any, reason: CloseReason) -> None:
        """Tell that a socket is closed, or is about to be."""
        if id(connection) not in self.leases:
            self.closed(connection, reason)
        elif id(connection) in self.connections:
            self.broken.setdefault(id(connection), reason)

    def settle(self, connection: Any) -> None:
        """Tell that a connection that broke while it was lent is gone."""
        if (reason := self.broken.pop(id(connection), None)) is not None:
            self.closed(connection, reason)
            if self.retired:
                self.retire()

    def forget(self, idle: list[Any], taken: list[Any]) -> None:
        """Tell that the pool lets go of these, without closing them."""
        for connection in idle:
            self.closed(connection, CloseReason.STALE)
        for connection in taken:
            self.broken.pop(id(connection), None)
            self.detached(connection)


LENDING: set[CodeType] = set()
"""Code that lends, with the locals `source` and `request`: looking there costs no cycle a thing."""

_closing: ContextVar[tuple[Watched, CloseReason] | None] = ContextVar("_closing", default=None)
"""Which pool is being closed in this context, and why."""


@contextmanager
def closing(source: Watched, reason: CloseReason) -> Iterator[None]:
    """Have sockets that are closed meanwhile be closed for this reason."""
    before = _closing.get()
    if before is None or before[0] is not source:
        _closing.set((source, reason))
    try:
        yield
    finally:
        _closing.set(before)


def is_open(connection: Any) -> bool:
    """Tell whether a connection has a socket."""
    if "_sock" in connection.__dict__:
        return connection._sock is not None
    return bool(connection.is_connected)


def why_failed(error: BaseException) -> FailureReason:
    """Return why a request failed."""
    text = error.args[0] if len(error.args) == 1 else None
    known = _FAILURES.get(text) if isinstance(text, str) else None
    return known or why(error)


def why_severed(source: Watched, connection: Any, options: dict[str, Any]) -> CloseReason:
    """Return why a connection is about to be closed, by who does it and what went wrong."""
    now = _closing.get()
    if now is not None and now[0] is source:
        return now[1]
    if options.get("health_check_failed") or source.request_under_way():
        return CloseReason.VALIDATION
    if hasattr(connection, "should_reconnect") and connection.should_reconnect():
        return CloseReason.STALE
    error = exc_info()[1]
    if error is None:
        return CloseReason.DIRTY if id(connection) in source.leases else CloseReason.STALE
    if isinstance(error, Exception) and type(error).__name__ != "TimeoutError":
        return CloseReason.BROKEN
    return CloseReason.DIRTY
