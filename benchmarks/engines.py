"""SQLAlchemy on SQLite, and the instrumentation OpenTelemetry has for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.case import SIZE, Case, expect
from benchmarks.sdk import Metering, Tracing, metering, tracing
from benchmarks.server import Server

if TYPE_CHECKING:
    from sqlalchemy import Engine

BARE = "SQLAlchemy engine"
INSTRUMENTED = "SQLAlchemy engine, instrumented"
SQLITE = "SQLite"
USAGE = "db.client.connections.usage"


@asynccontextmanager
async def bare(_: Server) -> AsyncIterator[Case]:
    with _engine() as engine:
        yield Case(BARE, SQLITE, lambda: engine.connect(), identify=None, is_sync=True)


@asynccontextmanager
async def instrumented(_: Server) -> AsyncIterator[Case]:
    import opentelemetry.instrumentation.sqlalchemy  # noqa: F401  the case is left out without it

    with _engine() as engine, metering() as metered, tracing() as traced:
        active = partial(_instrumenting, engine, metered, traced)
        # The method is looked up in each cycle, for the instrumentation replaces it in the class.
        borrow = lambda: engine.connect()  # noqa: E731
        yield Case(INSTRUMENTED, SQLITE, borrow, identify=None, is_sync=True, active=active)


@contextmanager
def _engine() -> Iterator[Engine]:
    from sqlalchemy import QueuePool, create_engine

    arguments = {"check_same_thread": False}  # opened in one thread, disposed of in another
    engine = create_engine("sqlite://", poolclass=QueuePool, pool_size=SIZE, connect_args=arguments)
    try:
        yield engine
    finally:
        engine.dispose()


@asynccontextmanager
async def _instrumenting(engine: Engine, metered: Metering, traced: Tracing) -> AsyncIterator[None]:
    """Instrument meanwhile: it is done to all engines of the process."""
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

    instrumentor = SQLAlchemyInstrumentor()
    # Without a check of SQLAlchemy's version: it says `<2.1` and would do nothing.
    instrumentor.instrument(
        engine=engine, tracer_provider=traced.provider, meter_provider=metered.provider,
        skip_dep_check=True,
    )  # fmt: skip
    try:
        yield
    finally:
        instrumentor.uninstrument()
    expect(traced.made()["connect"] > 0, "spans were made")
    expect(USAGE in metered.collect(), "the connections in use were measured")
