from collections.abc import Iterator

import pytest

from poolscope.instrument import uninstrument
from tests.instrument.redis.stage import FLAVOURS, Flavour


@pytest.fixture(params=FLAVOURS, ids=str)
def flavour(request: pytest.FixtureRequest) -> Iterator[Flavour]:
    """At the end all is as it was, byte for byte."""
    flavour: Flavour = request.param
    before = [attributes(kind) for kind in flavour.classes]
    yield flavour
    uninstrument(flavour.library)
    assert [attributes(kind) for kind in flavour.classes] == before


def attributes(kind: type) -> dict[str, object]:
    """What a class has; but annotations, which Python adds where anybody asks for them."""
    return {name: value for name, value in vars(kind).items() if name != "__annotations__"}
