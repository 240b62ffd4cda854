"""What is told under load stays true while the libraries' official instrumentations tell, too."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.instrumentation.asyncpg import AsyncPGInstrumentor
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.instrument.truth.of_asyncpg import Asyncpg
from tests.instrument.truth.of_psycopg import Psycopg
from tests.instrument.truth.of_redis import Redis
from tests.instrument.truth.of_sqlalchemy import SqlalchemyPsycopg
from tests.instrument.truth.subjects import Subject
from tests.instrument.truth.witness import compared, seed

pytestmark = [pytest.mark.servers, pytest.mark.slow]

MOMENTS = 30


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """What all official instrumentations tell, as they are all at work."""
    told = InMemorySpanExporter()
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(told))
    meters = MeterProvider(shutdown_on_exit=False)
    kinds: list[Any] = [SQLAlchemyInstrumentor, PsycopgInstrumentor]
    kinds += [AsyncPGInstrumentor, RedisInstrumentor]
    instrumentors = [kind() for kind in kinds]
    for each in instrumentors:
        # That of SQLAlchemy refuses versions with which it works.
        each.instrument(skip_dep_check=True, tracer_provider=tracers, meter_provider=meters)
    yield told
    for each in instrumentors:
        each.uninstrument()
    tracers.shutdown()
    meters.shutdown()


@pytest.mark.parametrize("subject", [SqlalchemyPsycopg, Psycopg, Asyncpg, Redis])
def test_what_is_told_beside_others_is_what_the_server_shows(
    subject: type[Subject], request: pytest.FixtureRequest, spans: InMemorySpanExporter
) -> None:
    server = request.getfixturevalue(subject.view.server)
    with subject.view(server, f"beside_{subject.__name__.lower()}") as view:
        seen = compared(subject, view, seed(), MOMENTS)
    assert seen["moments"] == MOMENTS
    assert spans.get_finished_spans()
