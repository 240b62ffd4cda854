"""Callers of a pool on a real PostgreSQL, and the books of what they hold and what is open."""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.errors import (
    ConnectFailedError,
    PoolTimeoutError,
    QueueFullError,
    ValidationFailedError,
)
from poolscope.reasons import FailureReason

CALLERS = 9
"""Of each pool."""

ASK = "select $1::text, pg_sleep($2)"
RENAME = "set application_name = 'nobody''s'"

# What a client may hear of a server that is killed or restarted under it. The last comes when it
# has read the server's farewell, and not yet the end of the stream.
TROUBLE = (
    OSError,
    EOFError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
REASONS: dict[type[BaseException], FailureReason] = {
    PoolTimeoutError: FailureReason.TIMEOUT,
    QueueFullError: FailureReason.QUEUE_FULL,
    ConnectFailedError: FailureReason.CONNECT_FAILED,
    ValidationFailedError: FailureReason.VALIDATION_FAILED,
    asyncio.CancelledError: FailureReason.CANCELLED,
}

Connection = asyncpg.Connection


class Books:
    """Opens, checks, resets and closes for one pool, and knows by process id what is open."""

    def __init__(self, dsn: str, name: str) -> None:
        self.dsn = dsn
        self.name = name
        self.open: dict[int, Connection] = {}
        self.under_way = 0
        self.ended: Counter[str] = Counter()

    @contextmanager
    def working(self, deed: str) -> Iterator[None]:
        self.under_way += 1
        try:
            yield
            self.ended[deed] += 1
        except BaseException:
            self.ended[f"{deed} failed"] += 1
            raise
        finally:
            self.under_way -= 1

    async def connect(self) -> Connection:
        with self.working("connect"):
            mine = {"application_name": self.name}
            connection = await asyncpg.connect(self.dsn, ssl=False, server_settings=mine)
            self.open[connection.get_server_pid()] = connection
            return connection

    async def validate(self, connection: Connection) -> bool:
        with self.working("validate"):
            return bool(await connection.fetchval("select true"))

    async def reset(self, connection: Connection) -> None:
        with self.working("reset"):
            await connection.reset()

    async def close(self, connection: Connection) -> None:
        with self.working("close"):
            try:
                await connection.close()
            finally:
                self.strike(connection)

    def strike(self, connection: Connection) -> None:
        """Let go of a connection that is no longer the pool's."""
        (pid,) = [pid for pid, known in self.open.items() if known is connection]
        del self.open[pid]

    def alive(self) -> set[int]:
        """Return the server processes there should be."""
        return {pid for pid, connection in self.open.items() if not connection.is_closed()}


class Halt:
    """Lets everybody stand still, and go on."""

    def __init__(self) -> None:
        self._free = asyncio.Event()
        self._free.set()

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._free.wait()

    @contextmanager
    def ordered(self) -> Iterator[None]:
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()


class Caller:
    """Asks one pool for connections, again and again."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.random = random.Random(load.random.random())
        self.place = "away"
        """Where its request is: away, waiting, holding, leaving."""
        self.still = True
        """Whether it does nothing now, and nothing more before it is told to."""
        self.request: asyncio.Task[None] | None = None

    @property
    def rests(self) -> bool:
        return self.still or self.place == "waiting"

    async def pause(self, mean: float) -> None:
        self.still = True
        try:
            await self.load.halt.pause(self.random.expovariate(1 / mean))
        finally:
            self.still = False

    async def live(self) -> None:
        while self.load.goes_on:
            await self.pause(self.random.choice([0.005, 0.1]))
            self.request = asyncio.create_task(self.ask())
            await asyncio.wait({self.request})
            if not self.request.cancelled():
                self.request.result()
        self.still = True

    def cancel(self) -> None:
        """Have it give up, whether it waits or holds."""
        if self.request is not None:
            self.request.cancel()

    async def ask(self) -> None:
        load = self.load
        load.asked += 1
        self.place = "waiting"
        try:
            async with load.pool.connection(self.random.choice([0.02, 5.0])) as connection:
                self.place = "holding"
                load.leases += 1
                try:
                    await self.use(connection)
                finally:
                    self.place = "leaving"
        except (*TROUBLE, *REASONS) as error:
            if self.place == "waiting":
                load.failures[REASONS[type(error)]] += 1
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self.place = "away"

    async def use(self, connection: Connection) -> None:
        for _ in range(self.random.randrange(3)):
            await self.pause(0.01)
            tag = secrets.token_hex()
            answer = await connection.fetchrow(ASK, tag, self.random.expovariate(200))
            assert answer[0] == tag
        await self.pause(0.01)
        if self.random.random() < 0.03:
            await self.detach(connection)

    async def detach(self, connection: Connection) -> None:
        """Take the connection for oneself; it is none of the pool's from then on."""
        load = self.load
        self.place = "leaving"
        await load.pool.detach(connection)
        load.books.strike(connection)
        load.detached += 1
        try:
            await connection.execute(RENAME)
            await self.pause(0.05)
        finally:
            connection.terminate()


class Load:
    """One pool, its callers, and what they and the server know of it."""

    def __init__(self, dsn: str, name: str, halt: Halt, rng: random.Random) -> None:
        self.books = books = Books(dsn, name)
        self.halt = halt
        self.random = rng
        self.goes_on = True
        self.asked = self.leases = self.detached = 0
        self.failures: Counter[FailureReason] = Counter()
        settings = ConnectionPoolSettings(
            name=name,
            min_size=1,
            max_size=4,
            max_waiting=4,
            retry_delay=0.02,
            idle_timeout=0.5,
            max_lifetime=1.5,
        )
        checks: dict[str, Any] = {
            "careful": {"validate_func": books.validate, "reset_func": books.reset},
            "quick": {"validate_func": lambda connection: not connection.is_closed()},
            "trusting": {},
        }
        self.pool: ConnectionPool[Connection] = ConnectionPool(
            books.connect, settings, close_func=books.close, **checks[name]
        )
        self.callers = [Caller(self) for _ in range(CALLERS)]

    def count(self, place: str) -> int:
        return sum(caller.place == place for caller in self.callers)

    def rests(self) -> bool:
        """Tell whether nothing is on its way from one state to another."""
        stats = self.pool.stats()
        moving = stats.connecting + stats.closing + stats.granted + self.books.under_way
        return not moving and all(caller.rests for caller in self.callers)
