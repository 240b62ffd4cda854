"""The pool of an engine as a source: one for all pools which that engine has in turn."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

from poolscope.events import CloseReason, ConnectFault, ConnectionClosed
from poolscope.instrument.levels import Levels
from poolscope.instrument.reports import Connection
from poolscope.instrument.source import ForeignPool
from poolscope.instrument.sqlalchemy import private
from poolscope.target import Target


class Books:
    """The open connections of an engine, and the pools they are of, held by nothing here."""

    def __init__(self, pool: Any) -> None:
        """Begin with the first pool."""
        self._process = os.getpid()
        self.pools: list[weakref.ref[Any]] = [weakref.ref(pool)]
        """Those not yet lost, the present one last."""
        self.ends: list[Callable[[], object]] = []
        """What takes the source from each of them."""
        self.records: dict[int, weakref.ref[Any]] = {}
        """By identity: SQLAlchemy's records of connections that are open."""
        self.opening: dict[int, Connection] = {}
        """Connections that are being opened."""
        self.source: Callable[[], PoolSource | None] = lambda: None

    def succeed(self, pool: Any, end: Callable[[], object] | None) -> Callable[[], object]:
        """Go on with a pool; return what takes the source from all."""
        kept = [
            (ref, old) for ref, old in zip(self.pools, self.ends, strict=False) if ref() is not None
        ]
        assert end is not None
        kept.append((weakref.ref(pool), end))
        self.pools, self.ends = [ref for ref, _ in kept], [end for _, end in kept]
        return self.leave

    def has_pool(self) -> bool:
        """Tell whether any of the pools is still there."""
        return any(ref() is not None for ref in self.pools)

    def leave(self) -> None:
        """Take the source from all pools."""
        for end in self.ends:
            end()

    def levels(self) -> Levels:
        """Return the levels of all pools; a connection is as its record says."""
        pool, source = self.pools[-1](), self.source()
        levels = private.limits(pool) if pool is not None else Levels()
        if os.getpid() != self._process:
            levels.waiting = 0  # those were threads of the parent
        inherited = source.inherited if source is not None else ()
        lent = source.records_lent() if source is not None else ()
        for key, ref in list(self.records.items()):
            record = ref()
            if record is None or record.dbapi_connection is None or key in inherited:
                continue
            if record.in_use or key in lent:
                levels.in_use += 1
            else:
                levels.idle += 1
        levels.connecting = len(self.opening)
        return levels


class Lent:
    """Leases of one connection by one borrower, who may have asked for it several times."""

    __slots__ = ("borrower", "record", "tokens")

    def __init__(self, borrower: weakref.ref[Any], record: int) -> None:
        self.borrower = borrower
        self.record = record
        self.tokens: list[object] = []
        """One for each lease."""


