import asyncio
import gc
import logging
import random
import threading
from collections import Counter, deque

import pytest

from poolscope import EventBus
from poolscope.bus import FAILURES_ALLOWED, ROOT
from poolscope.events import (
    EVENT_TYPES,
    ConnectionAcquired,
    ConnectionReleased,
    ConnectionRequested,
    Event,
    PoolOpened,
    SubscriberFailed,
)
from poolscope.testing import run_virtual
from tests.behaviour.bench import bench, make_pool


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
            one, two = make_pool(object, bus=mine), make_pool(object)
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


def broken(*_):
    raise ValueError


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


@pytest.mark.parametrize("seed", range(5))
def test_telemetry_off_on_raising_or_listening_to_all_gives_the_same_outcomes(seed, caplog):
    def silent(bus):
        for kind in EVENT_TYPES:
            bus.hooks[kind] = ()
        bus.request_hooks, bus.release_hooks = ((), ()), ()

    def listening(bus):
        bus.subscribe(lambda event: None)

    def failing(bus):
        bus.subscribe(broken)

    bare = outcomes(seed, silent)
    assert len({result for _, result in bare}) > 1
    assert outcomes(seed, listening) == bare
    assert outcomes(seed, failing) == bare
    caplog.clear()


# Failures are counted where the event was published


def attach(bus, lane, call, kind):
    """Return a subscription in one of the lanes."""
    lanes = {
        "handler": lambda: bus.subscribe(call, kind),
        "tap": lambda: bus.tap({kind: call}),
        "buffered": lambda: bus.buffered(call, 9, kind),
    }
    return lanes[lane]()


@pytest.mark.parametrize("lane", ["handler", "tap"])
def test_a_failure_is_counted_at_the_pool_whose_event_it_was(lane, caplog):
    async def main():
        above = EventBus()
        one, two = make_pool(object, bus=above), make_pool(object, bus=above)

        def picky(event, *_):
            if one.name in (event, getattr(event, "pool", None)):
                raise ValueError

        async with one, two:
            with attach(above, lane, picky, ConnectionAcquired) as subscription:
                for pool in (one, two, one, two, one):
                    async with pool.connection():
                        pass
            assert (one.bus.failures, two.bus.failures, above.failures) == (3, 0, 0)
            assert subscription.failures == 3

    run_virtual(main())
    caplog.clear()


@pytest.mark.parametrize("lane", ["handler", "tap"])
def test_a_pool_tells_of_failures_of_those_who_listen_to_all_pools(lane, caplog):
    async def main():
        async with bench() as b, bench(name="other") as other:
            with attach(ROOT, lane, broken, ConnectionReleased):
                await b.hold(1)
                await asyncio.sleep(1)
            failed = b.last(SubscriberFailed)
            assert (failed.subscriber, failed.detached) == ("broken", False)
            assert isinstance(failed.error, ValueError)
            assert b.pool.bus.failures == b.pool.get_metrics().subscriber_errors == 1
            assert (other.pool.bus.failures, other.count(SubscriberFailed)) == (0, 0)

    run_virtual(main())
    caplog.clear()


def test_who_listens_to_all_pools_is_detached_from_all_after_failing_at_any(caplog):
    async def main():
        async with bench() as one, bench(name="other") as two:
            subscription = ROOT.subscribe(broken, ConnectionAcquired)
            for b in (one, two) * FAILURES_ALLOWED:
                await b.hold(0)
                await asyncio.sleep(1)
            assert subscription.failures == FAILURES_ALLOWED
            assert (one.pool.bus.failures, two.pool.bus.failures) == (5, 5)
            told = one.replay.of(SubscriberFailed) + two.replay.of(SubscriberFailed)
            assert [event.detached for event in told].count(True) == 1

    run_virtual(main())
    caplog.clear()


def test_who_leaves_before_it_raises_is_counted_too():
    async def main():
        async with bench() as b:

            def leave_and_raise(*_):
                subscription.unsubscribe()
                raise ValueError

            subscription = b.pool.bus.tap({ConnectionAcquired: leave_and_raise})
            await b.hold(0)
            await b.hold(0)
            assert b.pool.bus.failures == 1
            assert b.last(SubscriberFailed).subscriber.endswith("leave_and_raise")

    run_virtual(main())


def test_who_raises_at_its_own_failure_causes_no_more_of_them(caplog):
    async def main():
        async with bench() as b:
            b.pool.bus.subscribe(broken, ConnectionAcquired, SubscriberFailed)
            await b.hold(0)
            await asyncio.sleep(1)
            assert b.count(SubscriberFailed) == 1
            assert b.pool.bus.failures == 2

    run_virtual(main())
    caplog.clear()


@pytest.mark.parametrize("lane", ["handler", "tap"])
def test_a_log_that_raises_changes_nothing(lane):
    class FullDisk(logging.Handler):
        def emit(self, record):
            raise OSError

    async def main():
        async with bench() as b:
            subscription = attach(b.pool.bus, lane, broken, ConnectionAcquired)
            for _ in range(FAILURES_ALLOWED + 5):
                await b.hold(0)
            assert subscription.failures == b.pool.bus.failures == FAILURES_ALLOWED

    log, disk = logging.getLogger("poolscope"), FullDisk()
    log.addHandler(disk)
    log.propagate = False
    try:
        run_virtual(main())
    finally:
        log.removeHandler(disk)
        log.propagate = True


