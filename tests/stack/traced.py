"""Requests of traced callers: what each waited for, held, and had opened is known."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from opentelemetry.trace import Tracer

from poolscope import ConnectFailedError, PoolTimeoutError
from poolscope.testing.ledger import fail
from tests.stack.scene import Cast, Pool, cancelled, hold, lag, refused

SPANS = {
    "db_client_connection_wait_time_seconds": "pool.acquire",
    "db_client_connection_use_time_seconds": "pool.use",
    "db_client_connection_create_time_seconds": "pool.connect",
}
"""Where the exemplars of each histogram lead to."""


@asynccontextmanager
async def traffic(tracer: Tracer) -> AsyncIterator[None]:
    """Have requests, each under a span of its own; after that the pools are still open."""

    async def under(caller: str, pool: Pool, seconds: float = 0.0) -> None:
        with tracer.start_as_current_span(caller):
            await hold(pool, seconds)

    async with AsyncExitStack() as stack:
        cast = Cast(stack)
        url = "postgresql://app:hunter2@db.internal:5433/shop"
        orders = await cast.pool("orders", lag(0.02), target=url)
        first = asyncio.create_task(under("first", orders, 0.3))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(under("second", orders, 0.2))
        with tracer.start_as_current_span("hasty"):
            await refused(PoolTimeoutError, orders, 0.05)
        await asyncio.gather(first, second)
        await under("lucky", orders, 1.5)

        ledger = lag(0.2)
        ledger.scripts["open"].appendleft(fail())
        users = await cast.pool("users", ledger)
        with tracer.start_as_current_span("unlucky"):
            await refused(ConnectFailedError, users)
        await asyncio.sleep(2)  # longer than the pause after a failure
        fickle = asyncio.create_task(under("fickle", users))
        await asyncio.sleep(0.1)
        heir = asyncio.create_task(under("heir", users))
        await asyncio.sleep(0.05)
        await cancelled(fickle)
        await heir
        yield
