import asyncio

import pytest

from poolscope import PoolTimeoutError, QueueFullError
from poolscope.events import (
    AcquireFailed,
    AcquireSource,
    AcquireTimedOut,
    ConnectionAcquired,
    ConnectionOpened,
    ConnectionReleased,
    ConnectionRequested,
    FailureReason,
)
from poolscope.testing import Ledger, run_virtual
from poolscope.testing.ledger import slow
from tests.behaviour.bench import bench, ticks


def test_an_empty_pool_connects_at_once_instead_of_waiting_for_the_timeout():
    async def main():
        async with bench() as b:
            async with b.pool.connection():
                assert b.now() == 0
            assert b.last(ConnectionAcquired).source is AcquireSource.NEW

    run_virtual(main())


def test_a_released_connection_is_used_again():
    async def main():
        async with bench() as b:
            async with b.pool.connection() as first:
                pass
            async with b.pool.connection() as second:
                assert second is first
            assert b.last(ConnectionAcquired).source is AcquireSource.IDLE
            assert b.count(ConnectionOpened) == 1

    run_virtual(main())


def test_acquire_and_release_by_hand_tell_the_same_story_as_the_context_manager():
    async def main():
        async with bench() as b:
            for _ in range(2):
                connection = await b.pool.acquire()
                assert b.pool.active_connections == 1
                await b.pool.release(connection)
            assert b.pool.pool_size == 1
            assert b.count(ConnectionRequested) == 2
            assert b.count(ConnectionReleased) == 2

    run_virtual(main())


def test_no_more_than_max_size_open_however_many_ask_at_once():
    async def main():
        async with bench(ledger=Ledger(steps=5), max_size=3, max_connecting=9) as b:
            await asyncio.gather(*(b.hold(1) for _ in range(30)))
            assert b.ledger.most_open == 3

    run_virtual(main())


def test_waiters_are_served_in_the_order_they_came():
    async def main():
        async with bench(max_size=1) as b:
            served = []

            async def ask(number):
                async with b.pool.connection():
                    served.append(number)
                    await asyncio.sleep(1)

            await asyncio.gather(*(ask(number) for number in range(5)))
            assert served == [0, 1, 2, 3, 4]
            assert b.last(ConnectionAcquired).source is AcquireSource.HANDOFF

    run_virtual(main())


def test_no_newcomer_passes_those_who_wait():
    async def main():
        async with bench(max_size=1) as b:
            order = []

            async def greedy():
                for _ in range(3):
                    async with b.pool.connection():
                        order.append("greedy")
                        await asyncio.sleep(1)

            async def patient():
                async with b.pool.connection():
                    order.append("patient")

            await asyncio.gather(greedy(), patient())
            assert order == ["greedy", "patient", "greedy", "greedy"]

    run_virtual(main())


def test_a_timeout_ends_exactly_at_the_deadline_and_counts_once():
    async def main():
        async with bench(max_size=1, acquire_timeout=3) as b, b.pool.connection():
            with pytest.raises(PoolTimeoutError):
                await b.pool.acquire()
            assert b.now() == 3
            assert b.count(AcquireTimedOut) == 1
            assert b.count(AcquireFailed) == 0
            assert b.last(AcquireTimedOut).wait == 3
            metrics = b.pool.get_metrics()
            assert (metrics.connection_timeouts, metrics.connection_errors) == (1, 0)
            assert metrics.error_rate == 0.5

    run_virtual(main())


@pytest.mark.parametrize("stage", ["open", "validate"])
def test_one_deadline_covers_queue_connect_and_validation(stage):
    async def main():
        ledger = Ledger()
        functions = {"validate_func": ledger.validate}
        async with bench(ledger=ledger, functions=functions, acquire_timeout=3, max_size=1) as b:
            ledger.script(stage, [slow(2)])
            async with b.pool.connection():
                assert b.now() == 2
            blocker = await b.holder(2)
            ledger.script("validate", [slow(2)])
            with pytest.raises(PoolTimeoutError):
                await b.pool.acquire()
            assert b.now() == 5
            await blocker

    run_virtual(main())


