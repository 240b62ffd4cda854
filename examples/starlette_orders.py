"""Orders over HTTP: Starlette, asyncpg and Redis, with pools that the middleware opens and closes.

    DATABASE_URL=postgresql://… REDIS_URL=redis://… uvicorn examples.starlette_orders:app

`python -m examples starlette` serves it with a PostgreSQL and a Redis of its own.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from redis.exceptions import RedisError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from poolscope.asgi import ConnectionPoolMiddleware
from poolscope.errors import PoolError
from poolscope.telemetry.logs import log_pools
from poolscope.telemetry.prometheus import PoolCollector
from poolscope.telemetry.setup import setup_telemetry

NAME = os.environ.get("OTEL_SERVICE_NAME", "orders-starlette")
CACHED = 60
"""Seconds for which an order is kept in Redis."""

TABLE = """
create table if not exists orders (
    id serial primary key, item varchar not null, quantity integer not null)
"""
INSERT = "insert into orders (item, quantity) values ($1, $2) returning id"
LATEST = "select id, item, quantity from orders order by id desc limit $1"
ONE = "select id, item, quantity from orders where id = $1"
SUMS = "select item, sum(quantity)::int from orders group by item"

pools = Middleware(
    ConnectionPoolMiddleware,
    database_url=os.environ["DATABASE_URL"],
    redis_url=os.environ["REDIS_URL"],
    max_connections=int(os.environ.get("POOL_SIZE", "10")),
    connection_timeout=float(os.environ.get("POOL_TIMEOUT", "2")),
    max_waiting=100,
    retry_delay=0.1,
    leak_threshold=10,
    readiness_path="/healthz",
    driver_options={"server_settings": {"application_name": NAME}},
    redis_options={"client_name": NAME},
)
REGISTRY.register(PoolCollector())


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Begin with a table and telemetry; the pools are open before, and closed after."""
    asked = any(variable.startswith("OTEL_") for variable in os.environ)
    telemetry = setup_telemetry(NAME) if asked else None
    if telemetry is None:
        log_pools()
    database = await app.state.pool_manager.get_pool("database")
    async with database.connection() as connection, connection.transaction():
        # Replicas that start together would both try to create the table.
        await connection.execute("select pg_advisory_xact_lock(4)")
        await connection.execute(TABLE)
    yield
    if telemetry is not None:
        await asyncio.to_thread(telemetry.shutdown)


async def list_orders(request: Request) -> Response:
    """Return the latest orders."""
    limit = min(int(request.query_params.get("limit", 20)), 100)
    database = await request.state.pool_manager.get_pool("database")
    async with database.connection() as connection:
        rows = await connection.fetch(LATEST, limit)
    return JSONResponse([dict(row) for row in rows])


async def create_order(request: Request) -> Response:
    """Take an order."""
    match await request.json():
        case {"item": str(item), "quantity": int(quantity)} if item and 0 < quantity <= 1000:
            item = item[:80]
        case _:
            detail = "an order has an item, and a quantity from 1 to 1000"
            return JSONResponse({"detail": detail}, 422)
    database = await request.state.pool_manager.get_pool("database")
    async with database.connection() as connection:
        number = await connection.fetchval(INSERT, item, quantity)
    return JSONResponse({"id": number, "item": item, "quantity": quantity}, 201)


async def read_order(request: Request) -> Response:
    """Return an order, from Redis if it was asked for a short time ago."""
    number = request.path_params["number"]
    manager = request.state.pool_manager
    database, redis = await manager.get_pool("database"), await manager.get_pool("redis")
    # One connection at a time: who holds one while waiting for another holds up two pools.
    async with redis.connection() as cache:
        if cached := await cache.get(f"order:{number}"):
            return Response(cached, media_type="application/json", headers={"X-Cache": "hit"})
    async with database.connection() as connection:
        row = await connection.fetchrow(ONE, number)
    if row is None:
        return JSONResponse({"detail": f"there is no order {number}"}, 404)
    body = json.dumps(dict(row))
    async with redis.connection() as cache:
        await cache.set(f"order:{number}", body, ex=CACHED)
    return Response(body, media_type="application/json", headers={"X-Cache": "miss"})


async def report(request: Request) -> Response:
    """Return what was ordered of each item, by a query as slow as was asked for."""
    seconds = min(float(request.query_params.get("seconds", 1)), 30.0)
    database = await request.state.pool_manager.get_pool("database")
    async with database.connection() as connection:
        await connection.execute("select pg_sleep($1)", seconds)
        return JSONResponse(dict(await connection.fetch(SUMS)))


async def metrics(request: Request) -> Response:
    """Show all metrics of this process; with exemplars to whom they are of use."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(REGISTRY), media_type=content_type)


async def unavailable(_: Request, error: Exception) -> Response:
    """Answer 503 in the pool's own words; those of a driver may hold secrets."""
    said = str(error) if isinstance(error, PoolError) else "a server cannot be reached"
    return JSONResponse({"detail": said}, 503, {"Retry-After": "1"})


# The last three are what a driver raises when its server goes away in the middle of a query.
UNAVAILABLE = (
    PoolError,
    RedisError,
    OSError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresConnectionError,
)

app = Starlette(
    routes=[
        Route("/orders", list_orders),
        Route("/orders", create_order, methods=["POST"]),
        Route("/orders/{number:int}", read_order),
        Route("/report", report),
        Route("/metrics", metrics),
    ],
    middleware=[pools],
    exception_handlers=dict.fromkeys(UNAVAILABLE, unavailable),
    lifespan=lifespan,
)
