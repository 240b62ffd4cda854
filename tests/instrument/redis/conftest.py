from collections.abc import Iterator

import pytest

from poolscope.instrument import uninstrument
from tests.instrument.redis.stage import FLAVOURS, Flavour


@pytest.fixture(params=FLAVOURS, ids=str)
def flavour(request: pytest.FixtureRequest) -> Iterator[Flavour]:
    """At the end all is as it was, byte for byte."""
    flavour: Flavour = request.param
    before = [dict(vars(kind)) for kind in flavour.classes]
    yield flavour
    uninstrument(flavour.library)
    assert [dict(vars(kind)) for kind in flavour.classes] == before
