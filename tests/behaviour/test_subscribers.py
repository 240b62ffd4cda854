import asyncio
import random
import threading

import pytest

from poolscope import ConnectionPool, EventBus
from poolscope.bus import FAILURES_ALLOWED, ROOT
from poolscope.events import (
    EVENT_TYPES,
    ConnectionAcquired,
    ConnectionReleased,
    ConnectionRequested,
    Event,
    SubscriberFailed,
)
from poolscope.testing import run_virtual
from tests.behaviour.bench import bench


def test_whoever_subscribes_hears_what_it_asked_for_in_order():
    async def main():
        async with bench() as b:
            heard = []
            b.pool.bus.subscribe(heard.append, ConnectionAcquired, ConnectionReleased)
            await b.hold(1)
            await b.hold(2)
            assert [type(event).__name__ for event in heard] == [
                "ConnectionAcquired",
                "ConnectionReleased",
            ] * 2
            assert [event.use for event in heard[1::2]] == [1, 2]

    run_virtual(main())


def test_a_subscription_ends_when_told_and_may_begin_at_any_time():
    async def main():
        async with bench() as b:
            heard = []
            await b.hold(0)
            with b.pool.bus.subscribe(heard.append, ConnectionRequested):
                await b.hold(0)
            await b.hold(0)
            assert len(heard) == 1

    run_virtual(main())


def test_a_bus_above_hears_of_all_pools_below_it():
    async def main():
        mine, heard, everything = EventBus(), [], []
        mine.subscribe(heard.append, ConnectionRequested)
        with ROOT.subscribe(everything.append, ConnectionRequested):
            one, two = ConnectionPool(object, bus=mine), ConnectionPool(object)
            for pool in (one, two):
                async with pool, pool.connection():
                    pass
        assert [event.pool for event in heard] == [one.name]
        assert [event.pool for event in everything] == [two.name]

    run_virtual(main())


def test_a_tap_is_called_with_the_fields_of_the_event():
    async def main():
        async with bench() as b:
            taps, events = [], []
            b.pool.bus.tap({ConnectionAcquired: lambda *fields: taps.append(fields)})
            b.pool.bus.subscribe(events.append, ConnectionAcquired)
            await b.hold(0)
            await b.hold(0)
            assert [ConnectionAcquired(*fields) for fields in taps] == events

    run_virtual(main())


@pytest.mark.parametrize("wrong", [int, Event, "ConnectionAcquired"])
def test_what_is_no_event_type_is_refused(wrong):
    with pytest.raises(ValueError, match="is no event type"):
        EventBus().subscribe(print, wrong)


def test_a_subscriber_that_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match="must be callable"):
        EventBus().subscribe("print")


# A subscriber does no harm


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, KeyboardInterrupt])
@pytest.mark.parametrize("lane", ["handler", "tap"])
def test_a_subscriber_that_raises_is_counted_logged_once_and_detached(error, lane, caplog):
    async def main():
        async with bench() as b:

            def broken(*_):
                raise error("boom")

            bus = b.pool.bus
            if lane == "tap":
                subscription = bus.tap({ConnectionAcquired: broken})
            else:
                subscription = bus.subscribe(broken, ConnectionAcquired)
            for _ in range(FAILURES_ALLOWED + 5):
                await b.hold(0)
            assert subscription.failures == FAILURES_ALLOWED
            failed = b.replay.of(SubscriberFailed)
            assert [event.detached for event in failed] == [False] * 9 + [True]
            assert b.pool.get_metrics().subscriber_errors == FAILURES_ALLOWED

    run_virtual(main())
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert "and is detached" in caplog.text
    caplog.clear()


def test_a_subscriber_may_call_the_pool_back():
    async def main():
        async with bench(max_size=2) as b:
            seen = []

            def curious(event):
                seen.append(repr(b.pool))
                b.pool.get_metrics().to_json()
                b.pool.bus.subscribe(seen.append, SubscriberFailed).unsubscribe()
                b.pool.stats()

            b.pool.bus.subscribe(curious)
            await asyncio.gather(*(b.hold(1) for _ in range(5)))
            assert len(seen) > 10

    run_virtual(main())


def test_a_subscriber_that_causes_events_does_not_disturb_their_order():
    async def main():
        async with bench(max_size=3) as b:
            orders = []

            def meddler(event):
                if len(orders) == 5:
                    with pytest.raises(StopIteration):  # it has nothing to wait for
                        b.pool.drain().send(None)
                orders.append(event.sequence)

            b.pool.bus.subscribe(meddler)
            await asyncio.gather(*(b.hold(1) for _ in range(5)))
            assert orders == sorted(orders)

    run_virtual(main())


def outcomes(seed, prepare):
    """Run the same load and return what became of each request, in order."""

    async def main():
        rng = random.Random(seed)
        async with bench(max_size=3, acquire_timeout=2) as b:
            prepare(b.pool.bus)
            results = []

            async def caller(number):
                await asyncio.sleep(rng.random() * 5)
                try:
                    async with asyncio.timeout(rng.random() * 4):
                        await b.hold(rng.random() * 2)
                except Exception as error:
                    results.append((number, type(error).__name__))
                else:
                    results.append((number, "ok"))

            await asyncio.gather(*(caller(number) for number in range(40)))
            return results

    return run_virtual(main())


def raising(_):
    raise ValueError


@pytest.mark.parametrize("seed", range(5))
def test_telemetry_off_on_raising_or_listening_to_all_gives_the_same_outcomes(seed, caplog):
    def silent(bus):
        for kind in EVENT_TYPES:
            bus.hooks[kind] = ()
        bus.request_hooks = ((), ())

    def listening(bus):
        bus.subscribe(lambda event: None)

    def failing(bus):
        bus.subscribe(raising)

    bare = outcomes(seed, silent)
    assert len({result for _, result in bare}) > 1
    assert outcomes(seed, listening) == bare
    assert outcomes(seed, failing) == bare
    caplog.clear()


# Buffered


def test_a_slow_sink_has_a_thread_of_its_own_and_loses_the_oldest():
    async def main():
        async with bench() as b:
            heard, gate, entered = [], threading.Event(), threading.Event()

            def slow_sink(event):
                entered.set()
                gate.wait(10)
                heard.append(event)

            subscription = b.pool.bus.buffered(slow_sink, 4, ConnectionRequested)
            await b.hold(0)
            assert entered.wait(10)
            for _ in range(9):
                await b.hold(0)
            gate.set()
            subscription.unsubscribe()
            assert subscription.dropped == 5
            numbers = [event.sequence for event in b.replay.of(ConnectionRequested)]
            assert [event.sequence for event in heard] == [numbers[0], *numbers[-4:]]

    run_virtual(main())


@pytest.mark.parametrize("maxsize", [0, -1, 1.5, True])
def test_an_impossible_buffer_size_is_refused(maxsize):
    with pytest.raises(ValueError, match="maxsize must be a whole number"):
        EventBus().buffered(print, maxsize)


def test_a_buffered_sink_that_raises_stops_nothing(caplog):
    async def main():
        async with bench() as b:
            calls = threading.Semaphore(0)

            def broken(event):
                calls.release()
                raise ValueError

            with b.pool.bus.buffered(broken, 100, ConnectionRequested):
                for _ in range(20):
                    await b.hold(0)
                for _ in range(20):
                    assert calls.acquire(timeout=10)

    run_virtual(main())
    caplog.clear()
