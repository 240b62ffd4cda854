"""What tells that a pool is too small: who stands in line, saturation, and the highest use."""

import asyncio
import math
import random
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest

from poolscope import ConnectionPool, PoolError
from poolscope.errors import PoolClosedError, QueueFullError
from poolscope.events import (
    AcquireFailed,
    AcquireTimedOut,
    ConnectionAcquired,
    ConnectionRequested,
    ConnectStarted,
    Event,
    RequestQueued,
    SaturationEnded,
    SaturationStarted,
)
from poolscope.testing import FakeConnection, Ledger, Replay, VirtualLoop, run_virtual
from poolscope.testing.ledger import answer, fail, never, slow
from tests.behaviour.bench import Bench, bench, ticks
from tests.behaviour.test_random_load import Storm

OUTCOMES = (ConnectionAcquired, AcquireTimedOut, AcquireFailed)


async def at(b: Bench, time: float) -> None:
    await asyncio.sleep(time - b.now())


async def gone(*tasks: asyncio.Task[object]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


# Standing in line


def test_who_gets_an_idle_connection_does_not_stand_in_line():
    async def main():
        ledger = Ledger()
        for functions in ({}, {"validate_func": ledger.validate}):
            async with bench(ledger=ledger, functions=functions, min_size=1) as b:
                await b.pool.initialize()
                await b.hold(1)
                assert b.count(ConnectionAcquired) == 1
                assert not b.count(RequestQueued)

    run_virtual(main())


def test_who_is_refused_at_once_does_not_stand_in_line():
    async def main():
        async with bench(max_size=1, max_waiting=1) as b:
            await b.holder(5)
            in_line = asyncio.create_task(b.hold(0))
            await ticks()
            with pytest.raises(QueueFullError):
                await b.pool.acquire()
            with pytest.raises(TimeoutError):
                await b.pool.acquire(timeout=0)
            await in_line
            await b.pool.close()
            with pytest.raises(PoolClosedError):
                await b.pool.acquire()
            waited = b.replay.of(ConnectionRequested)[1]
            assert [e.request_id for e in b.replay.of(RequestQueued)][1:] == [waited.sequence]

    run_virtual(main())


async def get_it(b: Bench, waiter: asyncio.Task[None]) -> None:
    await at(b, 5)


async def run_out_of_time(b: Bench, waiter: asyncio.Task[None]) -> None:
    await at(b, 4)


async def give_up(b: Bench, waiter: asyncio.Task[None]) -> None:
    waiter.cancel()


async def close_the_pool(b: Bench, waiter: asyncio.Task[None]) -> None:
    await b.pool.close(0)


@pytest.mark.parametrize("end", [get_it, run_out_of_time, give_up, close_the_pool])
def test_who_stands_in_line_is_told_once_between_request_and_outcome(end):
    async def main():
        async with bench(max_size=1, acquire_timeout=4 if end is run_out_of_time else 9) as b:
            holder = await b.holder(5)
            waiter = asyncio.create_task(b.hold(0))
            await ticks()
            asked = b.last(ConnectionRequested).sequence
            queued = b.last(RequestQueued)
            assert (queued.request_id, queued.waiting, queued.time) == (asked, 1, b.now())
            await end(b, waiter)
            await gone(waiter, holder)
            (outcome,) = (e for e in b.replay.of(*OUTCOMES) if e.request_id == asked)
            assert asked < queued.sequence < outcome.sequence
            assert b.count(RequestQueued) == 2

    run_virtual(main())


def test_everybody_in_line_has_a_place_from_the_first_on():
    async def main():
        async with bench(max_size=1) as b:
            await b.holder(5)
            await gone(*(asyncio.create_task(b.hold(0)) for _ in range(4)))
            assert [e.waiting for e in b.replay.of(RequestQueued)] == [1, 1, 2, 3, 4]

    run_virtual(main())


def test_who_falls_back_because_a_connection_was_no_good_is_told_so_once():
    async def main():
        ledger = Ledger()
        functions = {"validate_func": ledger.validate}
        async with bench(ledger=ledger, functions=functions, max_size=1, retry_delay=0) as b:
            await b.hold(0)
            before = b.count(RequestQueued)
            # Granted at once, then in line; and there twice more.
            ledger.script("validate", [answer(False)] * 3)
            await b.hold(0)
            (queued,) = b.replay.of(RequestQueued)[before:]
            assert queued.request_id == b.last(ConnectionAcquired).request_id
            assert queued.waiting == 1

    run_virtual(main())


# Whom a connect is for


def test_connects_are_for_those_in_line_one_for_each():
    async def main():
        async with bench(max_size=5, max_connecting=3) as b:
            b.ledger.script("open", [slow(1), slow(2), slow(3), slow(1), slow(1)])
            await gone(*(asyncio.create_task(b.hold(9)) for _ in range(5)))
            line = [e.request_id for e in b.replay.of(RequestQueued)]
            started = b.replay.of(ConnectStarted)
            assert [(e.request_id, e.time) for e in started] == [
                (line[0], 0), (line[1], 0), (line[2], 0), (line[3], 1), (line[4], 2),
            ]  # fmt: skip

    run_virtual(main())


def test_a_connect_to_keep_min_size_is_for_nobody():
    async def main():
        async with bench(min_size=2, max_size=3, max_connecting=4) as b:
            b.ledger.script("open", [slow(5)] * 9)
            getting = asyncio.create_task(b.pool.initialize())
            await ticks(3)
            # Whoever comes now is served by what is under way, and causes none but the third.
            callers = [asyncio.create_task(b.hold(0)) for _ in range(3)]
            await gone(getting, *callers)
            line = [e.request_id for e in b.replay.of(RequestQueued)]
            assert [e.request_id for e in b.replay.of(ConnectStarted)] == [0, 0, line[2]]

    run_virtual(main())


def test_a_connect_that_is_tried_again_is_for_who_is_first_then():
    async def main():
        async def fail_late():
            await asyncio.sleep(1)
            raise ConnectionRefusedError

        async with bench(max_size=2, max_connecting=1, retry_delay=0) as b:
            b.ledger.script("open", [fail_late])
            first, second = (asyncio.create_task(b.hold(0)) for _ in range(2))
            await at(b, 0.5)
            first.cancel()
            await gone(first, second)
            line = [e.request_id for e in b.replay.of(RequestQueued)]
            assert [e.request_id for e in b.replay.of(ConnectStarted)] == line

    run_virtual(main())


# Saturation


def saturations(b: Bench) -> list[tuple[float, float, int]]:
    """Return when each saturation began and ended, and how many waited at most."""
    times = [e.time for e in b.replay.of(SaturationStarted)]
    ended = b.replay.of(SaturationEnded)
    return [(began, e.time, e.peak_waiting) for began, e in zip(times, ended, strict=True)]


def test_a_pool_is_saturated_from_who_waits_first_until_nobody_waits():
    async def main():
        async with bench(max_size=2) as b:
            holders = [await b.holder(5), await b.holder(8)]
            waiters = []
            for time in (1, 2, 2.5):
                await at(b, time)
                waiters.append(asyncio.create_task(b.hold(1)))
            await at(b, 4)
            stats = b.pool.stats()
            assert (stats.saturated_for, stats.saturation_time) == (3, 3)
            await gone(*holders, *waiters)
            assert saturations(b) == [(1, 7, 3)]
            assert b.last(SaturationEnded).duration == 6
            stats = b.pool.stats()
            assert (stats.saturated_for, stats.saturation_time) == (0, 6)

    run_virtual(main())


def test_every_saturation_adds_to_the_time():
    async def main():
        async with bench(max_size=1) as b:
            for start in (0, 10, 20):
                await at(b, start)
                await gone(await b.holder(3), asyncio.create_task(b.hold(1)))
            assert saturations(b) == [(0, 3, 1), (10, 13, 1), (20, 23, 1)]
            assert b.pool.stats().saturation_time == 9

    run_virtual(main())


class Held:
    """A pool whose two connections are held, and somebody who waits since 1 s."""

    def __init__(self, b: Bench) -> None:
        self.b = b
        self.ends = [asyncio.get_running_loop().create_future() for _ in range(2)]
        self.holders = [asyncio.create_task(self.hold(end)) for end in self.ends]

    async def hold(self, end: asyncio.Future[None]) -> None:
        with suppress(ConnectionError):
            async with self.b.pool.connection():
                await end

    async def wait(self, timeout: float | None) -> None:
        with suppress(PoolError):
            async with self.b.pool.connection(timeout):
                await asyncio.sleep(0)

    async def waited_for(self, *, timeout: float | None = None) -> None:
        await at(self.b, 1)
        self.waiter = asyncio.create_task(self.wait(timeout))
        await at(self.b, 3)

    async def end(self) -> None:
        for end in self.ends:
            if not end.done():
                end.set_result(None)
        await gone(*self.holders, self.waiter)


async def released(held: Held) -> None:
    held.ends[0].set_result(None)


async def found_broken(held: Held) -> None:
    held.ends[0].set_exception(ConnectionResetError())


async def left_dirty(held: Held) -> None:
    held.holders[0].cancel()


async def drained(held: Held) -> None:
    await held.b.pool.drain()
    held.ends[0].set_result(None)


async def resized(held: Held) -> None:
    await held.b.pool.resize(0, 3)


async def closed(held: Held) -> None:
    await held.b.pool.close(0)


async def given_up(held: Held) -> None:
    held.waiter.cancel()


async def too_late(held: Held) -> None:
    await held.waiter


@pytest.mark.parametrize(
    "what", [released, found_broken, left_dirty, drained, resized, closed, given_up, too_late]
)
def test_saturation_ends_when_a_place_is_free_or_nobody_waits(what):
    async def main():
        async with bench(max_size=2) as b:
            held = Held(b)
            await held.waited_for(timeout=2 if what is too_late else None)
            await what(held)
            await ticks(5)
            assert saturations(b) == [(1, 3, 1)]
            stats = b.pool.stats()
            assert (stats.saturated_for, stats.saturation_time) == (0, 2)
            await held.end()
            assert len(saturations(b)) == 1

    run_virtual(main())


def test_a_connection_that_is_detached_ends_saturation_until_its_successor_is_in_use():
    async def main():
        async with bench(max_size=1) as b:
            b.ledger.script("open", [slow(0), slow(2)])
            connection = await b.pool.acquire()
            waiters = [asyncio.create_task(b.hold(3)) for _ in range(2)]
            await at(b, 4)
            (await b.pool.detach(connection)).terminate()
            await gone(*waiters)
            assert saturations(b) == [(0, 4, 2), (6, 9, 1)]

    run_virtual(main())


def test_a_pool_that_is_made_smaller_may_be_saturated_at_once():
    async def main():
        async with bench(max_size=3) as b:
            b.ledger.script("open", [slow(0), slow(0), slow(4)])
            holders = [await b.holder(6), await b.holder(6)]
            waiter = asyncio.create_task(b.hold(0))
            await at(b, 1)
            assert not b.count(SaturationStarted)
            await b.pool.resize(0, 2)
            await gone(*holders, waiter)
            assert saturations(b) == [(1, 6, 1)]

    run_virtual(main())


def test_who_gives_up_because_connecting_fails_ends_saturation():
    async def main():
        async def fail_late():
            await asyncio.sleep(3)
            raise ConnectionRefusedError

        async with bench(max_size=3, retry_limit=0) as b:
            b.ledger.script("open", [slow(0), slow(0), fail_late])
            holders = [await b.holder(6), await b.holder(6)]
            waiter = asyncio.create_task(b.hold(0))
            await at(b, 1)
            await b.pool.resize(0, 2)
            await gone(waiter)
            assert saturations(b) == [(1, 3, 1)]
            await gone(*holders)

    run_virtual(main())


def test_what_is_being_validated_or_reset_is_in_use():
    async def main():
        ledger = Ledger()
        functions = {"validate_func": ledger.validate, "reset_func": ledger.reset}
        async with bench(ledger=ledger, functions=functions, max_size=1) as b:
            await b.hold(0)
            ledger.script("validate", [slow(2)])
            ledger.script("reset", [slow(4)])
            callers = [asyncio.create_task(b.hold(1)) for _ in range(2)]
            await at(b, 1)
            stats = b.pool.stats()
            assert (stats.in_use, stats.granted, stats.waiting) == (1, 1, 2)
            await gone(*callers)
            assert saturations(b) == [(0, 7, 1)]

    run_virtual(main())


@pytest.mark.parametrize("server", ["down", "silent", "slow"])
def test_a_database_that_does_not_answer_is_no_saturation(server):
    async def main():
        behaviour = {"down": fail(), "silent": never, "slow": slow(4)}[server]
        async with bench(max_size=3, connect_timeout=5, acquire_timeout=9, retry_limit=9) as b:
            holder = await b.holder(30)
            b.ledger.script("open", [behaviour] * 99)
            waiters = [asyncio.create_task(b.hold(0)) for _ in range(10)]
            await at(b, 3)
            stats = b.pool.stats()
            assert (stats.waiting, stats.in_use, stats.saturated_for) == (10, 1, 0)
            await gone(*waiters)
            if server != "slow":
                assert not b.count(SaturationStarted)
            b.ledger.scripts["open"].clear()
            await gone(holder)

    run_virtual(main())


def test_growing_is_no_saturation():
    async def main():
        async with bench(max_size=5, max_connecting=1) as b:
            b.ledger.script("open", [slow(1)] * 5)
            await gone(*(asyncio.create_task(b.hold(9)) for _ in range(5)))
            assert not b.count(SaturationStarted)

    run_virtual(main())


def test_a_connection_that_comes_before_an_alarm_that_is_late_makes_no_saturation():
    async def main():
        ahead = 0.0

        async def open_while_the_process_sleeps():
            nonlocal ahead
            await asyncio.sleep(1)
            ahead = 5.0

        clock = asyncio.get_running_loop().time
        async with bench(functions={"clock": lambda: clock() + ahead}, max_size=2) as b:
            holder = await b.holder(20)
            b.ledger.script("open", [open_while_the_process_sleeps])
            first = asyncio.create_task(b.pool.acquire(timeout=2))
            second = asyncio.create_task(b.hold(1))
            await gone(first, second, holder)
            assert isinstance(first.exception(), TimeoutError)
            assert not b.count(SaturationStarted)

    run_virtual(main())


def test_a_pool_that_closes_is_saturated_no_more():
    async def main():
        async with bench(max_size=1) as b:
            holder = await b.holder(6)
            waiter = asyncio.create_task(b.hold(0))
            await at(b, 2)
            await b.pool.close(9)
            await gone(holder, waiter)
            assert saturations(b) == [(0, 2, 1)]
            assert b.pool.stats().saturation_time == 2

    run_virtual(main())


def test_starvation_shows_before_anybody_has_waited_to_the_end():
    async def main():
        async with bench(max_size=1, acquire_timeout=100) as b:
            holder = await b.holder(50)
            waiters = []
            for time in (1, 5):
                await at(b, time)
                waiters.append(asyncio.create_task(b.hold(0)))
            waits = {}
            for time in (5, 20, 49):
                await at(b, time)
                waits[time] = b.pool.stats().oldest_wait
            assert waits == {5: 4, 20: 19, 49: 48}
            assert b.pool.get_metrics().wait.count == 1
            waiters[0].cancel()
            await ticks()
            assert b.pool.stats().oldest_wait == 44
            await gone(holder, *waiters)
            assert b.pool.stats().oldest_wait == 0

    run_virtual(main())


# The highest use


def test_at_first_nothing_was_in_use():
    async def main():
        async with bench(min_size=2) as b:
            assert b.pool.stats().used_peak == 0
            await b.pool.initialize()
            assert b.pool.stats().used_peak == 0

    run_virtual(main())


async def peaks(b: Bench, *times: float) -> list[int]:
    """Return the highest use as shown at each of these times."""
    shown = []
    for time in times:
        await at(b, time)
        shown.append(b.pool.stats().used_peak)
    return shown


async def burst(b: Bench, size: int, hold: float = 0) -> None:
    await gone(*(asyncio.create_task(b.hold(hold)) for _ in range(size)))


async def release(b: Bench, connection: FakeConnection) -> None:
    await b.pool.release(connection)


async def detach(b: Bench, connection: FakeConnection) -> None:
    (await b.pool.detach(connection)).terminate()


async def drain_and_release(b: Bench, connection: FakeConnection) -> None:
    await b.pool.drain()
    await b.pool.release(connection)


async def close_under(b: Bench, connection: FakeConnection) -> None:
    await b.pool.close(0)


@pytest.mark.parametrize("end", [release, detach, drain_and_release, close_under])
def test_a_burst_is_seen_however_it_ends(end):
    async def main():
        async with bench(max_size=3, min_size=3) as b:
            await b.pool.wait_ready()
            connections = [await b.pool.acquire() for _ in range(3)]
            assert b.pool.stats().used_peak == 3
            for connection in connections:
                await end(b, connection)
            assert (b.pool.stats().in_use, b.pool.stats().used_peak) == (0, 3)
            await at(b, 71)
            assert b.pool.stats().used_peak == 0

    run_virtual(main())


@pytest.mark.parametrize("how", [ConnectionResetError, asyncio.CancelledError])
def test_a_burst_is_seen_even_if_its_connections_are_lost(how):
    async def use(b: Bench) -> None:
        async with b.pool.connection():
            await asyncio.sleep(0)
            raise how

    async def main():
        async with bench(max_size=3, min_size=3) as b:
            await b.pool.wait_ready()
            await gone(*(asyncio.create_task(use(b)) for _ in range(3)))
            assert (b.pool.stats().in_use, b.pool.stats().used_peak) == (0, 3)

    run_virtual(main())


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("careful", [False, True])
def test_a_burst_between_two_readings_is_seen_for_a_minute(warm, careful):
    async def main():
        ledger = Ledger()
        functions = {"validate_func": ledger.validate} if careful else {}
        settings = {"max_size": 5, "min_size": 5 * warm, "idle_timeout": 1000}
        async with bench(ledger=ledger, functions=functions, **settings) as b:
            await b.pool.wait_ready()
            await at(b, 5)
            await burst(b, 4)
            assert b.now() == 5
            assert b.pool.stats().in_use == 0
            assert await peaks(b, 5, 64.9, 76) == [4, 4, 0]

    run_virtual(main())


def test_the_peak_falls_back_to_what_is_in_use_now():
    async def main():
        async with bench(max_size=5) as b:
            holder = await b.holder(200)
            await burst(b, 3)
            assert await peaks(b, 1, 59, 71) == [4, 4, 1]
            await gone(holder)
            assert await peaks(b, 201, 259, 271) == [1, 1, 0]

    run_virtual(main())


def test_a_lower_burst_is_seen_for_a_minute_after_a_higher_one():
    async def main():
        # The deadline at 4.5 s moves the pool's upkeep away from the steps of the peak.
        async with bench(max_size=5, min_size=5) as b:
            await b.pool.initialize()
            await at(b, 4)
            holders = [asyncio.create_task(b.hold(1)) for _ in range(5)]
            await ticks()
            with suppress(PoolError):
                await b.pool.acquire(timeout=0.5)
            await gone(*holders)
            await at(b, 11)
            await burst(b, 3)
            assert await peaks(b, 63, 70.9, 82) == [5, 3, 0]

    run_virtual(main())


def test_a_connection_that_is_handed_on_is_in_use_all_the_time_and_once():
    async def main():
        async with bench(max_size=2, acquire_timeout=100) as b:
            await burst(b, 8, hold=20)
            assert await peaks(b, 80, 139, 151) == [2, 2, 0]

    run_virtual(main())


def test_a_connection_that_is_validated_is_in_use_even_if_it_is_no_good():
    async def main():
        ledger = Ledger()
        functions = {"validate_func": ledger.validate}
        async with bench(ledger=ledger, functions=functions, max_size=3, min_size=3) as b:
            await b.pool.wait_ready()
            ledger.script("validate", [answer(False)] * 3)
            ledger.script("open", [never] * 9)
            await gone(*(asyncio.create_task(b.pool.acquire(timeout=1)) for _ in range(3)))
            assert (b.pool.stats().in_use, b.pool.stats().used_peak) == (0, 3)

    run_virtual(main())


def test_a_pool_made_smaller_or_drained_remembers_its_peak():
    async def main():
        async with bench(max_size=5, max_connecting=9) as b:
            await burst(b, 5)
            await b.pool.resize(0, 1)
            await b.pool.drain()
            assert await peaks(b, 1, 59, 71) == [5, 5, 0]
            await b.pool.resize(0, 8)
            await burst(b, 7)
            assert b.pool.stats().used_peak == 7

    run_virtual(main())


def test_a_pool_that_lost_all_connections_forgets_its_peak_too():
    async def main():
        async with bench(max_size=3, idle_timeout=1) as b:
            await burst(b, 3)
            assert await peaks(b, 59, 71) == [3, 0]
            assert b.pool.stats().size == 0
            await at(b, 500)
            await b.hold(0)
            assert b.pool.stats().used_peak == 1

    run_virtual(main())


def test_the_peak_can_be_read_from_another_thread():
    async def main():
        async with bench(max_size=4) as b:
            await burst(b, 4)
            shown = []
            for time in (1, 71):
                await at(b, time)
                reader = threading.Thread(target=lambda: shown.append(b.pool.stats().used_peak))
                reader.start()
                reader.join()
            assert shown == [4, 0]

    run_virtual(main())


# The laws every test relies on

ASKED = (ConnectionRequested, ())
QUEUED = (RequestQueued, (1, 1))
STARTED = (SaturationStarted, (1,))
ENDED = (SaturationEnded, (1.0, 1))


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        ([ASKED, QUEUED, QUEUED], "queued twice"),
        ([ASKED, (AcquireFailed, (1, 0.0, "closed", None)), QUEUED], "queued when ended"),
        ([ASKED, (RequestQueued, (1, 2))], "no place in the line"),
        ([ASKED, (ConnectStarted, ("a", 1, 1))], "started for nobody"),
        ([ASKED, STARTED], "saturated by nobody"),
        ([ASKED, QUEUED, STARTED, STARTED], "saturated twice"),
        ([ASKED, QUEUED, STARTED, ENDED, ENDED], "never began"),
        ([ASKED, QUEUED, STARTED, (SaturationEnded, (2.0, 1))], "wrong duration"),
        ([ASKED, QUEUED, STARTED, (SaturationEnded, (1.0, 0))], "wrong peak"),
    ],
)
def test_a_replay_finds_events_that_cannot_be(told, fault):
    replay = Replay()
    for sequence, (kind, fields) in enumerate(told, start=1):
        replay(kind("bench", float(sequence), sequence, *fields))
    assert [each.partition(":")[0] for each in replay.faults] == [fault]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"saturated_for": 1.0}, "saturated for 2.0 s"),
        ({"saturation_time": 1.0}, "saturated less than at present"),
        ({"max_size": 2}, "saturated by nobody"),
        ({"granted": 1}, "saturated by nobody"),
    ],
)
def test_a_replay_finds_a_snapshot_that_does_not_fit(changes, fault):
    async def main():
        async with bench(max_size=1) as b:
            tasks = [await b.holder(5), asyncio.create_task(b.hold(0))]
            await at(b, 2)
            b.check()
            with pytest.raises(AssertionError, match=fault):
                b.replay.check(replace(b.pool.stats(), **changes))
            b.replay.faults.clear()
            await gone(*tasks)

    run_virtual(main())


