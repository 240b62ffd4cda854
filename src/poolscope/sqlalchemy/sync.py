"""The pool for `create_engine`: of SQLAlchemy outside, of threads inside."""

from __future__ import annotations

import time
from functools import partial
from sys import is_finalizing
from threading import get_ident
from typing import Any

from poolscope.bus import EventBus
from poolscope.connectors.sockets import shut_down
from poolscope.core.slot import IN_USE, Slot
from poolscope.events import CloseReason
from poolscope.functions import Functions
from poolscope.settings import ConnectionPoolSettings
from poolscope.sqlalchemy.base import BasePool
from poolscope.sqlalchemy.places import asker, place
from poolscope.sqlalchemy.records import Record
from poolscope.threads.driver import Driver
from poolscope.threads.lease import UNTOLD, SyncLease
from poolscope.threads.system import SYSTEM


class ObservedPool(BasePool):
    """A pool for `create_engine(url, poolclass=ObservedPool)`.

    It takes what SQLAlchemy's own `QueuePool` takes, and more: docs/sqlalchemy.md. Connections are
    opened, checked and closed in the thread that asks. Safe from any thread.
    """

    _is_asyncio = False
    _sqla_logger_namespace = "sqlalchemy.pool.ObservedPool"

    def _start(self, settings: ConnectionPoolSettings) -> QuietDriver:
        functions: Functions[Record] = Functions(self._create_connection, None, Record.close)
        return QuietDriver(
            settings,
            functions,
            EventBus(self._bus),
            time.monotonic,
            self.get_metrics(),
            system=SYSTEM,
            inline=True,
        )

    def _borrow(self, driver: QuietDriver) -> Record:
        if self._max_overflow < 0:
            self._grow(driver)
        loan = Loan()
        loan.slot = None
        loan.stage = UNTOLD
        loan.told = 0
        loan.driver = driver
        record = loan.take()
        slot: Any = loan.slot
        if not record.lease:
            record.driver, record.slot = driver, slot
        record.lease = loan.id
        slot.holder = get_ident()
        slot.site, slot.instruction = place(asker())
        loan.slot = None  # the record is given back, not the loan
        return record

    def _ping(self, record: Record) -> bool:
        """Ping; a server that does not answer in time is gone."""
        guard, lease, limit = record.driver.guard, record.lease, self._settings.validate_timeout
        guard.begin(lease, limit, shut_down, record.driver_connection)
        try:
            alive = super()._ping(record)
        except Exception:
            if guard.end(lease):
                raise
            return False
        except BaseException:
            guard.end(lease)
            raise
        return guard.end(lease) and alive

    def _do_return_conn(self, record: Any) -> None:
        if record.dbapi_connection is None or record.ending or record.slot.lease != record.lease:
            self._end_otherwise(record)
        else:
            record.driver.give_back(record.slot, record.lease)

    _return_conn = _do_return_conn

    def _give_back(self, record: Record, reason: CloseReason | None) -> None:
        record.driver.end(record.slot, record.lease, reason, 0.0)

    def _let_go(self, record: Record) -> None:
        record.driver.decide(partial(record.driver.core.detach, record.slot))

    def _grow(self, driver: QuietDriver) -> None:
        """Raise the limit of a pool that has none before anybody meets it."""
        core = driver.core
        if not core.vacant and core.next_idle() is None:
            driver.decide(driver.grow)

    def _drain(self, driver: QuietDriver) -> None:
        driver.decide(driver.drain)

    def _end(self, driver: QuietDriver) -> None:
        driver.decide(driver.set_free)  # which closes what is idle, in this thread
        driver.close(0.0)


class Loan(SyncLease[Record]):
    """A request of an engine's."""

    __slots__ = ()

    driver: QuietDriver

    def take(self) -> Record:
        """Acquire as by `__enter__`, and with less to do if a connection is idle."""
        driver = self.driver
        try:
            now = driver.clock()
            with driver.lock:
                lent = not driver.deciding and driver.core.lend(self, now)
            if lent:
                self.tell(now, self.slot.connection_id)  # type: ignore[union-attr]
                return self.slot.connection  # type: ignore[union-attr, return-value]
        except BaseException as error:
            driver.forsake(self, error)
            raise
        self.timeout = driver.patience if driver.core.vacant else driver.timeout
        return self.__enter__()


class QuietDriver(Driver[Record]):
    """A driver whose pool may end in all the ways in which those of SQLAlchemy's may."""

    patience: float
    """How long a request may take that finds room for a connection, in seconds."""

    def _connect_ended(self, slot: Slot[Record], call: Any, now: float) -> None:
        # Nothing is tried again here, so each failure is news, and somebody's answer.
        slot.round = self.core.backoff.round
        super()._connect_ended(slot, call, now)

    def grow(self, now: float) -> None:
        """Raise the limit, if it is reached."""
        core = self.core
        if core.state == "open" and not core.vacant:
            core.resize(core.settings.min_size, 2 * core.settings.max_size, now)

    def drain(self, now: float) -> None:
        """Close what is idle now, and what is lent when it comes back."""
        if self.core.state == "open":
            self.core.drain(now)

    def set_free(self, now: float) -> None:
        """Detach what is lent; have those who only just get a connection go elsewhere."""
        for slot in self.core.places.slots.copy():
            record = slot.connection
            if slot.state is IN_USE and record is not None and record.lease == slot.lease:
                self.core.detach(slot, now)
        self.core.terminate(CloseReason.POOL_CLOSED, now)
        self.core.close(now)

    def __del__(self) -> None:
        """Let go of what was left open. An engine that is lost is no fault, as with any pool."""
        if not is_finalizing() and hasattr(self, "workers"):
            self.cancel_alarm()
            self.workers.close()
