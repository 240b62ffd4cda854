import asyncio
import traceback

import pytest

from poolscope import (
    ConnectFailedError,
    ConnectionPoolSettings,
    PoolError,
    PoolTimeoutError,
    ValidationFailedError,
)
from poolscope.events import (
    AcquireFailed,
    ConnectFailed,
    ConnectionAcquired,
    ConnectionClosed,
    ConnectionOpened,
    FailureReason,
    PoolClosed,
)
from poolscope.testing import Ledger, run_virtual
from poolscope.testing.ledger import answer, fail, never, slow
from tests.behaviour.bench import bench, make_pool, ticks


def test_initialize_opens_min_size():
    async def main():
        async with bench(min_size=2) as b:
            await b.pool.initialize()
            assert b.pool.pool_size == 2

    run_virtual(main())


def test_an_unreachable_database_fails_initialize_with_the_cause_and_leaves_nothing():
    async def main():
        async with bench(min_size=1, retry_limit=2) as b:
            b.ledger.script("open", [fail(ConnectionRefusedError("no route"))] * 3)
            with pytest.raises(ConnectFailedError, match="3 times in a row") as caught:
                await b.pool.initialize()
            assert isinstance(caught.value.__cause__, ConnectionRefusedError)
            assert b.count(PoolClosed) == 1
            await b.pool.initialize()
            assert b.pool.pool_size == 1

    run_virtual(main())


def test_initialize_ends_at_acquire_timeout_when_connects_hang_and_names_the_cause():
    async def main():
        async with bench(min_size=1, acquire_timeout=5, connect_timeout=2) as b:
            b.ledger.script("open", [never] * 9)
            with pytest.raises(PoolTimeoutError) as caught:
                await b.pool.initialize()
            assert b.now() == 5
            assert isinstance(caught.value.__cause__, TimeoutError)

    run_virtual(main())


def test_a_failed_connect_is_retried_within_the_deadline():
    async def main():
        async with bench(acquire_timeout=30, retry_limit=3) as b:
            b.ledger.script("open", [fail()] * 3)
            async with b.pool.connection():
                pass
            assert [event.attempt for event in b.replay.of(ConnectFailed)] == [1, 2, 3]

    run_virtual(main())


def test_after_retry_limit_the_waiter_gets_the_real_cause():
    async def main():
        async with bench(acquire_timeout=60, retry_limit=3) as b:
            b.ledger.script("open", [fail(OSError("no such host"))] * 4)
            with pytest.raises(ConnectFailedError) as caught:
                await b.pool.acquire()
            assert str(caught.value.__cause__) == "no such host"
            assert b.last(AcquireFailed).reason is FailureReason.CONNECT_FAILED
            assert b.now() < 1 + 2 + 4

    run_virtual(main())


def test_a_deadline_that_passes_between_retries_chains_the_real_cause():
    async def main():
        async with bench(acquire_timeout=4, retry_limit=99, retry_delay=1) as b:
            b.ledger.script("open", [fail(OSError("no such host"))] * 99)
            with pytest.raises(PoolTimeoutError, match="new connections fail") as caught:
                await b.pool.acquire()
            assert str(caught.value.__cause__) == "no such host"
            assert b.now() == 4
            b.ledger.scripts["open"].clear()

    run_virtual(main())


def test_while_leases_are_out_only_the_longest_waiter_fails_per_round():
    async def main():
        settings = {"max_size": 2, "acquire_timeout": 1000, "retry_limit": 0}
        async with bench(**settings) as b:
            held = await b.pool.acquire()
            b.ledger.script("open", [fail()])
            waiters = [asyncio.create_task(b.pool.acquire()) for _ in range(2)]
            with pytest.raises(ConnectFailedError):
                await waiters[0]
            await b.pool.release(held)
            await b.pool.release(await waiters[1])

    run_virtual(main())


def test_a_connect_that_fails_beside_others_that_may_succeed_fails_one_caller():
    async def main():
        settings = {"max_size": 5, "max_connecting": 5, "retry_limit": 0, "retry_delay": 0}
        async with bench(**settings) as b:
            b.ledger.script("open", [slow(2), fail(), slow(2), fail(), slow(2)])
            results = await asyncio.gather(
                *(b.hold(10) for _ in range(3)), b.hold(100), return_exceptions=True
            )
            assert [type(result) for result in results].count(ConnectFailedError) == 1
            assert b.count(ConnectionAcquired) == 3

    run_virtual(main())


def test_callers_fail_together_when_the_last_connect_under_way_has_failed_too():
    async def main():
        settings = {"max_size": 3, "max_connecting": 3, "retry_limit": 0, "retry_delay": 30}
        async with bench(**settings) as b:
            # So soon one after the other that no jitter lets the next round begin meanwhile.
            b.ledger.script("open", [refused_after(each * 1e-6) for each in (1, 2, 3)])
            results = await asyncio.gather(*(b.hold(1) for _ in range(3)), return_exceptions=True)
            assert [type(result) for result in results] == [ConnectFailedError] * 3
            assert b.now() < 1e-5

    run_virtual(main())


