"""What is told of each library's pools, under load and faults, is what a real server shows."""

import pytest

from tests.instrument.truth.of_aiomysql import Aiomysql
from tests.instrument.truth.of_asyncpg import Asyncpg
from tests.instrument.truth.of_psycopg import (
    Psycopg,
    PsycopgInLoop,
    PsycopgNull,
    PsycopgNullInLoop,
)
from tests.instrument.truth.of_redis import Redis, RedisInLoop, Valkey, ValkeyInLoop
from tests.instrument.truth.of_sqlalchemy import (
    SqlalchemyAsyncpg,
    SqlalchemyNull,
    SqlalchemyPsycopg,
    SqlalchemyPymysql,
)
from tests.instrument.truth.subjects import Subject
from tests.instrument.truth.witness import compared, seed

MOMENTS = 200
ALWAYS: set[type[Subject]] = {Psycopg, Asyncpg}
"""Those that are not left out where time is short."""
SUBJECTS: list[type[Subject]] = [
    Psycopg,
    PsycopgInLoop,
    PsycopgNull,
    PsycopgNullInLoop,
    Asyncpg,
    Aiomysql,
    SqlalchemyPsycopg,
    SqlalchemyPymysql,
    SqlalchemyAsyncpg,
    SqlalchemyNull,
    Redis,
    RedisInLoop,
    Valkey,
    ValkeyInLoop,
]


def parameter(subject: type[Subject]) -> object:
    marks = [] if subject in ALWAYS else [pytest.mark.slow]
    return pytest.param(subject, id=subject.__name__, marks=[pytest.mark.servers, *marks])


@pytest.mark.parametrize("subject", [parameter(each) for each in SUBJECTS])
def test_what_is_told_of_a_pool_is_what_the_server_shows(
    subject: type[Subject], request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue(subject.view.server)
    with subject.view(server, f"truth_{subject.__name__.lower()}") as view:
        seen = compared(subject, view, seed(), MOMENTS)
    assert seen["moments"] == MOMENTS
    missing = {what for what in subject.expected if not seen[what]}
    assert not missing, f"never happened: {missing}"
