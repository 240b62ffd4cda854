import logging
from collections.abc import Iterator

import pytest

from poolscope import instrument
from poolscope.instrument import uninstrument


@pytest.fixture(autouse=True)
def instrumented() -> Iterator[None]:
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
    instrument("psycopg")
    yield
    uninstrument("psycopg")
    logging.getLogger("psycopg.pool").setLevel(logging.NOTSET)
