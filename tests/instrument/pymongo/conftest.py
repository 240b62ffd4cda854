import subprocess
from collections.abc import Iterator
from contextlib import suppress
from socket import create_connection, create_server
from time import monotonic, sleep

import pytest

from poolscope import instrument
from poolscope.instrument import uninstrument
from tests.servers.proxy import FaultProxy
from tests.stack.tools import find_tool


@pytest.fixture(scope="session")
def mongo_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that speaks as MongoDB does; it ends with its input."""
    tool = find_tool("ferretdb")
    with create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("ferretdb")
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            [tool, f"127.0.0.1:{port}", folder], stdin=subprocess.PIPE, stdout=log, stderr=log
        ) as server,
    ):
        end = monotonic() + 20
        while monotonic() < end and server.poll() is None:
            with suppress(ConnectionRefusedError), create_connection(("127.0.0.1", port)):
                break
            sleep(0.02)
        yield port
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture
def mongo(mongo_port: int) -> Iterator[FaultProxy]:
    """What stands in front of that server, and counts who is connected."""
    with FaultProxy(mongo_port) as proxy:
        yield proxy


@pytest.fixture
def instrumented() -> Iterator[None]:
    instrument("pymongo")
    yield
    uninstrument("pymongo")
