"""Pools of `MongoClient`."""

import gc
import os
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random, SystemRandom
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.asynchronous.pool import AsyncConnection
from pymongo.asynchronous.pool import Pool as AsyncPool
from pymongo.errors import AutoReconnect, PyMongoError, WaitQueueTimeoutError
from pymongo.synchronous.pool import Connection, Pool

from poolscope import registry
from poolscope.events import (
    AcquireFailed,
    AcquireSource,
    AcquireTimedOut,
    CloseReason,
    ConnectFailed,
    ConnectFault,
    ConnectionAcquired,
    ConnectionClosed,
    ConnectionReleased,
    FailureReason,
)
from poolscope.instrument import instrument, observe, uninstrument
from poolscope.instrument.library import MARK
from poolscope.telemetry import catalog
from tests.instrument.pymongo.stage import Stage, options, stage, until
from tests.servers.proxy import FaultProxy

OPENING = ["ConnectionRequested", "RequestQueued", "ConnectStarted", "ConnectionOpened"]
SEED = int(os.environ.get("POOLSCOPE_SEED") or SystemRandom().getrandbits(32))


@pytest.mark.usefixtures("instrumented")
def test_a_command_is_a_request_and_a_lease(mongo: FaultProxy) -> None:
    with stage(mongo) as on:
        assert on.client.admin.command("ping")["ok"]
        assert on.kinds() == [*OPENING, "ConnectionAcquired", "ConnectionReleased"]
        assert on.client.admin.command("ping")["ok"]
        (acquired,) = on.of(ConnectionAcquired)
        assert acquired.source is AcquireSource.IDLE
        assert on.kinds() == ["ConnectionRequested", "ConnectionAcquired", "ConnectionReleased"]
        assert on.levels() == (1, 0, 0, 0)
        on.check()
    assert on.kinds()[-2:] == ["ConnectionClosed", "PoolClosed"]


@pytest.mark.usefixtures("instrumented")
def test_who_waits_too_long_times_out(mongo: FaultProxy) -> None:
    with stage(mongo, maxPoolSize=1, waitQueueTimeoutMS=20) as on:
        with on.pool.checkout():
            assert on.levels() == (0, 1, 0, 0)
            on.events.clear()
            with pytest.raises(WaitQueueTimeoutError):
                on.client.admin.command("ping")
        (timed_out,) = on.of(AcquireTimedOut)
        assert timed_out.wait >= 0.02
        assert timed_out.stats.waiting == 0
        assert on.kinds() == [
            "ConnectionRequested",
            "RequestQueued",
            "SaturationStarted",
            "SaturationEnded",
            "AcquireTimedOut",
            "ConnectionReleased",
        ]
        assert on.source.stats().acquire_timeout == 0.02


@pytest.mark.usefixtures("instrumented")
def test_a_refused_connect_fails_its_request(mongo: FaultProxy) -> None:
    with stage(mongo) as on:
        mongo.refuse()
        with pytest.raises(AutoReconnect) as caught:
            on.client.admin.command("ping")
        (connect,), (request,) = on.of(ConnectFailed), on.of(AcquireFailed)
        assert connect.error is request.error is caught.value
        assert (connect.fault, request.reason) == (
            ConnectFault.REFUSED,
            FailureReason.CONNECT_FAILED,
        )
        assert on.levels() == (0, 0, 0, 0)
        mongo.heal()


def is_idle_for_long(on: Stage) -> None:
    on.pool.opts._PoolOptions__max_idle_time_seconds = 0
    with on.pool.checkout():
        pass


def breaks_in_use(on: Stage) -> None:
    on.proxy.reset()
    on.events.clear()
    with pytest.raises(AutoReconnect):
        on.client.admin.command("ping")
    ends = [type(event) for event in on.events[-2:]]
    assert ends == [ConnectionReleased, ConnectionClosed]


def is_cleared_when_idle(on: Stage) -> None:
    on.pool.reset()


def is_cleared_in_use(on: Stage) -> None:
    with on.pool.checkout():
        on.pool.reset()
        assert on.levels() == (0, 1, 0, 0)


def closes_with_its_client(on: Stage) -> None:
    on.client.close()


def returns_to_a_closed_pool(on: Stage) -> None:
    with on.pool.checkout():
        on.client.close()
        assert on.levels() == (0, 1, 0, 0)
        assert on.closed() == []


@pytest.mark.usefixtures("instrumented")
@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        (is_idle_for_long, CloseReason.IDLE),
        (breaks_in_use, CloseReason.BROKEN),
        (is_cleared_when_idle, CloseReason.STALE),
        (is_cleared_in_use, CloseReason.STALE),
        (closes_with_its_client, CloseReason.POOL_CLOSED),
        (returns_to_a_closed_pool, CloseReason.POOL_CLOSED),
    ],
)
def test_each_close_has_its_reason(mongo: FaultProxy, ends: Any, reason: CloseReason) -> None:
    with stage(mongo) as on:
        with on.pool.checkout():
            pass
        ends(on)
        assert on.closed() == [reason]
        on.check()
        assert (on.kinds()[-1] == "PoolClosed") == (reason is CloseReason.POOL_CLOSED)