@pytest.mark.parametrize("lane", ["handler", "tap", "buffered"])
def test_the_log_says_where_a_subscriber_raised_but_not_its_text(lane, caplog):
    def leak(*_):
        raise ValueError("postgresql://app:canary@db/shop")

    async def main():
        async with bench() as b:
            with attach(b.pool.bus, lane, leak, ConnectionAcquired):
                await b.hold(0)

    run_virtual(main())
    assert "leak failed" in caplog.text
    assert "test_subscribers.py" in caplog.text
    assert "canary" not in caplog.text
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


class Gate:
    """A sink that takes an event when it is let, and counts what it took by pool."""

    def __init__(self):
        self.permits = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.taken = Counter()

    def __call__(self, event):
        self.taken[event.pool] += 1
        self.entered.release()
        assert self.permits.acquire(timeout=10)

    def open(self):
        self.permits.release(10_000)


def test_a_loss_is_counted_at_the_pool_whose_event_was_lost():
    async def main():
        above, gate = EventBus(), Gate()
        loud, quiet = make_pool(object, bus=above), make_pool(object, bus=above)
        async with loud, quiet:
            with above.buffered(gate, 4, ConnectionRequested) as subscription:
                for pool, times in ((quiet, 1), (quiet, 2), (loud, 7)):
                    for _ in range(times):
                        async with pool.connection():
                            pass
                    assert gate.taken or gate.entered.acquire(timeout=10)
                # Taken: one of the quiet pool. Then its two others made room, and three loud ones.
                assert (quiet.bus.dropped, loud.bus.dropped, above.dropped) == (2, 3, 0)
                assert subscription.dropped == 5
                gate.open()
        assert gate.taken == {quiet.name: 1, loud.name: 4}

    run_virtual(main())


@pytest.mark.parametrize("seed", range(5))
def test_what_was_received_was_delivered_or_dropped_or_waits(seed):
    rng, gate, above = random.Random(seed), Gate(), EventBus()
    buses = {name: EventBus(above) for name in "abc"}
    in_line, taken, dropped = deque(), Counter(), Counter()
    busy = False
    with above.buffered(gate, 4, PoolOpened) as subscription:
        for number in range(300):
            if rng.random() < 0.6:
                name = rng.choice("abc")
                buses[name].publish(PoolOpened, name, 0.0, number)
                in_line.append(name)
            elif busy:
                gate.permits.release()
                busy = False
            if in_line and not busy:
                assert gate.entered.acquire(timeout=10)
                taken[in_line.popleft()] += 1
                busy = True
            elif len(in_line) > 4:
                dropped[in_line.popleft()] += 1
            assert gate.taken == taken
            assert len(subscription.buffer) == len(in_line)
            assert {name: bus.dropped for name, bus in buses.items()} == {
                name: dropped[name] for name in buses
            }
            assert subscription.dropped == dropped.total()
        gate.open()
    assert gate.taken == taken + Counter(in_line)
    assert above.dropped == 0


def test_losses_of_many_threads_are_all_counted():
    above, taken = EventBus(), Counter()
    buses = {str(number): EventBus(above) for number in range(4)}

    def publish(name):
        for number in range(2_000):
            buses[name].publish(PoolOpened, name, 0.0, number)

    with above.buffered(lambda event: taken.update([event.pool]), 8, PoolOpened) as subscription:
        threads = [threading.Thread(target=publish, args=(name,)) for name in buses]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name, bus in buses.items():
        assert taken[name] + bus.dropped == 2_000
    assert subscription.dropped == sum(bus.dropped for bus in buses.values())


def test_a_thread_that_cannot_be_started_is_a_failure_and_is_tried_again(monkeypatch, caplog):
    heard, start = [], threading.Thread.start
    refusals = iter([RuntimeError("can't start new thread")])

    def start_if_possible(thread):
        for error in refusals:
            raise error
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_possible)
    bus = EventBus()
    with bus.buffered(heard.append, 9, PoolOpened):
        for number in range(3):
            bus.publish(PoolOpened, "a", 0.0, number)
    assert [event.sequence for event in heard] == [0, 1, 2]
    assert bus.failures == 1
    caplog.clear()


def test_a_bus_that_is_lost_takes_its_buffered_subscribers_along():
    before, heard = set(threading.enumerate()), threading.Event()
    bus = EventBus()
    bus.buffered(lambda _: heard.set(), 9, PoolOpened)
    bus.publish(PoolOpened, "a", 0.0, 1)
    assert heard.wait(10)
    (worker,) = set(threading.enumerate()) - before
    gc.disable()  # which it would hide from: it seldom lets go of what it waits for
    try:
        del bus
        worker.join(10)
        assert not worker.is_alive()
    finally:
        gc.enable()


def test_a_buffered_sink_that_cannot_be_called_is_refused():
    with pytest.raises(ValueError, match="must be callable"):
        EventBus().buffered("print")


@pytest.mark.parametrize("maxsize", [0, -1, 1.5, True, None])
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

            with b.pool.bus.buffered(broken, 100, ConnectionRequested) as subscription:
                for _ in range(20):
                    await b.hold(0)
                for _ in range(20):
                    assert calls.acquire(timeout=10)
            assert subscription.failures == b.pool.bus.failures == 20
            assert len(caplog.records) == 1

    run_virtual(main())
    caplog.clear()
