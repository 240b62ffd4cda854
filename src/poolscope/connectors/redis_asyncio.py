"""Redis by redis.asyncio: clients of one connection each."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from poolscope.connectors.recipe import Recipe
from poolscope.connectors.redis_options import check_url, explain, parameters, refuse_unless_quiet
from poolscope.connectors.urls import Address


class Client(Redis):
    """A client whose commands and pipelines share one connection, one after the other."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._single_conn_lock = TaskLock()
        self.pipelines = Pipelines(self)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline on this client's own connection."""
        pipeline = super().pipeline(transaction, shard_hint)
        pipeline.connection_pool = self.pipelines  # type: ignore[assignment]
        return pipeline

    def terminate(self) -> None:
        """Close the socket now, without a word to the server."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection._close()  # type: ignore[no-untyped-call]


class TaskLock(asyncio.Lock):
    """A lock its holder may take again, as for a command between WATCH and EXEC."""

    _holder: asyncio.Task[Any] | None = None
    _depth = 0

    async def acquire(self) -> Any:
        """Take it, or take it once more; return True."""
        me = asyncio.current_task()
        if self._holder is None or self._holder is not me:
            await super().acquire()
            self._holder = me
        self._depth += 1
        return True

    def release(self) -> None:
        """Let it go as often as it was taken."""
        self._depth -= 1
        if self._depth == 0:
            self._holder = None
            super().release()


class Pipelines:
    """What a pipeline takes for a connection pool: the client's own connection, locked."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        """Wait until nobody else uses the connection, and return it."""
        await self._client._single_conn_lock.acquire()
        return self._client.connection

    async def release(self, _: Any) -> None:
        """Let others use it."""
        self._client._single_conn_lock.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client.connection_pool, name)


def recipe(address: Address, connect_timeout: float | None, options: dict[str, Any]) -> Recipe:
    """Return what opens `redis.asyncio.Redis` clients; options are those of its `from_url`."""
    check_url(parse_url, address)
    options = parameters(address, connect_timeout, options)

    async def connect() -> Any:
        # By itself a client connects anew when a connection is lost, and the pool never knows.
        retry = {"retry": Retry(NoBackoff(), 0)}
        client: Any = Client.from_url(
            address.url, single_connection_client=True, **(retry | options)
        )
        try:
            await client.initialize()
        except BaseException as error:
            explain(error)
            await client.aclose()
            raise
        return client

    return address.recipe(connect, _check, _reset, _close)


async def _check(client: Client) -> bool:
    if client.connection is None or not client.connection.is_connected:
        return False
    await client.ping()
    return True


async def _reset(client: Client) -> None:
    connection = client.connection
    connected = connection is not None and connection.is_connected
    refuse_unless_quiet(connected, client._single_conn_lock.locked())
    assert connection is not None
    # A reply nobody has read would be taken for the answer to the next borrower's command.
    refuse_unless_quiet(True, await _can_read(connection))


async def _can_read(connection: Any) -> bool:
    if hasattr(connection, "can_read"):  # since redis-py 8
        return bool(await connection.can_read())
    # What that knew before was what its parser has, not what had arrived besides.
    return bool(connection._reader._buffer or await connection.can_read_destructive())


async def _close(client: Client) -> None:
    await client.aclose()
