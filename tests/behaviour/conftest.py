"""Every test of this folder is run for both drivers, unless it says which one it is about."""

from collections.abc import Iterator

import pytest

from tests.behaviour.bench import DRIVERS, Driver


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("driver")
    names = marker.args if marker else DRIVERS
    metafunc.parametrize("driver_name", names, indirect=True, scope="function")


@pytest.fixture(autouse=True)
def driver_name(request: pytest.FixtureRequest) -> Iterator[str]:
    Driver.name = request.param
    yield request.param
    Driver.name = "asyncio"
