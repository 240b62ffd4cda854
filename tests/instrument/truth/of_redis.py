"""The blocking pools of redis and of valkey, its twin, for threads and for asyncio."""

from collections.abc import AsyncIterator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, ClassVar

import redis
import redis.asyncio
import valkey
import valkey.asyncio

from tests.instrument.truth.subjects import PATIENCE, SIZE, Subject
from tests.instrument.truth.views import HELD, RedisView

Lease = AbstractContextManager[Any] | AbstractAsyncContextManager[Any]


class Redis(Subject):
    """Half of its callers take a connection from the pool, half begin a transaction."""

    library = "redis"
    view = RedisView
    trouble = (redis.RedisError, OSError)
    expected = Subject.expected | {"ConnectionError", "disturbed", "disconnected"}
    reconnects = True
    gentle = True  # its threads cannot bear that others close what they use
    package: ClassVar[Any] = redis
    arguments: ClassVar[tuple[str, ...]] = ()
    """Of `get_connection`."""

    def open(self) -> Any:
        self.farewells = {"disconnected": lambda connection: connection.disconnect()}
        url = self.server.url.replace("redis://", f"{self.library}://")
        self.pool = self.package.BlockingConnectionPool.from_url(
            url, client_name=self.server.tag, max_connections=SIZE, timeout=PATIENCE
        )
        self.client = getattr(self.package, self.library.title())(connection_pool=self.pool)

    def lease(self, patience: float) -> Lease:
        return self.random.choice([self.taken, self.watched])()

    @contextmanager
    def taken(self) -> Iterator[Any]:
        connection = self.pool.get_connection(*self.arguments)
        try:
            yield connection
        finally:
            self.pool.release(connection)

    @contextmanager
    def watched(self) -> Iterator[Any]:
        with self.client.pipeline() as pipeline:
            self.beginning.add(pipeline)
            try:
                pipeline.watch("truth")
            except BaseException:
                pipeline.reset()
                raise
            finally:
                self.beginning.remove(pipeline)
            yield pipeline.connection

    def ask(self, connection: Any, text: str) -> Any:
        for command in self.commands(text):
            connection.send_command(*command)
            answer = connection.read_response()
        return answer

    def commands(self, text: str) -> list[list[str]]:
        if text == RedisView.mark:
            return [["CLIENT", "SETNAME", f"{self.server.tag}-{HELD}"], ["CLIENT", "ID"]]
        if text == RedisView.unmark:
            return [["CLIENT", "SETNAME", self.server.tag]]
        return [text.split()]

    def disturb(self) -> Any:
        self.pool.disconnect()
        return True

    def close(self) -> Any:
        self.client.close()
        self.pool.close()


class RedisInLoop(Redis):
    in_loop = True
    expected = Redis.expected | {"CancelledError"}
    gentle = False
    bears_all = False
    package = redis.asyncio

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[Any]:  # type: ignore[override]
        connection = await self.pool.get_connection(*self.arguments)
        try:
            yield connection
        finally:
            await self.pool.release(connection)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[Any]:  # type: ignore[override]
        async with self.client.pipeline() as pipeline:
            self.beginning.add(pipeline)
            try:
                await pipeline.watch("truth")
            except BaseException:
                await pipeline.reset()
                raise
            finally:
                self.beginning.remove(pipeline)
            yield pipeline.connection

    async def ask(self, connection: Any, text: str) -> Any:
        for command in self.commands(text):
            await connection.send_command(*command)
            answer = await connection.read_response()
        return answer

    async def disturb(self) -> bool:
        await self.pool.disconnect(inuse_connections=False)
        return False

    async def close(self) -> None:
        await self.client.aclose()
        await self.pool.aclose()


class Valkey(Redis):
    library = "valkey"
    package = valkey
    trouble = (valkey.ValkeyError, OSError)
    arguments = ("_",)


class ValkeyInLoop(RedisInLoop):
    library = "valkey"
    package = valkey.asyncio
    trouble = (valkey.ValkeyError, OSError)
    arguments = ("_",)
