"""The official instrumentations in the same process: theirs stays theirs, ours stays ours."""

import asyncio
import gc
import math
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import asyncpg
import psycopg_pool
import pytest
import redis
import sqlalchemy
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from poolscope.instrument.entry_point import PoolscopeInstrumentor
from poolscope.telemetry import catalog
from poolscope.testing.postgres import PostgresServer
from poolscope.testing.redis import RedisServer
from tests.telemetry.outbox import Outbox, metrics_of

# One after the other, of the same pool: each takes what the one before has opened.
TIMES = 2


def use_sqlalchemy(name: str, postgres: PostgresServer, _: RedisServer, request: Any) -> None:
    url = postgres.dsn.replace("postgresql:", "postgresql+psycopg:")
    engine = sqlalchemy.create_engine(url, pool_logging_name=name)
    for _time in range(TIMES):
        with request(), engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
    engine.dispose()


def use_psycopg(name: str, postgres: PostgresServer, _: RedisServer, request: Any) -> None:
    with psycopg_pool.ConnectionPool(postgres.dsn, min_size=1, name=name) as pool:
        pool.wait()
        for _time in range(TIMES):
            with request(), pool.connection() as connection:
                connection.execute("SELECT 1")


def use_asyncpg(name: str, postgres: PostgresServer, _: RedisServer, request: Any) -> None:
    async def main() -> None:
        options = {"server_settings": {"application_name": name}}
        async with asyncpg.create_pool(postgres.dsn, min_size=1, max_size=1, **options) as pool:
            for _time in range(TIMES):
                with request():
                    async with pool.acquire() as connection:
                        await connection.execute("SELECT 1")

    asyncio.run(main())


def use_redis(name: str, _: PostgresServer, redis_server: RedisServer, request: Any) -> None:
    with redis.Redis.from_url(redis_server.url, client_name=name) as client:
        for _time in range(TIMES):
            with request():
                client.ping()
        client.connection_pool.disconnect()


USES: dict[str, tuple[Any, Any]] = {
    "sqlalchemy": (SQLAlchemyInstrumentor, use_sqlalchemy),
    "psycopg": (PsycopgInstrumentor, use_psycopg),
    "asyncpg": (AsyncPGInstrumentor, use_asyncpg),
    "redis": (RedisInstrumentor, use_redis),
}


class Service:
    """A program with one pool, and both instrumentations to be switched on and off."""

    def __init__(self, library: str, *servers: object) -> None:
        instrumentor, self._use = USES[library]
        self._servers = servers
        self._theirs = instrumentor()
        self._outbox = Outbox()
        self._meters = MeterProvider(
            [PeriodicExportingMetricReader(self._outbox, math.inf)], shutdown_on_exit=False
        )
        self._spans = InMemorySpanExporter()
        self._tracers = TracerProvider(shutdown_on_exit=False)
        self._tracers.add_span_processor(SimpleSpanProcessor(self._spans))

    def switch(self, side: str, on: bool) -> None:
        instrumentor = {"ours": PoolscopeInstrumentor(), "theirs": self._theirs}[side]
        providers = {"meter_provider": self._meters, "tracer_provider": self._tracers}
        if on:
            # The official one of SQLAlchemy would refuse 2.1.
            instrumentor.instrument(skip_dep_check=True, **providers)
        elif instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()

    def told(self) -> tuple[Counter[str], int]:
        """Use the pool; return the spans by name, and the requests that metrics tell of."""
        gc.collect()
        self._meters.force_flush()  # the last of pools that are gone
        self._outbox.sent.clear()
        name, app = f"shop-{uuid.uuid4()}", self._tracers.get_tracer("app")
        self._use(name, *self._servers, lambda: app.start_as_current_span("request"))
        self._meters.force_flush()
        spans = Counter(span.name for span in self._spans.get_finished_spans())
        requests = sum(map(_requests, self._outbox.sent))
        self._spans.clear()
        self._outbox.sent.clear()
        return spans, requests

    def close(self) -> None:
        self.switch("ours", False)
        self.switch("theirs", False)
        self._meters.shutdown()
        self._tracers.shutdown()


def _requests(data: Any) -> int:
    found = metrics_of(data).get(catalog.WAIT_TIME.name)
    points: Any = found.data.data_points if found is not None else ()
    return sum(point.count for point in points)


@pytest.fixture(params=USES)
def service(
    request: pytest.FixtureRequest, postgres: PostgresServer, redis_server: RedisServer
) -> Iterator[Service]:
    service = Service(request.param, postgres, redis_server)
    yield service
    service.close()


def test_both_tell_what_each_tells_alone(service: Service) -> None:
    app = Counter({"request": TIMES})
    assert service.told() == (app, 0)
    alone: dict[str, Counter[str]] = {}
    for side in ("theirs", "ours"):
        service.switch(side, True)
        spans, requests = service.told()
        assert requests == (TIMES if side == "ours" else 0)
        alone[side] = spans - app
        assert alone[side]
        service.switch(side, False)
        assert service.told() == (app, 0)
    for first, second in (("ours", "theirs"), ("theirs", "ours")):
        for last_on in (first, second):
            service.switch(first, True)
            service.switch(second, True)
            assert service.told() == (app + alone["ours"] + alone["theirs"], TIMES)
            service.switch("ours" if last_on == "theirs" else "theirs", False)
            requests = TIMES if last_on == "ours" else 0
            assert service.told() == (app + alone[last_on], requests)
            service.switch(last_on, False)
            assert service.told() == (app, 0)
