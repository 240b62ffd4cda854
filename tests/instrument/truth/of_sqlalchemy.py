"""The pools of SQLAlchemy, over drivers of each kind."""

import gc
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from typing import Any, ClassVar

import asyncpg
import sqlalchemy.ext.asyncio
from sqlalchemy import NullPool
from sqlalchemy.exc import SQLAlchemyError

from tests.instrument.truth.subjects import PATIENCE, SIZE, Subject
from tests.instrument.truth.views import MariadbView, PostgresView

Lease = AbstractContextManager[Any] | AbstractAsyncContextManager[Any]


class SqlalchemyPsycopg(Subject):
    library = "sqlalchemy"
    view = PostgresView
    ends = False
    trouble = (SQLAlchemyError,)
    expected = Subject.expected | {"TimeoutError", "detached", "invalidated", "renewed"}
    scheme: ClassVar[str] = "postgresql+psycopg"
    options: ClassVar[dict[str, Any]] = {
        "pool_size": SIZE - 1,
        "max_overflow": 1,
        "pool_timeout": PATIENCE,
        "pool_recycle": 1,
    }

    def arguments(self) -> dict[str, Any]:
        return {"application_name": self.server.tag}

    def open(self) -> None:
        self.farewells = {"detached": _detach, "invalidated": _invalidate, "renewed": _renew}
        self.asking = frozenset({"renewed"})
        self.pool = sqlalchemy.create_engine(
            self.url, connect_args=self.arguments(), **self.options
        )

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.server.url.partition('://')[2]}"

    def lease(self, patience: float) -> Lease:
        return self.pool.connect()  # type: ignore[no-any-return]

    def ask(self, connection: Any, text: str) -> Any:
        return connection.exec_driver_sql(text).scalar()

    def close(self) -> Any:
        return self.pool.dispose()


def _detach(connection: Any) -> Any:
    driver = connection.connection.dbapi_connection
    connection.detach()

    def close() -> None:
        connection.close()
        with suppress(Exception):
            driver.close()  # SQLAlchemy does not, if it was broken

    return close


def _invalidate(connection: Any) -> None:
    connection.invalidate()


def _renew(connection: Any) -> None:
    """Have it connect anew when it is used again."""
    connection.invalidate()
    connection.rollback()


class SqlalchemyNull(SqlalchemyPsycopg):
    expected = SqlalchemyPsycopg.expected - {"TimeoutError", "idle", "waiting"}
    options: ClassVar[dict[str, Any]] = {"poolclass": NullPool}

    def disturb(self) -> Any:
        return self.pool.dispose()


class SqlalchemyPymysql(SqlalchemyPsycopg):
    """Of these drivers, only this one closes what a pool leaves to the garbage collector."""

    view = MariadbView
    expected = SqlalchemyPsycopg.expected | {"disturbed"}
    scheme = "mysql+pymysql"
    gentle = True

    def arguments(self) -> dict[str, Any]:
        return {"database": self.server.tag}

    def disturb(self) -> None:
        self.pool.dispose()
        gc.collect()


class SqlalchemyAsyncpg(SqlalchemyPsycopg):
    in_loop = True
    trouble = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
    expected = SqlalchemyPsycopg.expected | {"CancelledError"}
    scheme = "postgresql+asyncpg"

    def arguments(self) -> dict[str, Any]:
        return {"ssl": False, "server_settings": {"application_name": self.server.tag}}

    def open(self) -> None:
        ways = {"detached": _detach, "invalidated": _invalidate, "renewed": _renew}
        self.farewells = {way: _in_loop(deed) for way, deed in ways.items()}
        self.asking = frozenset({"renewed"})
        self.pool = sqlalchemy.ext.asyncio.create_async_engine(
            self.url, connect_args=self.arguments(), **self.options
        )

    async def ask(self, connection: Any, text: str) -> Any:
        return (await connection.exec_driver_sql(text)).scalar()


def _in_loop(way: Any) -> Any:
    async def part(connection: Any) -> Any:
        closes = await connection.run_sync(way)
        return closes and connection.close

    return part
