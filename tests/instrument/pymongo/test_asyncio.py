"""Pools of `AsyncMongoClient`."""

import asyncio
import os
from contextlib import suppress
from random import Random, SystemRandom
from typing import Any

import pytest
from pymongo.errors import AutoReconnect, PyMongoError, WaitQueueTimeoutError

from poolscope.events import (
    AcquireFailed,
    AcquireTimedOut,
    CloseReason,
    ConnectFailed,
    ConnectFault,
    FailureReason,
)
from tests.instrument.pymongo.stage import Stage, async_stage
from tests.servers.proxy import FaultProxy
from tests.support import run

pytestmark = pytest.mark.usefixtures("instrumented")

OPENING = ["ConnectionRequested", "RequestQueued", "ConnectStarted", "ConnectionOpened"]
SEED = int(os.environ.get("POOLSCOPE_SEED") or SystemRandom().getrandbits(32))


def test_a_command_is_a_request_and_a_lease(mongo: FaultProxy) -> None:
    async def main() -> None:
        async with async_stage(mongo) as on:
            assert (await on.client.admin.command("ping"))["ok"]
            assert on.kinds() == [*OPENING, "ConnectionAcquired", "ConnectionReleased"]
            assert on.levels() == (1, 0, 0, 0)
            on.check()
        assert on.kinds()[-2:] == ["ConnectionClosed", "PoolClosed"]

    run(main())


def test_who_gives_up_waiting_counts_as_cancelled(mongo: FaultProxy) -> None:
    async def main() -> None:
        async with async_stage(mongo, maxPoolSize=1) as on:
            async with on.pool.checkout():
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(on.client.admin.command("ping"), 0.02)
            (failed,) = on.of(AcquireFailed)
            assert failed.reason is FailureReason.CANCELLED
            on.check()
            assert on.levels() == (1, 0, 0, 0)

    run(main())


def test_who_waits_too_long_times_out(mongo: FaultProxy) -> None:
    async def main() -> None:
        async with async_stage(mongo, maxPoolSize=1, waitQueueTimeoutMS=20) as on:
            async with on.pool.checkout():
                with pytest.raises(WaitQueueTimeoutError):
                    await on.client.admin.command("ping")
            assert len(on.of(AcquireTimedOut)) == 1
            on.check()

    run(main())


def test_a_connect_cut_short_is_abandoned(mongo: FaultProxy) -> None:
    async def main() -> None:
        async with async_stage(mongo) as on:
            mongo.deafen()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(on.client.admin.command("ping"), 0.05)
            mongo.heal()
            (connect,), (request,) = on.of(ConnectFailed), on.of(AcquireFailed)
            assert connect.fault is ConnectFault.ABANDONED
            assert request.reason is FailureReason.CANCELLED
            assert on.levels() == (0, 0, 0, 0)

    run(main())


async def breaks_in_use(on: Stage) -> None:
    on.proxy.reset()
    with pytest.raises(AutoReconnect):
        await on.client.admin.command("ping")


async def is_cut_short(on: Stage) -> None:
    on.proxy.stall()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(on.client.admin.command("ping"), 0.05)
    on.proxy.heal()


async def is_cleared(on: Stage) -> None:
    await on.pool.reset()


async def returns_to_a_closed_pool(on: Stage) -> None:
    async with on.pool.checkout():
        await on.client.close()
        assert on.levels() == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        (breaks_in_use, CloseReason.BROKEN),
        (is_cut_short, CloseReason.BROKEN),
        (is_cleared, CloseReason.STALE),
        (returns_to_a_closed_pool, CloseReason.POOL_CLOSED),
    ],
)
def test_each_close_has_its_reason(mongo: FaultProxy, ends: Any, reason: CloseReason) -> None:
    async def main() -> None:
        async with async_stage(mongo) as on:
            await on.client.admin.command("ping")
            await ends(on)
            assert set(on.closed()) == {reason}
            on.check()
            assert (on.kinds()[-1] == "PoolClosed") == (reason is CloseReason.POOL_CLOSED)

    run(main())


# A connect that is cut short leaves its socket to the collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_the_laws_hold_whatever_is_cut_short(mongo: FaultProxy) -> None:
    print(f"repeat with POOLSCOPE_SEED={SEED}")
    random = Random(SEED)

    async def ask(on: Stage) -> None:
        for _ in range(12):
            limit = random.expovariate(200) if random.random() < 0.5 else 5
            with suppress(TimeoutError, PyMongoError):
                async with asyncio.timeout(limit):
                    await on.client.admin.command("ping")

    async def main() -> None:
        async with async_stage(mongo, maxPoolSize=3) as on:
            on.subscription.unsubscribe()
            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(ask(on)) for _ in range(8)]
                while not all(each.done() for each in asking):
                    if random.random() < 0.1:
                        mongo.reset()
                    await asyncio.sleep(random.expovariate(100))
            on.check()
            assert on.levels()[1:] == (0, 0, 0)
            assert on.source.metrics.acquired

    run(main())