def test_a_timeout_of_zero_tries_once():
    async def main():
        async with bench(max_size=1) as b:
            async with b.pool.connection():
                with pytest.raises(PoolTimeoutError):
                    await b.pool.acquire(timeout=0)
            await b.pool.release(await b.pool.acquire(timeout=0))
            assert b.now() == 0

    run_virtual(main())


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1", True])
def test_an_impossible_timeout_is_refused_and_loses_nothing(timeout):
    async def main():
        async with bench() as b:
            with pytest.raises(ValueError, match="timeout must be a number of seconds"):
                await b.pool.acquire(timeout=timeout)
            with pytest.raises(ValueError, match="timeout must be a number of seconds"):
                b.pool.connection(timeout=timeout)

    run_virtual(main())


@pytest.mark.driver("asyncio")
def test_a_timeout_says_what_the_state_is_and_who_holds_the_connection():
    async def main():
        async with bench(max_size=1, acquire_timeout=5, name="orders") as b, b.pool.connection():
            with pytest.raises(PoolTimeoutError) as caught:
                await b.pool.acquire()
            text = str(caught.value)
            assert text.startswith("no connection from pool 'orders' in 5.00 s: 1/1 in use, 0 idle")
            assert "oldest held 5.0 s at behaviour/test_acquire.py:" in text
            assert "Likely:" in text
            assert caught.value.stats.in_use == 1

    run_virtual(main())


def test_a_full_line_refuses_the_next_at_once():
    async def main():
        async with bench(max_size=1, max_waiting=2) as b:
            holders = [await b.holder(1)]
            holders += [asyncio.create_task(b.hold(1)) for _ in range(2)]
            await ticks()
            with pytest.raises(QueueFullError, match=r"max_waiting=2"):
                await b.pool.acquire()
            assert b.last(AcquireFailed).reason is FailureReason.QUEUE_FULL
            await asyncio.gather(*holders)

    run_virtual(main())


def test_a_cancelled_waiter_leaves_the_line_and_is_counted_as_cancelled():
    async def main():
        async with bench(max_size=1) as b, b.pool.connection():
            waiters = [asyncio.create_task(b.pool.acquire()) for _ in range(100)]
            await ticks()
            assert b.pool.stats().waiting == 100
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)
            assert b.pool.stats().waiting == 0
            metrics = b.pool.get_metrics()
            assert metrics.connection_cancellations == 100
            assert metrics.connection_errors == 0

    run_virtual(main())


@pytest.mark.parametrize("ticks_between", [0, 1, 2])
def test_a_cancelled_waiter_hands_its_connection_to_the_next_in_line(ticks_between):
    async def main():
        async with bench(max_size=1) as b:
            held = await b.pool.acquire()
            first = asyncio.create_task(b.pool.acquire())
            second = asyncio.create_task(b.pool.acquire())
            await ticks()
            await b.pool.release(held)
            await ticks(ticks_between)
            if first.done():
                await b.pool.release(first.result())
            else:
                first.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await first
            assert await second is held
            await b.pool.release(held)

    run_virtual(main())


def test_connection_and_deadline_in_the_same_instant_give_exactly_one_outcome():
    async def main():
        async with bench(max_size=1, acquire_timeout=3) as b:
            holder = await b.holder(3)
            outcome = await asyncio.gather(b.hold(0), return_exceptions=True)
            await holder
            timed_out = isinstance(outcome[0], PoolTimeoutError)
            assert b.count(AcquireTimedOut) == timed_out
            assert b.count(ConnectionAcquired) == 2 - timed_out

    run_virtual(main())


def test_waiting_is_no_work_while_nothing_happens():
    async def main():
        async with bench(max_size=1, acquire_timeout=100) as b:
            waiters = [asyncio.create_task(b.hold(0)) for _ in range(50)]
            async with b.pool.connection():
                await asyncio.sleep(50)
                b.check()
            await asyncio.gather(*waiters)

    run_virtual(main())