def refused_after(seconds):
    async def behaviour():
        await asyncio.sleep(seconds)
        raise ConnectionRefusedError

    return behaviour


def test_without_a_delay_a_pool_nobody_waits_for_still_takes_its_time_to_connect_again():
    async def main():
        async with bench(min_size=2, retry_limit=0, retry_delay=0) as b:
            b.ledger.script("open", [fail()] * 1000)
            with pytest.raises(ConnectFailedError):
                await b.pool.acquire()
            await asyncio.sleep(20)
            # Two at a time, every half second on the average: 80, and never twice as many.
            assert b.ledger.calls["open"] < 200
            b.ledger.scripts["open"].clear()
            await asyncio.sleep(2)
            assert b.pool.pool_size == 2

    run_virtual(main())


def test_two_hundred_waiters_do_not_storm_a_server_that_is_down():
    async def main():
        settings = {"max_size": 50, "max_connecting": 4, "acquire_timeout": 60}
        async with bench(**settings, retry_limit=5, retry_delay=1) as b:
            b.ledger.script("open", [fail()] * 1000)
            results = await asyncio.gather(
                *(b.pool.acquire() for _ in range(200)), return_exceptions=True
            )
            assert all(isinstance(result, PoolError) for result in results)
            assert b.ledger.calls["open"] <= 4 * 7
            b.ledger.scripts["open"].clear()
            await asyncio.sleep(60)
            await b.pool.release(await b.pool.acquire())

    run_virtual(main())


def test_connects_that_fail_together_are_one_round():
    async def main():
        async with bench(max_size=4, max_connecting=4, retry_limit=1, acquire_timeout=60) as b:
            b.ledger.script("open", [fail()] * 4)
            await asyncio.gather(*(b.hold(1) for _ in range(4)))
            assert [event.attempt for event in b.replay.of(ConnectFailed)] == [1] * 4

    run_virtual(main())


def test_never_more_than_max_connecting_at_once():
    async def main():
        async with bench(max_size=9, max_connecting=2) as b:
            b.ledger.script("open", [slow(1)] * 9)
            holders = [asyncio.create_task(b.hold(9)) for _ in range(9)]
            most = 0
            while b.pool.active_connections < 9:
                most = max(most, b.pool.stats().connecting)
                await asyncio.sleep(0.25)
            assert most == 2
            await asyncio.gather(*holders)

    run_virtual(main())


def test_a_factory_that_hangs_is_given_up_and_its_place_is_free():
    async def main():
        async with bench(max_size=1, connect_timeout=2, acquire_timeout=9) as b:
            b.ledger.script("open", [never])
            async with b.pool.connection():
                assert b.last(ConnectFailed).create == 2

    run_virtual(main())


def test_a_connection_that_comes_too_late_is_closed():
    async def main():
        async def stubborn():
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                await asyncio.sleep(3)

        async with bench(max_size=1, connect_timeout=2, acquire_timeout=30) as b:
            b.ledger.script("open", [stubborn])
            await b.hold(10)
            assert b.ledger.opened == 2
            assert len(b.ledger.open_connections) == 1

    run_virtual(main())


def test_a_connect_outlives_the_caller_who_caused_it():
    async def main():
        async with bench() as b:
            b.ledger.script("open", [slow(2)])
            with pytest.raises(PoolTimeoutError):
                await b.pool.acquire(timeout=1)
            async with b.pool.connection():
                assert b.ledger.opened == 1
                assert b.now() == 2

    run_virtual(main())


@pytest.mark.parametrize(
    ("factory", "complaint"),
    [
        (lambda: None, "factory returned None instead of a connection"),
        (lambda: asyncio.sleep, "factory returned function instead of a connection"),
        (lambda: asyncio.sleep(0), "factory returned None instead of a connection"),
        (lambda: 1 / 0, "division by zero"),
    ],
)
def test_a_factory_that_returns_no_connection_is_named_as_the_cause(factory, complaint):
    async def main():
        pool = make_pool(factory, ConnectionPoolSettings(retry_limit=0))
        with pytest.raises(ConnectFailedError) as caught:
            await pool.initialize()
        assert complaint in str(caught.value.__cause__)

    run_virtual(main())


def test_a_factory_that_returns_the_same_connection_twice_is_refused():
    async def main():
        one = object()
        pool = make_pool(lambda: one, ConnectionPoolSettings(retry_limit=0))
        async with pool, pool.connection():
            with pytest.raises(PoolError) as caught:
                await pool.acquire(timeout=50)
        assert "already in the pool" in "".join(traceback.format_exception(caught.value))

    run_virtual(main())


@pytest.mark.parametrize("name", ["factory", "validate_func", "close_func", "reset_func"])
def test_what_cannot_be_called_is_refused_when_the_pool_is_made(name):
    arguments = {"factory": object, name: "not callable"}
    with pytest.raises(ValueError, match=f"{name} must be"):
        make_pool(**arguments)