def test_a_replay_finds_saturation_that_was_not_told():
    async def main():
        async with bench(max_size=1) as b:
            tasks = [await b.holder(5), asyncio.create_task(b.hold(0))]
            await at(b, 2)
            b.replay.saturation = None
            with pytest.raises(AssertionError, match="not saturated"):
                b.replay.check(replace(b.pool.stats(), saturated_for=0.0))
            b.replay.faults.clear()
            b.replay.saturation = b.last(SaturationStarted)
            await gone(*tasks)

    run_virtual(main())


# Any traffic


class WatchedLoop(VirtualLoop):
    """Tells before time passes, and until when it will. All that is due now has been done then."""

    watcher: Callable[[float], None] | None = None
    _now = 0.0

    @property
    def now(self) -> float:
        return self._now

    @now.setter
    def now(self, now: float) -> None:
        if self.watcher is not None and now > self._now:
            self.watcher(now)
        self._now = now


class Watch:
    """An account of its own: it looks at the levels whenever time passes or something happens."""

    def __init__(self, pool: ConnectionPool[FakeConnection]) -> None:
        self.pool = pool
        self.saturated = 0.0
        self.told = 0.0
        self.levels: list[tuple[float, int]] = []
        """How many were in use, and until when."""
        self.faults: list[str] = []
        asyncio.get_running_loop().watcher = self.time_passes
        pool.bus.subscribe(self.happened)

    def happened(self, event: Event) -> None:
        if isinstance(event, SaturationEnded):
            self.told += event.duration
        self.levels.append((event.time, self.pool.stats().in_use))
        self.compare()

    def time_passes(self, until: float) -> None:
        """Compare what the pool says of the past; then account for the time to come."""
        self.compare()
        stats = self.pool.stats()
        for seconds in (self.saturated, self.told + stats.saturated_for):
            if not math.isclose(stats.saturation_time, seconds, abs_tol=1e-9):
                self.faults.append(f"at {stats.time}: {stats.saturation_time} s, not {seconds} s")
        if stats.waiting > stats.granted and stats.in_use >= stats.max_size:
            self.saturated += until - stats.time
        self.levels.append((until, stats.in_use))

    def compare(self) -> None:
        stats = self.pool.stats()
        least, most = self.most_in_use(60, stats.time), self.most_in_use(70.001, stats.time)
        if not least <= stats.used_peak <= max(most, stats.in_use):
            self.faults.append(f"at {stats.time}: {least} <= {stats.used_peak} <= {most}")

    def most_in_use(self, seconds: float, now: float) -> int:
        while self.levels and self.levels[0][0] < now - 80:
            del self.levels[0]
        return max((n for until, n in self.levels if until > now - seconds), default=0)


