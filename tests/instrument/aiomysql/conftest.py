from collections.abc import Iterator

import pytest

from poolscope import instrument
from poolscope.instrument import uninstrument


@pytest.fixture
def instrumented() -> Iterator[None]:
    instrument("aiomysql")
    yield
    uninstrument("aiomysql")