class PoolSource(ForeignPool):
    """What all pools of one engine report to. Its connections are SQLAlchemy's records."""

    def __init__(self, name: str | None, target: Target | None, pool: Any) -> None:
        """Begin to observe the first of the pools."""
        self.books = books = Books(pool)
        self.limited: bool = private.has_limit(pool)
        """Whether a request may have to wait for others."""
        self.shared: bool = private.is_shared(pool)
        """Whether one connection may be lent several times at once."""
        self.reasons: dict[int, CloseReason] = {}
        """Why the connections of records are to be closed, where that is known before."""
        self.disposing: list[object] = []
        """Has one element for each call that is just closing what is idle."""
        self.lent: dict[int, Lent] = {}
        """By borrower, while connections are shared."""
        if self.limited:
            private.has_to_wait(pool)
        super().__init__(name, target, books.levels, private.omits(pool))
        books.source = weakref.ref(self)

    def lost(self) -> None:
        """Hear that a pool is lost. The source ends with the last."""
        for key, ref in list(self.books.records.items()):
            if ref() is None:
                self._forget(key)
        if not self.books.has_pool():
            self.close()

    def begin_in_child(self) -> None:
        """Count from zero in a forked child: what was under way is the parent's."""
        self.books.opening.clear()
        self.lent.clear()
        super().begin_in_child()

    # Connections

    def connecting(self, request: int = 0) -> Connection:
        """Tell that a connection is being opened, and for which request, if for one."""
        new = super().connecting(request)
        self.books.opening[id(new)] = new
        return new

    def opened(self, new: Connection, connection: object) -> None:
        """Tell that a record has a connection."""
        self._hold(connection)
        self.books.opening.pop(id(new), None)
        super().opened(new, connection)

    def not_opened(
        self, new: Connection, error: BaseException, fault: ConnectFault | None = None
    ) -> None:
        """Tell that a connection could not be opened; the error says why, unless `fault` does."""
        self.books.opening.pop(id(new), None)
        super().not_opened(new, error, fault)

    def closed(self, connection: object, reason: CloseReason) -> None:
        """Tell that a record is about to lose its connection."""
        self.books.records.pop(id(connection), None)
        super().closed(connection, reason)

    def _meet(self, connection: object, now: float) -> Connection:
        self._hold(connection)
        return super()._meet(connection, now)

    def _hold(self, record: object) -> None:
        key, myself = id(record), weakref.ref(self)

        def forget(ref: weakref.ref[Any]) -> None:
            if (source := myself()) is not None and source.books.records.get(key) is ref:
                source._forget(key)

        self.books.records[key] = weakref.ref(record, forget)

    def _forget(self, key: int) -> None:
        """Tell that a record was dropped, by the pool or with it, and its connection with it."""
        self.books.records.pop(key, None)
        self.inherited.discard(key)
        if (known := self.connections.pop(key, None)) is not None:
            age = monotonic() - known.opened_at
            # One that an engine has disposed of is kept by what is lent, and lost after that.
            reason = CloseReason.STALE if self.books.has_pool() else CloseReason.POOL_CLOSED
            self.publish(ConnectionClosed, known.id, reason, age)

    # Leases

    def detached(self, connection: object) -> None:
        """Tell that a connection was taken out of the pool for good."""
        self._unshare(connection)
        self.books.records.pop(id(connection), None)
        super().detached(connection)

    def reclaimed(self, connection: object, reason: CloseReason) -> None:
        """Tell that a connection was lost by its holder, and is closed."""
        self._unshare(connection)
        super().reclaimed(connection, reason)

    def broken_off(self, record: object, reason: CloseReason) -> None:
        """Tell that a connection is being closed, whoever has it."""
        self._unshare(record)
        self.released(record)
        self.closed(record, reason)

    def records_lent(self) -> set[int]:
        """Return the identities of records whose connections are lent, while they are shared."""
        return {lent.record for lent in list(self.lent.values())}

    def acquired_shared(self, request: int, fairy: Any) -> None:
        """Tell that a request got a connection which others may have, too."""
        record, now = fairy._connection_record, monotonic()
        known = self.connections.get(id(record)) or self._meet(record, now)
        lease = Connection(known.id, known.opened_at)
        lease.since = known.since
        token = object()
        self.connections[id(token)] = lease
        self.acquired(request, token)
        del self.connections[id(token)]
        known.since = now
        if (lent := self.lent.get(id(fairy))) is None:
            lent = self.lent[id(fairy)] = self._lend(fairy, id(record))
        lent.tokens.append(token)

    def _lend(self, fairy: Any, record: int) -> Lent:
        key, myself = id(fairy), weakref.ref(self)

        def forget(ref: weakref.ref[Any]) -> None:
            source = myself()
            if source is not None and (lent := source.lent.get(key)) and lent.borrower is ref:
                while lent.tokens:
                    source.released_shared(key)

        return Lent(weakref.ref(fairy, forget), record)

    def released_shared(self, borrower: int) -> None:
        """Tell that one of the leases of a borrower ended, by its identity."""
        if (lent := self.lent.get(borrower)) is None:
            return
        token = lent.tokens.pop()
        if not lent.tokens:
            del self.lent[borrower]
        self.released(token)

    def _unshare(self, record: object) -> None:
        """End all leases of a connection but one, which becomes that of its record."""
        for borrower, lent in list(self.lent.items()):
            if lent.record != id(record):
                continue
            del self.lent[borrower]
            for token in lent.tokens:
                if id(record) in self.leases:
                    self.released(token)
                elif (lease := self.leases.pop(id(token), None)) is not None:
                    self.leases[id(record)] = lease
