from collections.abc import Iterator

import pytest
from asyncpg import Connection
from asyncpg.pool import Pool, PoolConnectionHolder

from poolscope import instrument
from poolscope.instrument import uninstrument

KINDS = (Pool, PoolConnectionHolder, Connection)


@pytest.fixture
def instrumented() -> Iterator[None]:
    before = [list(vars(kind).items()) for kind in KINDS]
    instrument("asyncpg")
    yield
    uninstrument("asyncpg")
    assert [list(vars(kind).items()) for kind in KINDS] == before
