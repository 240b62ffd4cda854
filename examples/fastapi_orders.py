"""Orders over HTTP: FastAPI, SQLAlchemy's asyncio engine on asyncpg, and our pool beneath it.

    DATABASE_URL=postgresql://user:password@host/shop uvicorn examples.fastapi_orders:app

`python -m examples fastapi` serves it with a PostgreSQL of its own.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, make_url, select, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from poolscope.asgi import ConnectionPoolMiddleware
from poolscope.errors import PoolError
from poolscope.sqlalchemy import AsyncObservedPool
from poolscope.telemetry.logs import log_pools
from poolscope.telemetry.prometheus import PoolCollector
from poolscope.telemetry.setup import setup_telemetry

NAME = os.environ.get("OTEL_SERVICE_NAME", "orders-fastapi")

engine = create_async_engine(
    make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg"),
    poolclass=AsyncObservedPool,
    name="orders",
    pool_size=int(os.environ.get("POOL_SIZE", "10")),
    max_overflow=0,
    pool_timeout=float(os.environ.get("POOL_TIMEOUT", "2")),
    max_waiting=100,
    pool_pre_ping=True,
    leak_threshold=float(os.environ.get("LEAK_THRESHOLD", "10")),
    connect_args={"server_settings": {"application_name": NAME}},
)
sessions = async_sessionmaker(engine, expire_on_commit=False)
REGISTRY.register(PoolCollector())


class Base(DeclarativeBase):
    """What the tables belong to."""


class Order(Base):
    """An order in the database."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[str]
    quantity: Mapped[int]


class NewOrder(BaseModel):
    """An order as a client sends it."""

    item: str = Field(min_length=1, max_length=80)
    quantity: int = Field(gt=0, le=1000)


class StoredOrder(NewOrder):
    """An order as a client gets it."""

    model_config = ConfigDict(from_attributes=True)
    id: int


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Begin with tables and telemetry; end with nothing unsent and no connection left."""
    asked = any(variable.startswith("OTEL_") for variable in os.environ)
    telemetry = setup_telemetry(NAME) if asked else None
    if telemetry is None:
        log_pools()
    async with engine.begin() as connection:
        # Replicas that start together would both try to create the tables.
        await connection.execute(text("select pg_advisory_xact_lock(4)"))
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()
    if telemetry is not None:
        await asyncio.to_thread(telemetry.shutdown)


app = FastAPI(title="Orders", lifespan=lifespan)
# Without pools of its own it tells the span of each request, which is FastAPI's, how long the
# request waited for connections and held them.
app.add_middleware(ConnectionPoolMiddleware)
leaked: list[AsyncSession] = []


@app.exception_handler(PoolError)
@app.exception_handler(DBAPIError)
@app.exception_handler(OSError)
async def unavailable(_: Request, error: Exception) -> JSONResponse:
    """Answer 503 in the pool's own words; those of a driver may hold secrets."""
    if isinstance(error, DataError | IntegrityError | ProgrammingError):
        raise error  # a bug of this service
    said = str(error) if isinstance(error, PoolError) else "the database cannot be reached"
    return JSONResponse({"detail": said}, 503, {"Retry-After": "1"})


async def open_session() -> AsyncIterator[AsyncSession]:
    """Lend a session, which takes a connection with its first query."""
    async with sessions() as session:
        yield session


# In this scope the connection is back before the response goes out to a client that may be slow.
Session = Annotated[AsyncSession, Depends(open_session, scope="function")]


@app.get("/orders", response_model=list[StoredOrder])
async def list_orders(session: Session, limit: Annotated[int, Query(le=100)] = 20) -> Any:
    """Return the latest orders."""
    return (await session.scalars(select(Order).order_by(Order.id.desc()).limit(limit))).all()


@app.post("/orders", response_model=StoredOrder, status_code=201)
async def create_order(new: NewOrder, session: Session) -> Any:
    """Take an order."""
    order = Order(**new.model_dump())
    session.add(order)
    await session.commit()
    return order


@app.get("/report")
async def report(
    session: Session, seconds: Annotated[float, Query(ge=0, le=30)] = 1
) -> dict[str, int]:
    """Return what was ordered of each item, by a query as slow as was asked for."""
    await session.execute(select(func.pg_sleep(seconds)))
    sums = select(Order.item, func.sum(Order.quantity)).group_by(Order.item)
    return dict((await session.execute(sums)).tuples().all())


@app.post("/leak", status_code=204)
async def leak() -> None:
    """Do what a service must not: keep a connection. The pool says so, and where."""
    session = sessions()
    await session.execute(select(1))
    leaked.append(session)


@app.delete("/leak", status_code=204)
async def mend() -> None:
    """Give back all that was kept."""
    while leaked:
        await leaked.pop().close()


@app.get("/healthz")
async def healthz() -> dict[str, bool]:
    """Tell whether to send requests here; a saturated pool works, so it is ready."""
    stats = cast(AsyncObservedPool, engine.pool).stats()
    if stats is None or stats.in_use < stats.max_size:
        async with engine.connect():  # the pre-ping asks the database
            pass
    return {"ready": True}


@app.get("/metrics")
async def metrics(request: Request) -> Response:
    """Show all metrics of this process; with exemplars to whom they are of use."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(REGISTRY), media_type=content_type)