def watched(main: Awaitable[None]) -> None:
    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        runner.run(main)


@pytest.mark.parametrize("seed", range(30), ids="seed_{}".format)
def test_in_any_weather_saturation_is_as_long_as_somebody_else_would_say(seed):
    random.seed(seed)

    async def main():
        storm = Storm(seed)
        watch = Watch(storm.pool)
        await storm.go_wild()
        if not storm.closed_early:
            await storm.calm_down()
        await storm.pool.close()
        storm.audit()
        assert not watch.faults, watch.faults[:3]

    watched(main())


@pytest.mark.parametrize("seed", range(30), ids="seed_{}".format)
def test_the_peak_of_any_traffic_is_that_of_the_last_minute(seed):
    rng = random.Random(seed)
    random.seed(seed)

    async def main():
        ledger = Ledger()
        functions = {"validate_func": ledger.validate} if rng.random() < 0.3 else {}
        settings = {
            "min_size": rng.randint(0, 2),
            "max_size": 5,
            "idle_timeout": rng.choice([0.5, 7, 23, 1000]),
            "max_lifetime": rng.choice([17, 1000]),
            "leak_threshold": rng.choice([None, 12]),
        }
        async with bench(ledger=ledger, functions=functions, **settings) as b:
            watch = Watch(b.pool)
            callers = []
            for _ in range(60):
                await asyncio.sleep(rng.choice([0, 0.1, 3, 7, 10, 30]))
                hold = rng.choice([0, 0, 0.5, 4, 15])
                callers += [asyncio.create_task(b.hold(hold)) for _ in range(rng.randint(1, 5))]
                if rng.random() < 0.2:
                    await b.pool.resize(0, rng.randint(2, 6))
                elif rng.random() < 0.1:
                    await b.pool.drain()
            await gone(*callers)
            assert not watch.faults, watch.faults[:3]

    watched(main())
