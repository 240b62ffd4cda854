"""How connections of asyncpg's pools are opened and closed, and why."""

import asyncio
from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from poolscope.events import (
    CloseReason,
    ConnectFailed,
    ConnectFault,
    ConnectionClosed,
    ConnectStarted,
    FailureReason,
    LeakReclaimed,
    PoolClosed,
)
from poolscope.instrument import observe
from poolscope.testing.postgres import PostgresServer
from poolscope.testing.server import free_port
from tests.instrument.asyncpg.stage import KEEPS_FLOOR, OPENING, Stage, new_pool, stage, until
from tests.support import run

pytestmark = pytest.mark.usefixtures("instrumented")

RETURN = ["ConnectionReleased", "ConnectionClosed"]
floor = pytest.mark.skipif(not KEEPS_FLOOR, reason="min_size is the initial size only")


def test_an_expired_connection_is_stale_when_it_comes_back(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres) as on:
            async with on.pool.acquire():
                await on.pool.expire_connections()
                on.kinds()
            assert on.kinds() == RETURN
            assert on.closed() == [CloseReason.STALE]

    run(main())


def test_an_expired_connection_is_stale_when_it_is_asked_for(postgres: PostgresServer) -> None:
    gate = asyncio.Event()
    gate.set()

    async def pass_the_gate(connection: Any) -> None:
        await gate.wait()

    async def main() -> None:
        async with stage(postgres, max_size=1, init=pass_the_gate) as on:
            await on.pool.execute("select 1")
            await on.pool.expire_connections()
            on.kinds()
            gate.clear()
            connecting = asyncio.create_task(on.pool.fetchval("select 1"))
            await on.comes((0, 0, 1, 1))
            on.check()
            gate.set()
            assert await connecting == 1
            asked = ["ConnectionRequested", "ConnectionClosed", *OPENING[1:]]
            assert on.kinds() == [*asked, "ConnectionAcquired", "ConnectionReleased"]
            assert on.closed() == [CloseReason.STALE]

    run(main())


def test_a_connection_that_did_its_queries_has_lived_its_life(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres, max_queries=1) as on:
            await on.pool.execute("select 1")
            assert on.kinds()[-2:] == RETURN
            assert on.closed() == [CloseReason.LIFETIME]

    run(main())


def test_a_connection_that_nobody_wants_is_closed_as_idle(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres, max_inactive_connection_lifetime=0.02) as on:
            await on.pool.execute("select 1")
            await on.comes((0, 0, 0, 0))
            assert on.closed() == [CloseReason.IDLE]

    run(main())


class Careless(Exception):
    pass


class Unresettable(asyncpg.Connection):
    async def reset(self, *, timeout: float | None = None) -> None:
        raise Careless


def test_a_connection_that_cannot_be_reset_is_closed(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres, connection_class=Unresettable) as on:
            connection = await on.pool.acquire()
            with pytest.raises(Careless):
                await on.pool.release(connection)
            assert on.kinds()[-2:] == RETURN
            assert on.closed() == [CloseReason.RESET]

    run(main())


@pytest.mark.skipif(asyncpg.__version__ < "0.30", reason="there is no reset callback")
def test_a_reset_callback_that_fails_closes_the_connection(postgres: PostgresServer) -> None:
    async def refuse(connection: Any) -> None:
        raise Careless

    async def main() -> None:
        async with stage(postgres, reset=refuse) as on:
            connection = await on.pool.acquire()
            with pytest.raises(Careless):
                await on.pool.release(connection)
            assert on.closed() == [CloseReason.RESET]

    run(main())


