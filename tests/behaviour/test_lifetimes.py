import asyncio
import gc
import logging
import time

import pytest

from poolscope.events import (
    CloseReason,
    ConnectionClosed,
    ConnectionDetached,
    ConnectionReleased,
    LeakReclaimed,
    LeakReturned,
    LeakSuspected,
    PoolDrained,
    PoolResized,
)
from poolscope.testing import Ledger, run_virtual
from poolscope.testing.ledger import fail, never, slow
from tests.behaviour.bench import bench, ticks


def reasons(b):
    return [event.reason for event in b.replay.of(ConnectionClosed)]


def test_idle_connections_beyond_min_size_are_closed_after_idle_timeout():
    async def main():
        async with bench(min_size=1, max_size=3, idle_timeout=10) as b:
            await asyncio.gather(*(b.hold(1) for _ in range(3)))
            await asyncio.sleep(9.5)
            assert b.pool.pool_size == 3
            await asyncio.sleep(1)
            assert b.pool.pool_size == 1
            assert reasons(b) == [CloseReason.IDLE] * 2
            await asyncio.sleep(1000)
            assert b.pool.pool_size == 1

    run_virtual(main())


def test_upkeep_that_fails_is_logged_and_goes_on(caplog):
    async def main():
        failures = [ValueError("the clock is broken")]

        def clock():
            if failures and loop.time() > 5:
                raise failures.pop()
            return loop.time()

        loop = asyncio.get_running_loop()
        async with bench(idle_timeout=10, functions={"clock": clock}) as b:
            await b.hold(1)
            await asyncio.sleep(15)
            assert b.pool.pool_size == 0

    run_virtual(main())
    assert "upkeep of pool 'bench' failed; it goes on in a second" in caplog.text
    caplog.clear()


def test_a_connection_in_use_again_and_again_is_replaced_at_max_lifetime():
    async def main():
        async with bench(max_lifetime=100, max_size=1) as b:
            for _ in range(250):
                await b.hold(1)
            assert reasons(b) == [CloseReason.LIFETIME] * 2

    run_virtual(main())


def test_an_idle_connection_is_replaced_at_max_lifetime_without_validation():
    async def main():
        settings = {"min_size": 1, "max_lifetime": 100, "validate_on_acquire": False}
        async with bench(**settings) as b:
            await b.pool.initialize()
            await asyncio.sleep(101)
            assert reasons(b) == [CloseReason.LIFETIME]
            assert b.pool.pool_size == 1

    run_virtual(main())


def test_lives_are_jittered_so_that_a_cohort_does_not_die_together():
    async def main():
        settings = {"min_size": 50, "max_size": 50, "max_lifetime": 1000}
        async with bench(**settings, lifetime_jitter=0.2) as b:
            await b.pool.initialize()
            await asyncio.sleep(1001)
            times = [event.time for event in b.replay.of(ConnectionClosed)]
            assert len(times) >= 50
            assert len(set(times)) > 25
            assert min(times) >= 800

    run_virtual(main())


def test_the_wall_clock_changes_nothing(monkeypatch):
    async def main():
        async with bench(idle_timeout=10, max_lifetime=20) as b:
            await b.hold(1)
            monkeypatch.setattr(time, "time", lambda: 1e12)
            await asyncio.sleep(5)
            assert b.pool.pool_size == 1

    run_virtual(main())


def test_no_more_than_max_idle_are_kept():
    async def main():
        async with bench(max_size=4, max_idle=2) as b:
            await asyncio.gather(*(b.hold(1) for _ in range(4)))
            assert b.pool.pool_size == 2
            assert reasons(b) == [CloseReason.EXCESS] * 2

    run_virtual(main())


