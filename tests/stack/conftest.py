from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.collector import Collector
from tests.stack.tools import find_tool


@pytest.fixture(scope="session")
def collector_binary() -> Path:
    return find_tool("collector")


@pytest.fixture(scope="session")
def prometheus_binary() -> Path:
    return find_tool("prometheus")


@pytest.fixture
def collector(collector_binary: Path) -> Iterator[Collector]:
    """A Collector that has received nothing yet."""
    with Collector(collector_binary) as collector:
        yield collector