def test_a_command_that_cannot_be_ended_leaves_a_dirty_connection(
    postgres: PostgresServer,
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with stage(postgres) as on:
            connection = await on.pool.acquire()
            asking = asyncio.create_task(connection.execute("select pg_sleep(60)"))
            await until(lambda: "active" in states(postgres))
            postgres.pause()
            try:
                asking.cancel()
                with suppress(asyncio.CancelledError):
                    await asking
                with pytest.raises(TimeoutError):
                    await on.pool.release(connection, timeout=0.05)
            finally:
                postgres.resume()
            assert on.closed() == [CloseReason.DIRTY]

    run(main())


def states(server: PostgresServer) -> list[str]:
    """What the server's clients are at, the one who asks left out."""
    with server._connect() as asking:
        rows = asking.execute(
            "select state from pg_stat_activity where backend_type = 'client backend'"
            " and pid <> pg_backend_pid()"
        )
        return [row[0] for row in rows]


def test_a_connection_that_the_server_ends_is_broken(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres) as on:
            idle, used = await on.pool.acquire(), await on.pool.acquire()
            numbers = idle.get_server_pid(), used.get_server_pid()
            await on.pool.release(idle)
            on.kinds()
            await asyncio.to_thread(postgres.disconnect, *numbers)
            await on.comes((0, 0, 0, 0))
            assert sorted(on.kinds()) == ["ConnectionClosed", *RETURN[::-1]]
            assert on.closed() == [CloseReason.BROKEN] * 2
            await on.pool.release(used)
            assert on.kinds() == []
            on.check()
            await on.pool.execute("select 1")

    run(main())


@pytest.mark.parametrize("how", ["close", "terminate"])
def test_a_connection_that_its_holder_ends_is_broken(postgres: PostgresServer, how: str) -> None:
    async def main() -> None:
        async with stage(postgres) as on:
            async with on.pool.acquire() as connection:
                ending = getattr(connection, how)()
                if ending is not None:
                    await ending
                on.check()
            assert on.kinds()[-2:] == RETURN
            assert on.closed() == [CloseReason.BROKEN]

    run(main())


def test_closing_a_pool_closes_what_is_idle(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres, min_size=2) as on:
            assert on.levels() == (2, 0, 0, 0)
        assert on.closed() == [CloseReason.POOL_CLOSED] * 2
        assert on.kinds()[-1] == "PoolClosed"
        assert on.source.stats().state == "closed"

    run(main())


def test_terminating_a_pool_takes_back_what_is_lent(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres, min_size=2) as on:
            connection = await on.pool.acquire()
            on.kinds()
            on.pool.terminate()
            reclaimed = ["LeakReclaimed", "ConnectionClosed"]
            assert sorted(on.kinds()) == sorted([*reclaimed, "ConnectionClosed", "PoolClosed"])
            assert on.closed() == [CloseReason.POOL_CLOSED] * 2
            assert [event.reason for event in on.of(LeakReclaimed)] == [CloseReason.POOL_CLOSED]
            await on.pool.release(connection)
            assert on.source.metrics.use.count == 1

    run(main())


def test_a_close_that_is_cancelled_takes_back_what_is_lent(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres) as on:
            await on.pool.acquire()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(on.pool.close(), 0.02)
            assert [event.reason for event in on.of(LeakReclaimed)] == [CloseReason.POOL_CLOSED]
            assert on.of(PoolClosed)

    run(main())


@floor
def test_who_waits_when_the_pool_is_terminated_is_refused(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres, max_size=1) as on:
            await on.pool.acquire()
            waiting = asyncio.create_task(on.pool._acquire(None))
            await on.comes((0, 1, 0, 1))
            on.pool.terminate()
            with pytest.raises(asyncpg.InterfaceError, match="closing"):
                await waiting
            assert on.failures() == [FailureReason.CLOSED]
            assert on.kinds()[-2:] == ["AcquireFailed", "PoolClosed"]

    run(main())


@floor
def test_a_connect_that_the_pool_did_not_wait_for_is_no_failure(postgres: PostgresServer) -> None:
    async def main() -> None:
        async def end_the_pool(connection: Any) -> None:
            on.pool.terminate()

        async with stage(postgres, init=end_the_pool) as on:
            with pytest.raises(asyncpg.InterfaceError, match="closing"):
                await on.pool.acquire()
            faults = [event.fault for event in on.of(ConnectFailed)]
            assert faults == [ConnectFault.ABANDONED]
            assert on.failures() == [FailureReason.CLOSED]
            assert on.kinds()[-1] == "PoolClosed"

    run(main())


@floor
def test_what_the_floor_lacks_is_opened_for_nobody(postgres: PostgresServer) -> None:
    async def main() -> None:
        async with stage(postgres, min_size=1) as on:
            async with on.pool.acquire() as connection:
                on.kinds()
                await connection.close()
            await on.comes((1, 0, 0, 0))
            assert on.kinds() == [*RETURN, "ConnectStarted", "ConnectionOpened"]
            assert [event.request_id for event in on.of(ConnectStarted)] == [0, 0]
            assert on.source.stats().min_size == 1

    run(main())


def test_a_pool_that_cannot_begin_says_so(postgres: PostgresServer) -> None:
    async def main() -> None:
        pool = new_pool(postgres, min_size=1, host="127.0.0.1", port=free_port())
        on = Stage(pool, observe(pool))
        with pytest.raises(OSError, match="Connect call failed"):
            await pool
        faults = [event.fault for event in on.of(ConnectFailed)]
        assert faults == [ConnectFault.REFUSED]
        assert on.source.state == ("closed" if KEEPS_FLOOR else "open")
        assert not on.of(ConnectionClosed)
        if not KEEPS_FLOOR:
            await pool.close()

    run(main())


@floor
def test_a_pool_that_cannot_open_all_closes_the_others(postgres: PostgresServer) -> None:
    opened: list[Any] = []

    async def refuse_the_third(connection: Any) -> None:
        opened.append(connection)
        if len(opened) == 3:
            raise Careless

    async def main() -> None:
        pool = new_pool(postgres, min_size=3, max_size=3, init=refuse_the_third)
        on = Stage(pool, observe(pool))
        with pytest.raises(Careless):
            await pool
        await until(lambda: not on.books.connecting)
        assert set(on.closed()) <= {CloseReason.POOL_CLOSED}
        assert not on.books.open
        assert on.of(PoolClosed)

    run(main())
