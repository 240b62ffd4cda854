"""Real servers are killed, restarted, hung and cut off, under load from pools of all kinds.

All pools of one server suffer at the same time, so that their connections together are what the
server shows. A moment is compared while everybody stands still.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from poolscope.testing.mariadb import MariadbServer
from poolscope.testing.postgres import PostgresServer
from poolscope.testing.redis import RedisServer
from poolscope.testing.server import PrivateServer
from tests.servers.crowds import Crowd, crowd
from tests.servers.lenders import LENDERS, PATIENCE, SIZE, SLACK
from tests.servers.proxy import FaultProxy
from tests.servers.traces import soon

pytestmark = [
    pytest.mark.servers,
    pytest.mark.slow,
    # aiomysql's, of a connection whose good-bye failed because the server had gone: SQLAlchemy
    # leaves it at that, though the socket is closed.
    pytest.mark.filterwarnings("ignore:Unclosed connection <aiomysql:ResourceWarning"),
]

HANG = 2 * PATIENCE + SLACK + 0.2
"""Seconds a fault lasts during which nothing answers: longer than anybody may wait."""
REST = 10.0
"""Seconds in which everything must come to rest."""
MOMENTS = 2
"""At which pools and server must agree, before and after a fault."""


# What is done to them


def killed(server: PrivateServer, _: FaultProxy) -> None:
    server.kill()
    time.sleep(0.2)
    server.start()


def restarted(server: PrivateServer, _: FaultProxy) -> None:
    server.restart()


def paused(server: PrivateServer, _: FaultProxy) -> None:
    server.pause()
    try:
        time.sleep(HANG)
    finally:
        server.resume()


def disconnected(server: PrivateServer, _: FaultProxy) -> None:
    for _ in range(3):
        server.disconnect(*(client.id for client in server.clients()))
        time.sleep(0.05)


def stalled(_: PrivateServer, proxy: FaultProxy) -> None:
    """The network goes, and what was open is lost when it comes back."""
    proxy.stall()
    time.sleep(HANG)
    proxy.reset()
    proxy.heal()


def deaf(_: PrivateServer, proxy: FaultProxy) -> None:
    """What was open is lost, and what connects hears nothing."""
    proxy.deafen()
    proxy.reset()
    time.sleep(HANG)
    proxy.heal()


Fault = Callable[[PrivateServer, FaultProxy], None]
FAULTS: list[Fault] = [killed, restarted, paused, disconnected, stalled, deaf]
OF_THE_NETWORK = {stalled, deaf}


class Witness:
    """Compares what pools say of themselves with what their server shows."""

    def __init__(self, server: PrivateServer, crowds: list[Crowd]) -> None:
        self.server = server
        self.crowds = crowds

    def kill_one(self) -> None:
        """Let the server end one connection, and wait until it has."""
        doomed = random.choice(self.server.clients())
        self.server.disconnect(doomed.id)
        assert soon(lambda: doomed not in self.server.clients())

    def watch(self, moments: int) -> None:
        """Look at random moments, with all callers served in between."""
        for _ in range(moments):
            all_served(self.crowds)
            time.sleep(random.expovariate(50))
            self.look()

    def look(self, lost: int = 0) -> None:
        """Compare one moment, at which pools may not know yet that so many are lost."""
        for each in self.crowds:
            each.halt(True)
        deadline = time.monotonic() + REST
        while not self._agree(lost):
            assert time.monotonic() < deadline, f"no agreement, but {self}"
            time.sleep(0.005)
        for each in self.crowds:
            each.halt(False)

    def _agree(self, lost: int) -> bool:
        """Compare, unless something moves; a server needs a while to see that a client left."""
        stats = [each.stats() for each in self.crowds]
        if not all(each.rests for each in self.crowds):
            return False
        shown, said = len(self.server.clients()), sum(each.idle + each.in_use for each in stats)
        if not 0 <= said - shown <= lost:
            return False
        if not all(map(audit, self.crowds)):
            return False
        return [each.sequence for each in stats] == [each.stats().sequence for each in self.crowds]

    def have_all(self) -> None:
        """Hold all connections of all pools at once; they must be those the server shows."""
        with ExitStack() as holding:
            sessions = [holding.enter_context(each.everything()) for each in self.crowds]
            for each, held in zip(self.crowds, sessions, strict=True):
                assert len(set(held)) == SIZE == each.stats().in_use, str(each)
            held_by_all = {number for held in sessions for number in held}
            assert soon(lambda: self.shown() == held_by_all), f"{held_by_all} are held; {self}"
            self.look()

    def shown(self) -> set[int]:
        return {client.id for client in self.server.clients()}

    def __str__(self) -> str:
        return f"the server shows {self.shown()}; " + "\n".join(map(str, self.crowds))


def audit(crowd: Crowd) -> bool:
    if not crowd.books.check(crowd.stats()):
        return False
    crowd.books.compare(crowd.pool)
    return True


@contextmanager
def crowds(server: PrivateServer, url: str) -> Iterator[list[Crowd]]:
    with ExitStack() as gathered:
        lenders = [lender for lender in LENDERS if lender.server is type(server)]
        yield [gathered.enter_context(crowd(lender, url)) for lender in lenders]


def all_served(crowds: list[Crowd]) -> None:
    """Wait until each caller of each pool was served once more."""
    before = [list(each.served) for each in crowds]

    def hungry() -> list[Crowd]:
        pairs = zip(crowds, before, strict=True)
        return [each for each, was in pairs if not all(map(int.__gt__, each.served, was))]

    assert soon(lambda: not hungry()), "\n".join(map(str, hungry()))


def nobody_hung(crowds: list[Crowd]) -> None:
    for each in crowds:
        for way, limit in (("enter", each.lender.enter), ("leave", each.lender.leave)):
            longest = HANG + PATIENCE if limit is None else limit
            assert each.longest[way] < longest + SLACK, str(each)


@pytest.fixture(scope="module", params=["postgres", "mariadb_server", "redis_server"])
def server(request: pytest.FixtureRequest) -> Iterator[PrivateServer]:
    """One that nobody else needs; it is missing where that of the session is."""
    kind: Any = type(request.getfixturevalue(request.param))
    assert kind in (PostgresServer, MariadbServer, RedisServer)
    with kind() as made:
        yield made


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_all_pools_recover_and_tell_the_truth(server: PrivateServer, fault: Fault) -> None:
    with FaultProxy(server.port) as proxy:
        url = proxy.through(server.url) if fault in OF_THE_NETWORK else server.url
        with crowds(server, url) as pools:
            witness = Witness(server, pools)
            witness.watch(MOMENTS)
            witness.kill_one()
            witness.look(lost=1)
            fault(server, proxy)
            all_served(pools)
            for each in pools:
                each.end()
            nobody_hung(pools)
            witness.have_all()
            for each in pools:
                each.begin()
            witness.watch(MOMENTS)
        assert soon(lambda: not server.clients()), f"the server still shows {server.clients()}"
        for each in pools:
            each.books.conclude(each.pool)
