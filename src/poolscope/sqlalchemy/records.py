"""A connection of an engine: SQLAlchemy's record of it, its place in our pool, its borrower."""

from __future__ import annotations

import math
import weakref
from contextlib import suppress
from inspect import signature
from typing import Any

from sqlalchemy.pool import Pool
from sqlalchemy.pool.base import _ConnectionFairy, _ConnectionRecord, _finalize_fairy

from poolscope.core.slot import Slot
from poolscope.engine import doubt
from poolscope.events import CloseReason

_HOW = "ref" if "ref" in signature(_finalize_fairy).parameters else "is_gc_cleanup"
"""How SQLAlchemy is told that a borrower was lost: 2.0 by the first, 2.1 by the second."""


class _NoFinalizer:
    """What SQLAlchemy 2.1 wants to tell that a borrower came back."""

    def detach(self) -> None:
        """Do nothing: a borrower that came back is not in its record any more."""


_NO_FINALIZER = _NoFinalizer()


class Owner(Pool):
    """A pool as its records see it."""

    left_infos: list[Any]
    """`record_info` of connections that are gone, for those to come."""


class Record(_ConnectionRecord):
    """Holds one connection for as long as it is open, and never connects again.

    SQLAlchemy's own records replace a connection in place. Ours leave that to the pool, so that
    nothing opens or closes without being told.
    """

    __slots__ = ("borrower", "closed", "driver", "ending", "lease", "owner", "slot")

    owner: Owner
    """The pool of SQLAlchemy's it belongs to."""
    driver: Any
    """What drives the pool inside it is of; set when it is lent first."""
    slot: Slot[Record]
    """Its place in that pool; set when it is lent first."""
    lease: int
    """The present lease, if it still is that of the slot; 0 before the first."""
    ending: CloseReason | None
    """Why the connection is not to be lent again; None if it may be."""
    closed: bool
    """SQLAlchemy has closed it, or has begun to. One that was detached is gone and not closed."""
    borrower: weakref.ref[_ConnectionFairy] | None
    """Whom it was lent to. Dead while the lease is not: it was lost."""

    def __init__(self, pool: Owner) -> None:
        """Open the connection."""
        self.owner = pool
        self.lease = 0
        self.ending = None
        self.closed = False
        self.borrower = None
        if pool.left_infos:
            with suppress(IndexError):  # another thread was quicker
                self.__dict__["record_info"] = pool.left_infos.pop()
        super().__init__(pool)

    @property
    def lost(self) -> bool:
        """Tell whether its borrower forgot it: what is done now is done in a finalizer."""
        return self.borrower is not None and self.borrower() is None

    @property
    def outdated(self) -> bool:
        """Tell whether all connections of its age have been given up already."""
        if not self.lease:
            return False  # it is only just being opened
        return self.slot.connection is not self or self.slot.expires_at == -math.inf

    def get_connection(self) -> Any:
        """Return the connection. The pool has seen to its age, and to whether it is valid."""
        connection = self.dbapi_connection
        assert connection is not None, "a closed connection was lent"
        return connection

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:
        """Close the connection, or with `soft` once it is given back; note why."""
        if soft:
            self.ending = CloseReason.STALE
        else:
            self._note_close(_reason(e))
        super().invalidate(e, soft)

    def close(self) -> None:
        """Close the connection in the orderly way."""
        self._note_close(CloseReason.BROKEN)
        super().close()

    def _note_close(self, reason: CloseReason) -> None:
        if not self.closed:
            self.closed, self.ending = True, reason
            self.pass_on()

    def pass_on(self) -> None:
        """Leave `record_info` to the next connection, which is what SQLAlchemy promises of it."""
        if info := self.__dict__.pop("record_info", None):
            self.owner.left_infos.append(info)

    def terminate(self) -> None:
        """Close the connection at once, without goodbye if its driver knows how."""
        connection, self.dbapi_connection = self.dbapi_connection, None
        if connection is not None:
            if self.owner.dispatch.close:
                self.owner.dispatch.close(connection, self)
            self.owner._close_connection(connection, terminate=True)

    def forgotten(self, borrower: weakref.ref[Any]) -> None:
        """Be given back for a borrower that was lost, in any thread, at any time."""
        how: dict[str, Any] = {_HOW: borrower if _HOW == "ref" else True}
        _finalize_fairy(None, self, self.owner, echo=self.owner._should_log_debug(), **how)


class Fairy(_ConnectionFairy):
    """A connection as it is lent. Losing it calls `forgotten`, which costs half a `finalize`."""

    __slots__ = ()

    _finalizer: Any = _NO_FINALIZER

    def __init__(self, pool: Pool, record: Record, echo: Any) -> None:
        self._pool = pool
        self._counter = 1
        self.dbapi_connection = record.dbapi_connection  # type: ignore[assignment]
        self._connection_record = record
        self._echo = echo
        record.borrower = record.fairy_ref = weakref.ref(self, record.forgotten)
        if _HOW == "ref":
            hash(record.borrower)  # 2.0 looks it up when it is dead, and cannot be hashed any more


def _reason(error: BaseException | None) -> CloseReason:
    """Tell why SQLAlchemy closed a connection."""
    passed = error.__traceback__ if error is not None else None
    if passed is not None and passed.tb_frame.f_code is _finalize_fairy.__code__:
        resetting = isinstance(error, Exception)
        return CloseReason.RESET if resetting else CloseReason.DIRTY
    doubtful = doubt(type(error)) if error is not None else None
    return doubtful or CloseReason.BROKEN