@pytest.mark.parametrize("place", ["factory", "settings", "validate_func"])
def test_a_dsn_given_by_mistake_is_not_shown(place):
    arguments = {"factory": object, place: "postgresql://user:canary@host/db"}
    with pytest.raises(ValueError, match="got a str") as caught:
        make_pool(**arguments)
    assert "canary" not in str(caught.value)


def test_a_password_in_the_drivers_error_is_in_no_text_of_ours():
    async def main():
        async with bench(retry_limit=0, name="orders") as b:
            b.ledger.script("open", [fail(OSError("postgresql://user:canary@host/db"))] * 2)
            with pytest.raises(ConnectFailedError) as caught:
                await b.pool.acquire()
            texts = [str(caught.value), repr(caught.value), repr(b.pool), str(b.pool.stats())]
            assert "canary" not in "".join(texts) + b.pool.get_metrics().to_json()

    run_virtual(main())


def test_min_size_is_kept_up_after_connections_die():
    async def main():
        async with bench(min_size=2, max_size=3) as b:
            await b.pool.initialize()

            async def use_a_dead_one():
                async with b.pool.connection() as connection:
                    b.ledger.kill(connection)
                    await connection.execute()

            for _ in range(2):
                with pytest.raises(ConnectionResetError):
                    await use_a_dead_one()
            await b.pool.wait_ready()
            assert b.pool.pool_size == 2
            assert len(b.ledger.open_connections) == 2

    run_virtual(main())


def test_validation_discards_dead_connections_and_hands_out_a_good_one():
    async def main():
        ledger = Ledger()
        async with bench(ledger=ledger, functions={"validate_func": ledger.validate}) as b:
            await asyncio.gather(b.hold(1), b.hold(1))
            for connection in tuple(ledger.open_connections):
                ledger.kill(connection)
            async with b.pool.connection() as connection:
                assert connection.alive
            assert b.count(ConnectionClosed) == 2

    run_virtual(main())


def test_those_whose_connection_was_no_good_keep_their_order():
    async def main():
        ledger = Ledger()
        functions = {"validate_func": ledger.validate}
        async with bench(ledger=ledger, functions=functions, max_size=2, retry_delay=0) as b:
            ledger.script("validate", [answer(False)] * 2)
            served = []

            async def ask(number):
                async with b.pool.connection():
                    served.append(number)
                    await asyncio.sleep(1)

            await asyncio.gather(*(ask(number) for number in range(4)))
            assert served == [0, 1, 2, 3]

    run_virtual(main())


@pytest.mark.parametrize("bad", [answer(False), fail(ValueError), never])
def test_new_connections_that_never_pass_end_in_an_error_that_says_so(bad):
    async def main():
        ledger = Ledger()
        settings = {"acquire_timeout": 100, "retry_limit": 2, "validate_timeout": 1}
        functions = {"validate_func": ledger.validate}
        async with bench(ledger=ledger, functions=functions, **settings) as b:
            ledger.script("validate", [bad] * 3)
            with pytest.raises(ValidationFailedError, match="validate_func refused"):
                await b.pool.acquire()
            assert b.last(AcquireFailed).reason is FailureReason.VALIDATION_FAILED
            assert b.count(ConnectionOpened) == 3
            await b.pool.release(await b.pool.acquire())

    run_virtual(main())


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_plain_and_async_functions_both_work(kind):
    async def main():
        calls = []

        def note(name, result=None):
            calls.append(name)
            return result

        async def note_async(name, result=None):
            await asyncio.sleep(0)
            return note(name, result)

        call = note if kind == "plain" else note_async
        pool = make_pool(
            lambda: call("open", object()),
            ConnectionPoolSettings(min_size=0),
            validate_func=lambda _: call("validate", True),
            close_func=lambda _: call("close"),
            reset_func=lambda _: call("reset"),
        )
        async with pool:
            for _ in range(2):
                async with pool.connection():
                    pass
        assert calls == ["open", "validate", "reset", "validate", "reset", "close"]

    run_virtual(main())


def test_without_functions_connections_are_reused_and_closed_by_their_own_close():
    async def main():
        class Plain:
            closed = 0

            def close(self):
                Plain.closed += 1

        async with make_pool(Plain) as pool:
            async with pool.connection() as first:
                pass
            async with pool.connection() as second:
                assert second is first
        assert Plain.closed == 1

    run_virtual(main())


def test_wait_ready_tells_the_cause_when_time_is_up():
    async def main():
        async with bench(min_size=1, retry_limit=0, acquire_timeout=1) as b:
            b.ledger.script("open", [fail(OSError("down"))] * 99)
            with pytest.raises(PoolTimeoutError) as caught:
                await b.pool.wait_ready(timeout=3)
            assert str(caught.value.__cause__) == "down"
            b.ledger.scripts["open"].clear()
            await b.pool.wait_ready(timeout=60)
            await ticks()

    run_virtual(main())
