import asyncio
import threading

import pytest

from poolscope import ConnectionPool, PoolClosedError, PoolError, ReleaseError, WrongLoopError
from poolscope.events import ConnectionReleased, Misuse, MisuseDetected
from poolscope.testing import Ledger, run_virtual
from tests.behaviour.bench import bench, ticks


def test_a_second_release_is_refused_counted_and_harmless():
    async def main():
        async with bench() as b:
            connection = await b.pool.acquire()
            await b.pool.release(connection)
            before = b.pool.stats()
            with pytest.raises(ReleaseError, match="is not on loan from pool 'bench'"):
                await b.pool.release(connection)
            after = b.pool.stats()
            assert (after.idle, after.in_use) == (before.idle, before.in_use) == (1, 0)
            assert b.last(MisuseDetected).misuse is Misuse.DOUBLE_RELEASE
            assert b.pool.get_metrics().misuses == 1

    run_virtual(main())


def test_a_release_while_the_first_is_still_resetting_is_refused():
    async def main():
        ledger = Ledger(steps=5)
        async with bench(ledger=ledger, functions={"reset_func": ledger.reset}) as b:
            connection = await b.pool.acquire()
            first = asyncio.create_task(b.pool.release(connection))
            await ticks(2)
            with pytest.raises(ReleaseError):
                await b.pool.release(connection)
            await first
            assert b.count(ConnectionReleased) == 1

    run_virtual(main())


@pytest.mark.parametrize("stranger", [None, object(), "connection"])
def test_what_never_came_from_the_pool_is_refused(stranger):
    async def main():
        async with bench() as b:
            with pytest.raises(ReleaseError, match="belongs to another pool"):
                await b.pool.release(stranger)
            with pytest.raises(ReleaseError):
                await b.pool.detach(stranger)
            assert b.last(MisuseDetected).misuse is Misuse.FOREIGN_RELEASE

    run_virtual(main())


def test_connections_of_two_pools_cannot_be_swapped():
    async def main():
        async with bench() as one, bench() as two:
            mine, theirs = await one.pool.acquire(), await two.pool.acquire()
            with pytest.raises(ReleaseError):
                await one.pool.release(theirs)
            await one.pool.release(mine)
            await two.pool.release(theirs)

    run_virtual(main())


def test_a_connection_released_by_hand_inside_the_block_is_left_alone_at_its_end():
    async def main():
        async with bench() as b:
            async with b.pool.connection() as connection:
                await b.pool.release(connection)
                other = await b.pool.acquire()
                assert other is connection
            assert b.pool.active_connections == 1
            await b.pool.release(other)

    run_virtual(main())


@pytest.mark.driver("asyncio")
def test_without_an_event_loop_the_remedy_is_named():
    pool = ConnectionPool(object)
    coroutine = pool.acquire()
    with pytest.raises(WrongLoopError, match="needs a running asyncio event loop"):
        coroutine.send(None)


@pytest.mark.driver("asyncio")
def test_another_loop_in_another_thread_is_refused_and_told():
    async def main():
        async with bench() as b:
            await b.hold(0)
            errors = []

            async def borrow():
                async with b.pool.connection():
                    pass

            def elsewhere():
                for call in (borrow, b.pool.acquire, b.pool.drain, b.pool.close):
                    try:
                        asyncio.run(call())
                    except WrongLoopError as error:
                        errors.append(str(error))

            thread = threading.Thread(target=elsewhere)
            thread.start()
            await asyncio.to_thread(thread.join)
            await ticks()
            assert len(errors) == 4
            assert all("asyncio.run_coroutine_threadsafe" in error for error in errors)
            assert b.last(MisuseDetected).misuse is Misuse.WRONG_LOOP
            assert b.pool.pool_size == 1

    asyncio.run(main())


@pytest.mark.driver("asyncio")
def test_a_pool_left_open_by_a_closed_loop_serves_the_next_one():
    class Connection:
        open = 0

        def __init__(self):
            Connection.open += 1

        def terminate(self):
            Connection.open -= 1

        close = terminate

    pool = ConnectionPool(Connection)

    async def use(close):
        async with pool.connection():
            assert pool.active_connections == 1
        if close:
            await pool.close()

    asyncio.run(use(False))
    assert Connection.open == 0
    asyncio.run(use(False))
    asyncio.run(use(True))
    assert Connection.open == 0


def test_a_lease_can_be_entered_once():
    async def main():
        async with bench() as b:
            lease = b.pool.connection()
            async with lease:
                with pytest.raises(PoolError, match="can be entered once"):
                    await lease.__aenter__()
            assert b.pool.pool_size == 1

    run_virtual(main())


def test_a_closed_pool_refuses_and_says_so():
    async def main():
        async with bench() as b:
            await b.hold(0)
        with pytest.raises(PoolClosedError, match="pool 'bench' is closed"):
            await b.pool.acquire()
        with pytest.raises(RuntimeError):
            async with b.pool.connection():
                pass
        for refused in (b.pool.initialize, b.pool.drain, lambda: b.pool.resize(1, 2)):
            with pytest.raises(PoolClosedError):
                await refused()

    run_virtual(main())
