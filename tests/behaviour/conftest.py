"""Every test of this folder is run for both drivers, unless it says which one it is about."""

from collections.abc import Iterator

import pytest

from tests.behaviour.bench import Driver, for_drivers


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for_drivers(metafunc)


@pytest.fixture(autouse=True)
def driver_name(request: pytest.FixtureRequest) -> Iterator[str]:
    with Driver.named(request.param) as name:
        yield name
