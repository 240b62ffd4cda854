from collections.abc import Iterator

import pytest

from poolscope import instrument
from poolscope.instrument import uninstrument
from poolscope.testing.postgres import PostgresServer
from tests.instrument.sqlalchemy.stage import Stage


@pytest.fixture(params=["postgresql+psycopg", "postgresql+asyncpg"])
def stage(request: pytest.FixtureRequest, postgres: PostgresServer) -> Stage:
    return Stage(request.param, postgres)


@pytest.fixture
def instrumented() -> Iterator[None]:
    instrument("sqlalchemy")
    yield
    uninstrument("sqlalchemy")