def test_resize_takes_effect_at_once_and_closes_what_is_too_much():
    async def main():
        async with bench(max_size=4) as b:
            held = [await b.pool.acquire() for _ in range(4)]
            await b.pool.resize(0, 2)
            for connection in held:
                await b.pool.release(connection)
            assert b.pool.pool_size == 2
            assert reasons(b) == [CloseReason.EXCESS] * 2
            await b.pool.resize(3, 5)
            await b.pool.wait_ready()
            assert b.pool.pool_size == 3
            assert b.count(PoolResized) == 2
            with pytest.raises(ValueError, match="min_size must not exceed max_size"):
                await b.pool.resize(3, 2)

    run_virtual(main())


def test_a_smaller_pool_stays_smaller():
    async def main():
        async with bench(max_size=4) as b:
            holders = [await b.holder(1) for _ in range(4)]
            await b.pool.resize(0, 2)
            await asyncio.gather(*holders)
            await asyncio.sleep(1)
            await asyncio.gather(*(b.hold(1) for _ in range(8)))
            assert b.ledger.opened == 4
            assert len(b.ledger.open_connections) == 2

    run_virtual(main())


def test_waiters_get_the_room_that_a_resize_makes():
    async def main():
        async with bench(max_size=1) as b, b.pool.connection():
            waiter = asyncio.create_task(b.hold(0))
            await ticks()
            await b.pool.resize(0, 2)
            await waiter
            assert b.now() == 0

    run_virtual(main())


def test_drain_replaces_idle_connections_now_and_others_when_free():
    async def main():
        async with bench(max_size=3) as b:
            held = await b.pool.acquire()
            await b.hold(0)
            b.ledger.script("open", [slow(5)])
            opening = asyncio.create_task(b.hold(9))
            also_opening = asyncio.create_task(b.hold(9))
            await ticks(2)
            await b.pool.drain()
            await b.pool.release(held)
            await asyncio.gather(opening, also_opening)
            assert set(reasons(b)) == {CloseReason.STALE}
            assert b.last(PoolDrained).generation == 1
            assert b.pool.stats().generation == 1

    run_virtual(main())


def test_a_connection_that_was_being_opened_when_the_pool_was_drained_is_not_kept():
    async def main():
        async with bench(min_size=1) as b:
            b.ledger.script("open", [slow(5)])
            ready = asyncio.create_task(b.pool.initialize())
            await asyncio.sleep(1)
            await b.pool.drain()
            await ready
            assert reasons(b) == [CloseReason.STALE]
            assert b.ledger.opened == 2

    run_virtual(main())


def test_a_detached_connection_is_the_callers_own():
    async def main():
        async with bench(max_size=1) as b:
            async with b.pool.connection() as connection:
                assert await b.pool.detach(connection) is connection
                await b.hold(1)
            assert b.count(ConnectionDetached) == 1
            assert b.pool.pool_size == 1
            assert connection.alive
            await b.ledger.close(connection)

    run_virtual(main())


# What is given back


@pytest.mark.parametrize("error", [asyncio.CancelledError, TimeoutError, KeyboardInterrupt])
def test_an_exception_that_may_leave_the_protocol_half_way_closes_the_connection(error):
    async def main():
        async with bench() as b:
            with pytest.raises(error):
                async with b.pool.connection():
                    raise error
            assert reasons(b) == [CloseReason.DIRTY]

    run_virtual(main())


@pytest.mark.parametrize("error", [ConnectionResetError, EOFError])
def test_a_broken_connection_is_closed(error):
    async def main():
        async with bench() as b:
            with pytest.raises(error):
                async with b.pool.connection():
                    raise error
            assert reasons(b) == [CloseReason.BROKEN]

    run_virtual(main())


def test_an_ordinary_exception_keeps_the_connection():
    async def main():
        async with bench() as b:
            with pytest.raises(KeyError):
                async with b.pool.connection():
                    raise KeyError
            assert b.pool.pool_size == 1

    run_virtual(main())


