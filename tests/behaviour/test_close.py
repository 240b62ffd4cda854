import asyncio
import gc
import weakref

import pytest

from poolscope import ConnectionPool, PoolClosedError, registry
from poolscope.events import (
    AcquireFailed,
    CloseReason,
    ConnectFailed,
    ConnectFault,
    ConnectionClosed,
    FailureReason,
    LeakReclaimed,
    PoolClosed,
)
from poolscope.testing import Ledger, run_virtual
from poolscope.testing.ledger import never, slow
from tests.behaviour.bench import bench, ticks


def test_close_fails_waiters_at_once_and_lets_leases_finish():
    async def main():
        async with bench(max_size=1, close_timeout=10) as b:
            holder = await b.holder(3)
            waiters = [asyncio.create_task(b.pool.acquire()) for _ in range(50)]
            await ticks()
            closing = asyncio.create_task(b.pool.close())
            results = await asyncio.gather(*waiters, return_exceptions=True)
            assert b.now() == 0
            assert all(isinstance(result, PoolClosedError) for result in results)
            assert b.last(AcquireFailed).reason is FailureReason.CLOSED
            await closing
            assert b.now() == 3
            await holder
            assert b.count(LeakReclaimed) == 0

    run_virtual(main())


def test_close_takes_connections_back_when_its_time_is_up():
    async def main():
        async with bench() as b:
            holder = await b.holder(100)
            await b.pool.close(timeout=5)
            assert b.now() == 5
            assert b.last(LeakReclaimed).reason is CloseReason.POOL_CLOSED
            assert b.last(ConnectionClosed).reason is CloseReason.POOL_CLOSED
            assert not b.ledger.open_connections
            await holder
            assert b.pool.active_connections == 0

    run_virtual(main())


def test_close_ends_in_time_even_if_a_connection_never_closes():
    async def main():
        async with bench(min_size=2) as b:
            await b.pool.initialize()
            b.ledger.script("close", [never, slow(50)])
            await b.pool.close(timeout=3)
            assert b.now() == 3

    run_virtual(main())


@pytest.mark.parametrize("tick", range(6))
def test_a_connect_that_is_under_way_when_the_pool_closes_leaves_nothing_open(tick):
    async def main():
        async with bench(ledger=Ledger(steps=3), min_size=1) as b:
            ready = asyncio.create_task(b.pool.initialize())
            await ticks(tick)
            await b.pool.close()
            await asyncio.gather(ready, return_exceptions=True)
            assert {event.fault for event in b.replay.of(ConnectFailed)} <= {ConnectFault.ABANDONED}

    run_virtual(main())


def test_close_may_be_called_again_and_by_several_at_once():
    async def main():
        async with bench(min_size=1) as b:
            await b.pool.initialize()
            b.ledger.script("close", [slow(1)])
            await asyncio.gather(b.pool.close(), b.pool.close(), b.pool.close())
            await b.pool.close()
            assert b.count(PoolClosed) == 1

    run_virtual(main())


def test_a_cancelled_close_goes_on_in_the_background():
    async def main():
        async with bench(min_size=1) as b:
            await b.pool.initialize()
            b.ledger.script("close", [slow(1)])
            closing = asyncio.create_task(b.pool.close())
            await ticks(2)
            closing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await closing
            await asyncio.sleep(2)
            assert b.count(PoolClosed) == 1

    run_virtual(main())


def test_a_pool_that_was_never_opened_closes():
    async def main():
        async with bench() as b:
            await b.pool.close()

    run_virtual(main())


@pytest.mark.driver("asyncio")
def test_the_loop_that_ends_under_an_open_pool_leaves_nothing_open_and_says_nothing(caplog):
    ledger = Ledger()

    async def main():
        pool = ConnectionPool(ledger.open, close_func=ledger.close)
        await pool.initialize()
        for _ in range(3):
            asyncio.create_task(pool.acquire(timeout=100)).set_name("leaver")
        ledger.script("open", [never] * 9)
        await ticks(2)
        pools.append(pool)

    pools: list[ConnectionPool] = []
    asyncio.run(main())
    assert not caplog.records
    ledger.audit()
    assert pools[0].stats().size == 0


@pytest.mark.driver("asyncio")
def test_a_closed_pool_is_freed_without_the_garbage_collector():
    async def main():
        pool = ConnectionPool(object)
        async with pool, pool.connection():
            (source,) = (each for each in registry.live() if each.name == pool.name)
        return weakref.ref(pool), weakref.ref(source)

    gc.disable()
    try:
        references = asyncio.run(main())
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


def test_a_name_is_unique_while_the_pool_lives_and_free_afterwards():
    async def main():
        async with bench(name="twin") as one, bench(name="twin") as two:
            assert (one.pool.name, two.pool.name) == ("twin", "twin-2")
            assert {"twin", "twin-2"} <= {source.name for source in registry.live()}
        assert "twin" not in {source.name for source in registry.live()}

    run_virtual(main())
