"""A connection of an engine: SQLAlchemy's record of it, and its place in our pool."""

from __future__ import annotations

import math
import weakref
from typing import Any

from sqlalchemy.pool import Pool
from sqlalchemy.pool.base import _ConnectionFairy, _ConnectionRecord, _finalize_fairy

from poolscope.core.slot import Slot
from poolscope.engine import doubt
from poolscope.events import CloseReason


class Record(_ConnectionRecord):
    """Holds one connection for as long as it is open, and never connects again.

    SQLAlchemy's own records replace a connection in place. Ours leave that to the pool, so that
    nothing opens or closes without being told.
    """

    __slots__ = ("borrower", "driver", "end", "lease", "owner", "slot")

    owner: Pool
    """The pool of SQLAlchemy's it belongs to."""
    driver: Any
    """What drives the pool inside that lent it."""
    slot: Slot[Record]
    """Its place in that pool."""
    lease: int
    """The present lease, if it still is that of the slot; 0 before the first."""
    end: CloseReason | None
    """Why SQLAlchemy closed the connection, if it did."""
    borrower: weakref.ref[_ConnectionFairy] | None
    """Whom it was lent to. Dead while the lease is not: it was lost."""

    def __init__(self, pool: Pool) -> None:
        """Open the connection."""
        self.owner = pool
        self.lease = 0
        self.end = None
        self.borrower = None
        super().__init__(pool)

    @property
    def ending(self) -> CloseReason | None:
        """Return why the connection is not to be lent again; None if it may be."""
        if self.end is None and self._soft_invalidate_time:
            return CloseReason.STALE
        return self.end

    @property
    def lost(self) -> bool:
        """Tell whether its borrower forgot it: what is done now is done in a finalizer."""
        return self.borrower is not None and self.borrower() is None

    @property
    def outdated(self) -> bool:
        """Tell whether all connections of its age have been given up already."""
        return self.slot.connection is not self or self.slot.expires_at == -math.inf

    def get_connection(self) -> Any:
        """Return the connection. The pool has seen to its age, and to whether it is valid."""
        connection = self.dbapi_connection
        assert connection is not None, "a closed connection was lent"
        return connection

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:
        """Close the connection, or with `soft` once it is given back; note why."""
        if not soft and self.end is None:
            self.end = _reason(e)
        super().invalidate(e, soft)

    def close(self) -> None:
        """Close the connection in the orderly way."""
        if self.end is None:
            self.end = CloseReason.BROKEN
        super().close()

    def terminate(self) -> None:
        """Close the connection at once, without goodbye if its driver knows how."""
        connection, self.dbapi_connection = self.dbapi_connection, None
        if connection is not None:
            if self.owner.dispatch.close:
                self.owner.dispatch.close(connection, self)
            self.owner._close_connection(connection, terminate=True)


def _reason(error: BaseException | None) -> CloseReason:
    """Tell why SQLAlchemy closed a connection."""
    passed = error.__traceback__ if error is not None else None
    if passed is not None and passed.tb_frame.f_code is _finalize_fairy.__code__:
        resetting = isinstance(error, Exception)
        return CloseReason.RESET if resetting else CloseReason.DIRTY
    doubtful = doubt(type(error)) if error is not None else None
    return doubtful or CloseReason.BROKEN