def test_a_reset_that_succeeds_proves_the_connection_clean():
    async def main():
        ledger = Ledger()
        async with bench(ledger=ledger, functions={"reset_func": ledger.reset}) as b:
            with pytest.raises(TimeoutError):
                async with b.pool.connection() as connection, asyncio.timeout(1):
                    await connection.execute(behaviour=never)
            assert b.pool.pool_size == 1
            async with b.pool.connection() as connection:
                await connection.execute()

    run_virtual(main())


@pytest.mark.parametrize("bad", [fail(ValueError), never, fail(asyncio.CancelledError)])
def test_a_reset_that_fails_closes_the_connection_and_keeps_the_callers_result(bad):
    async def main():
        ledger = Ledger()
        functions = {"reset_func": ledger.reset}
        async with bench(ledger=ledger, functions=functions, validate_timeout=2) as b:
            ledger.script("reset", [bad])
            async with b.pool.connection() as connection:
                result = await connection.execute()
            assert result == 1
            assert reasons(b) == [CloseReason.RESET]
            assert b.last(ConnectionReleased).reset <= 2

    run_virtual(main())


def test_the_time_a_reset_takes_is_told_apart():
    async def main():
        ledger = Ledger()
        async with bench(ledger=ledger, functions={"reset_func": ledger.reset}) as b:
            ledger.script("reset", [slow(2)])
            await b.hold(3)
            released = b.last(ConnectionReleased)
            assert (released.use, released.reset) == (5, 2)
            assert b.pool.get_metrics().avg_release_time == 2000

    run_virtual(main())


def test_a_close_that_raises_or_hangs_frees_its_place():
    async def main():
        async with bench(max_size=1, close_timeout=2) as b:
            b.ledger.script("close", [fail(ValueError), never])
            for _ in range(3):
                async with b.pool.connection():
                    pass
                await b.pool.drain()
            assert b.now() == 2

    run_virtual(main())


# Leaks


@pytest.mark.driver("asyncio")
def test_a_leak_is_told_with_where_it_was_acquired_and_what_its_holder_does_now():
    async def main():
        async def forgetful(pool):
            async with pool.connection():
                await busy_elsewhere()

        async def busy_elsewhere():
            await asyncio.sleep(100)

        async with bench(leak_threshold=30) as b:
            holder = asyncio.create_task(forgetful(b.pool), name="forgetful")
            await asyncio.sleep(29)
            assert b.count(LeakSuspected) == 0
            await asyncio.sleep(31)
            leak = b.last(LeakSuspected)
            assert b.count(LeakSuspected) == 1
            assert leak.use == 30
            assert "behaviour/test_lifetimes.py:" in leak.acquired_at
            assert "task 'forgetful'" in leak.stack
            assert "in busy_elsewhere" in leak.stack
            await holder
            assert b.last(LeakReturned).use == 100
            assert b.pool.get_metrics().leaks == 1

    run_virtual(main())


def test_without_a_threshold_nothing_is_suspected():
    async def main():
        async with bench(leak_threshold=None) as b:
            await b.hold(10_000)
            assert b.count(LeakSuspected) == 0

    run_virtual(main())


@pytest.mark.driver("asyncio")
def test_a_lease_lost_to_garbage_collection_is_taken_back(caplog):
    async def main():
        async with bench(max_size=1) as b:
            lease = b.pool.connection()
            await lease.__aenter__()
            waiter = asyncio.create_task(b.hold(0))
            await ticks()
            del lease
            gc.collect()
            await waiter
            assert b.last(LeakReclaimed).reason is CloseReason.LEAK
            assert reasons(b) == [CloseReason.LEAK]

    with caplog.at_level(logging.WARNING, "poolscope"):
        run_virtual(main())
    assert "was lost without being given back" in caplog.text
    assert "behaviour/test_lifetimes.py:" in caplog.text


def test_a_lease_held_by_a_forgotten_generator_is_given_back():
    async def main():
        async def rows(pool):
            async with pool.connection():
                yield 1
                yield 2

        async with bench(max_size=1) as b:
            async for _ in rows(b.pool):
                break
            gc.collect()
            await b.hold(1)

    run_virtual(main())
