"""Engines on files of SQLite under load: the open files of this process are what is open."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine

from poolscope.sqlalchemy import AsyncObservedPool, ObservedPool
from poolscope.testing.server import PrivateServer
from tests.connectors import kinds
from tests.servers.crowds import CALLERS, Crowd, crowd
from tests.servers.lenders import SIZE, THEIRS, Lender, Listener, Pooled
from tests.servers.traces import soon

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc shows what is open")

READ = "pragma schema_version"
PAUSE = 0.02
REST = 10.0
"""Seconds in which everything must come to rest."""


def read_at_once(connection: Any, _: object) -> None:
    """Have SQLite open the file: it waits with that for the first command."""
    cursor = connection.cursor()
    cursor.execute(READ)
    cursor.close()


async def async_engine(url: str, listener: Listener, _: dict[str, Any]) -> Pooled:
    made = create_async_engine(url, poolclass=AsyncObservedPool, **THEIRS)
    event.listen(made.sync_engine, "connect", read_at_once)
    made.pool.bus.subscribe(listener)
    metrics = made.pool.get_metrics()
    return Pooled(made.connect, lambda: made.pool.stats(), metrics, made.dispose)


def engine(url: str, listener: Listener, _: dict[str, Any]) -> Pooled:
    made = create_engine(url, poolclass=ObservedPool, **THEIRS)
    event.listen(made, "connect", read_at_once)
    made.pool.bus.subscribe(listener)
    metrics = made.pool.get_metrics()
    return Pooled(made.connect, lambda: made.pool.stats(), metrics, made.dispose)


def ask_in_loop(connection: Any, _: str) -> Any:
    (kind,) = [kind for kind in kinds.ASYNC_FILES if kind.scheme == "sqlite+aiosqlite"]
    return kind.run(connection, READ)


def ask_in_thread(connection: Any, _: str) -> Any:
    return kinds.alchemy(connection, READ)


LENDERS = (
    Lender("sqlite+aiosqlite", PrivateServer, True, async_engine, ask_in_loop),
    Lender("sqlite+pysqlite", PrivateServer, False, engine, ask_in_thread),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "things.db"


@pytest.fixture(params=LENDERS, ids=str)
def callers(request: pytest.FixtureRequest, file: Path) -> Iterator[Crowd]:
    with crowd(request.param, f"sqlite:///{file}") as gathered:
        yield gathered


def opened(file: Path) -> int:
    """Count how often this process has the file open."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found += os.readlink(descriptor) == str(file)
        except FileNotFoundError:
            continue
    return found


def served_again(crowd: Crowd) -> None:
    before = list(crowd.served)
    assert soon(lambda: all(map(int.__gt__, crowd.served, before))), str(crowd)


def agree(crowd: Crowd, file: Path, detached: int) -> bool:
    """Compare, while nothing moves; so many callers may hold what was set free by a dispose."""
    stats, metrics = crowd.pool.stats(), crowd.pool.metrics
    if not crowd.rests:
        return False
    said = stats.idle + stats.in_use if stats else 0
    told = metrics.opened - sum(metrics.closed.values()) - metrics.detached
    levels = metrics.idle_connections + metrics.active_connections
    return said == told == levels and 0 <= opened(file) - said <= detached


def look(crowd: Crowd, file: Path, detached: int = 0) -> None:
    crowd.halt(True)
    deadline = time.monotonic() + REST
    while not agree(crowd, file, detached):
        assert time.monotonic() < deadline, f"{opened(file)} are open; {crowd}"
        time.sleep(0.005)
    crowd.halt(False)


def test_an_engine_on_a_file_tells_the_truth_under_load(callers: Crowd, file: Path) -> None:
    for _ in range(20):
        served_again(callers)
        look(callers, file)
        assert callers.books.check(callers.stats())
        time.sleep(PAUSE)
    callers.end()
    with callers.everything():
        assert opened(file) == SIZE == callers.stats().in_use
    assert not callers.outcomes
    callers.close()
    assert opened(file) == 0
    callers.books.conclude(callers.pool)


def test_an_engine_disposed_of_under_load_goes_on_and_loses_nothing(
    callers: Crowd, file: Path
) -> None:
    metrics = callers.pool.metrics
    for _ in range(5):
        served_again(callers)
        callers.dispose()
        look(callers, file, detached=CALLERS)
        served_again(callers)
    callers.end()
    look(callers, file)
    callers.close()
    assert not callers.outcomes
    assert opened(file) == 0
    assert metrics.opened == sum(metrics.closed.values()) + metrics.detached
