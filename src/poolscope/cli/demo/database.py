"""The PostgreSQL of the demo: a private one, or the one that was named."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import asyncpg

from poolscope.testing.postgres import PostgresServer

BROKEN = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    # On a connection that was terminated, and does not know it yet.
    asyncpg.InternalClientError,
    OSError,
)
"""What connecting and queries end with when the server cannot be had."""


class DemoError(Exception):
    """The demo cannot go on. The message is for the person who started it, and has no secrets."""


class Database(Protocol):
    """Where connections lead to, and how to break them."""

    name: str
    trouble: str
    """What `fail` does to it."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    async def connect(self) -> asyncpg.Connection:
        """Open a connection."""

    async def fail(self, seconds: float) -> None:
        """Break all connections of the demo, and accept none for a while, if that can be had."""


class PrivateDatabase:
    """A PostgreSQL in a temporary directory, for this demo alone."""

    name = "a private PostgreSQL 18"
    trouble = "the database crashes"

    def __init__(self) -> None:
        """Choose a port and a password; nothing is started."""
        self._server = PostgresServer()

    async def __aenter__(self) -> Self:
        """Start the server."""
        try:
            await _in_thread(self._server.start)
        except asyncio.CancelledError:
            await _in_thread(self._server.close)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the server and remove its files."""
        await _in_thread(self._server.close)

    async def connect(self) -> asyncpg.Connection:
        """Open a connection."""
        return await asyncpg.connect(self._server.dsn)

    async def fail(self, seconds: float) -> None:
        """Crash the server, and start it again."""
        await _in_thread(lambda: self._server.stop("immediate"))
        await asyncio.sleep(seconds)
        await _in_thread(self._server.start)


class GivenDatabase:
    """A PostgreSQL that was there before, and stays as it is."""

    name = "the PostgreSQL of DATABASE_URL"
    trouble = "the database terminates all connections of this demo"

    def __init__(self, url: str) -> None:
        """Remember the address."""
        self._url = url
        # Unlike any other demo's, because its bearers are going to be terminated.
        self._application = f"poolscope-demo-{secrets.token_hex(4)}"

    async def __aenter__(self) -> Self:
        """See whether it answers."""
        await self._run("SELECT")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave it alone."""

    async def connect(self) -> asyncpg.Connection:
        """Open a connection which can be told from others."""
        names = {"application_name": self._application}
        return await asyncpg.connect(self._url, timeout=10, server_settings=names)

    async def fail(self, seconds: float) -> None:
        """Terminate the connections of this demo, and no others."""
        await self._run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = $1 AND pid <> pg_backend_pid()",
            self._application,
        )

    async def _run(self, query: str, *args: str) -> None:
        try:
            connection = await self.connect()
            try:
                await connection.execute(query, *args)
            finally:
                await connection.close()
        except (*BROKEN, ValueError) as error:
            # Of the error only its type: its text may quote the address.
            raise DemoError(
                f"cannot use {self.name} ({type(error).__name__}); check its address, "
                "and that the server runs and accepts the user"
            ) from None


async def _in_thread(function: Callable[[], None]) -> None:
    """Run a function that blocks. A cancellation waits for its end: threads cannot be stopped."""
    work = asyncio.create_task(asyncio.to_thread(function))
    try:
        await asyncio.wait({work})
    except asyncio.CancelledError:
        await asyncio.gather(work, return_exceptions=True)
        raise
    await work
