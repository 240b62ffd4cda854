import gc
import logging
import os
import platform
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TypeVar

import pytest
from hypothesis import settings

from poolscope.testing.mariadb import MariadbServer
from poolscope.testing.postgres import PostgresServer
from poolscope.testing.redis import RedisServer
from poolscope.testing.server import PrivateServer, ServerMissingError

SERVERS = {"postgres", "redis_server", "mariadb_server"}
Served = TypeVar("Served", bound=PrivateServer)

settings.register_profile("quick", deadline=None, derandomize=False, print_blob=True)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=2_000)
# By name, because hypothesis would choose its own profile, which never varies, when CI is set.
settings.load_profile("quick")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Chosen here, before hypothesis reads it, so that every run can be repeated.
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.SystemRandom().getrandbits(32))


def pytest_report_header(config: pytest.Config) -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, repeat with --hypothesis-seed={config.option.hypothesis_seed}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not SERVERS.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("servers")


def pytest_collection_finish() -> None:
    # Modules are not what the collection after each test looks for; without them it is fast.
    gc.collect()
    gc.freeze()


def running(kind: type[Served]) -> Iterator[Served]:
    """A server for the whole run; a test which stops or pauses it must leave it running."""
    try:
        server = kind()
    except ServerMissingError as missing:
        if "CI" in os.environ:
            raise
        pytest.skip(str(missing))
    with server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    yield from running(PostgresServer)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    yield from running(RedisServer)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariadbServer]:
    yield from running(MariadbServer)


@pytest.fixture(autouse=True)
def leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test that leaves threads, or of which asyncio complains.

    Leaked sockets need no more than the collection: their ResourceWarning is an error.
    """
    before = set(threading.enumerate())
    yield
    gc.collect()
    suspects = set(threading.enumerate()) - before
    for thread in suspects:
        # One that was told to end may need a moment.
        with suppress(RuntimeError):  # one that is only just being started
            thread.join(timeout=1)
    leaked = [thread for thread in suspects if thread.is_alive()]
    assert not leaked, f"threads left behind: {leaked}"
    complaints = [
        record.getMessage()
        for when in ("setup", "call", "teardown")
        for record in caplog.get_records(when)
        if record.name == "asyncio" and record.levelno >= logging.ERROR
    ]
    assert not complaints, f"asyncio complains: {complaints}"
