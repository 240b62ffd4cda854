"""aiomysql's own pool."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiomysql
import pymysql

from tests.instrument.truth.subjects import SIZE, Subject
from tests.instrument.truth.views import MariadbView


class Aiomysql(Subject):
    library = "aiomysql"
    view = MariadbView
    in_loop = True
    trouble = (pymysql.MySQLError, TimeoutError, OSError)
    expected = Subject.expected | {"TimeoutError", "CancelledError", "disturbed", "closed"}

    async def open(self) -> None:
        self.farewells = {"closed": lambda connection: connection.close()}
        place = self.server.place
        self.pool = await aiomysql.create_pool(
            minsize=1,
            maxsize=SIZE,
            pool_recycle=1,
            host="127.0.0.1",
            port=place.port,
            user=place.username,
            password=place.password,
            db=self.server.tag,
        )

    @asynccontextmanager
    async def lease(self, patience: float) -> AsyncIterator[Any]:
        # Its patience has no end.
        async with asyncio.timeout(patience):
            connection = await self.pool.acquire()
        try:
            yield connection
        finally:
            await self.pool.release(connection)

    async def ask(self, connection: Any, text: str) -> Any:
        async with connection.cursor() as cursor:
            await cursor.execute(text)
            return (await cursor.fetchone())[0]

    async def disturb(self) -> None:
        await self.pool.clear()

    async def close(self) -> None:
        self.pool.close()
        await self.pool.wait_closed()