def replaced() -> dict[str, Any]:
    kinds = (Pool, AsyncPool, Connection, AsyncConnection)
    return {f"{kind} {name}": it for kind in kinds for name, it in vars(kind).items()}


def test_who_comes_late_sees_what_there_is_and_leaves_nothing(mongo: FaultProxy) -> None:
    before = replaced()
    with MongoClient(**options(mongo, appname="shop", maxPoolSize=0, connect=False)) as client:
        with pytest.raises(TypeError, match="0 pools"):
            observe(client)
        client.admin.command("ping")
        (server,) = client._topology._servers.values()
        with server.pool.checkout():
            on = Stage(client, mongo, observe(client))
            assert on.source.name == "shop"
            assert {catalog.MAX.name, catalog.ACQUIRE_TIMEOUT.name} < on.source.omits
            assert on.levels() == (0, 1, 0, 0)
            with server.pool.checkout():
                assert on.levels() == (0, 2, 0, 0)
            assert on.levels() == (1, 1, 0, 0)
        assert on.levels() == (2, 0, 0, 0)
        assert on.kinds() == [*OPENING, "ConnectionAcquired", "ConnectionReleased"]
        assert replaced() != before
        with server.pool.checkout():
            on.source.close()
            assert replaced() == before
        assert MARK not in vars(server.pool)
        client.admin.command("ping")


@pytest.mark.usefixtures("instrumented")
def test_two_clients_of_one_server_are_two_pools(mongo: FaultProxy) -> None:
    with stage(mongo) as first, stage(mongo) as second:
        names = [first.source.name, second.source.name]
        assert names == [f"127.0.0.1:{mongo.port}", f"127.0.0.1:{mongo.port}-2"]
        # The pools that watch the server are none of the application's.
        assert sorted(source.name for source in registry.live()) == names
        with first.pool.checkout():
            assert (first.levels(), second.levels()) == ((0, 1, 0, 0), (0, 0, 0, 0))


@pytest.mark.usefixtures("instrumented")
def test_no_secret_is_in_what_is_told(mongo: FaultProxy) -> None:
    canary = "canary-42"
    access = {"username": f"user-{canary}", "password": canary, "authMechanism": "SCRAM-SHA-256"}
    with stage(mongo, **access) as on:
        with pytest.raises(PyMongoError):
            on.client.admin.command("ping")
        assert on.of(AcquireFailed)
        said = [on.source.name, repr(on.source), repr(on.source.target), *map(repr, on.events)]
        assert canary not in "".join(said)


def test_an_observed_pool_is_lost_as_any_other(mongo: FaultProxy) -> None:
    def is_lost() -> bool:
        with MongoClient(**options(mongo)) as client:
            client.admin.command("ping")
            (server,) = client._topology._servers.values()
            pool, address = server.pool, server.pool.address
            mine = type(pool)(address, pool.opts)
            mine.ready()
            with mine.checkout():
                pass
            lost = weakref.ref(mine)
            gc.disable()
            try:
                del mine
                return lost() is None
            finally:
                gc.enable()

    assert is_lost()
    instrument("pymongo")
    try:
        assert is_lost()
    finally:
        uninstrument("pymongo")


@pytest.mark.usefixtures("instrumented")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_has_none_of_it(mongo: FaultProxy) -> None:
    with stage(mongo) as on, on.pool.checkout():
        with on.pool.checkout():
            pass
        assert on.levels() == (1, 1, 0, 0)
        if (child := os.fork()) == 0:
            os._exit(on.levels() != (0, 0, 0, 0) or on.source.metrics.acquired)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.usefixtures("instrumented")
def test_the_numbers_are_those_of_the_server_whatever_breaks(mongo: FaultProxy) -> None:
    print(f"repeat with POOLSCOPE_SEED={SEED}")
    random = Random(SEED)
    with stage(mongo, maxPoolSize=3, waitQueueTimeoutMS=30) as on:
        on.subscription.unsubscribe()
        watching = mongo.open

        def ask() -> None:
            for _ in range(25):
                with suppress(PyMongoError):
                    on.client.admin.command("ping")

        with ThreadPoolExecutor(6) as threads:
            asking = [threads.submit(ask) for _ in range(6)]
            while any(not each.done() for each in asking):
                if random.random() < 0.2:
                    mongo.reset()
                time.sleep(random.expovariate(50))
        for each in asking:
            each.result()
        on.check()
        until(lambda: mongo.open - on.levels()[0] in (watching - 1, watching, watching + 1))
        assert on.levels()[1:] == (0, 0, 0)
        assert on.source.metrics.acquired
