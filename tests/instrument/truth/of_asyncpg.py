"""asyncpg's own pool."""

from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg

from tests.instrument.truth.subjects import PATIENCE, SIZE, Subject
from tests.instrument.truth.views import PostgresView


class Asyncpg(Subject):
    library = "asyncpg"
    view = PostgresView
    in_loop = True
    notices = True
    trouble = (
        OSError,
        TimeoutError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        # A connection that was killed says so, when it has read no more than the farewell.
        asyncpg.InternalClientError,
    )
    expected = Subject.expected - {"lost"} | {
        "TimeoutError",
        "CancelledError",
        "disturbed",
        "closed",
        "terminated",
    }

    async def open(self) -> None:
        self.farewells = {"closed": _close, "terminated": _terminate}
        self.pool = await asyncpg.create_pool(
            self.server.url,
            ssl=False,
            min_size=1,
            max_size=SIZE,
            max_queries=30,
            max_inactive_connection_lifetime=0.3,
            server_settings={"application_name": self.server.tag},
        )

    def lease(self, patience: float) -> AbstractAsyncContextManager[Any]:
        # It is the limit of closing what has expired, too, of which nobody hears if it fails.
        return self.pool.acquire(timeout=max(patience, 2 * PATIENCE))  # type: ignore[no-any-return]

    async def ask(self, connection: Any, text: str) -> Any:
        return await connection.fetchval(text)

    async def disturb(self) -> None:
        await self.pool.expire_connections()

    async def close(self) -> None:
        await self.pool.close()


async def _close(connection: Any) -> None:
    await connection.close()


async def _terminate(connection: Any) -> None:
    connection.terminate()
