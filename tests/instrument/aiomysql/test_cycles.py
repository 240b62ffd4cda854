"""Requests of aiomysql's pools and their outcomes."""

import asyncio
from typing import Any

import aiomysql
import pytest

from poolscope.events import (
    AcquireFailed,
    AcquireSource,
    CloseReason,
    ConnectFailed,
    ConnectFault,
    ConnectionAcquired,
    ConnectStarted,
    FailureReason,
    RequestQueued,
)
from poolscope.testing.mariadb import MariadbServer
from tests.instrument.aiomysql.stage import Stage, ask, number, stage, until
from tests.support import run

pytestmark = pytest.mark.usefixtures("instrumented")

OPENING = ["ConnectionRequested", "RequestQueued", "ConnectStarted", "ConnectionOpened"]


def test_a_cycle_is_a_request_a_connect_and_a_lease(mariadb_server: MariadbServer) -> None:
    async def main() -> None:
        async with stage(mariadb_server) as on:
            async with on.pool.acquire() as connection:
                assert on.levels() == (0, 1, 0, 0)
                assert await ask(connection, "select 1") == (1,)
            assert on.kinds() == [*OPENING, "ConnectionAcquired", "ConnectionReleased"]
            connection = await on.pool.acquire()
            assert await on.pool.release(connection) is None
            assert on.levels() == (1, 0, 0, 0)
            acquired = on.of(ConnectionAcquired)
            assert [event.source for event in acquired] == [AcquireSource.IDLE]
            assert on.kinds() == ["ConnectionRequested", "ConnectionAcquired", "ConnectionReleased"]

    run(main())


def test_who_waits_for_a_release_is_handed_the_connection(mariadb_server: MariadbServer) -> None:
    async def main() -> None:
        async with stage(mariadb_server, maxsize=1) as on:
            connection = await on.pool.acquire()
            on.events.clear()
            waiting = asyncio.create_task(on.pool._acquire())
            await on.comes((0, 1, 0, 1))
            assert on.kinds() == ["ConnectionRequested", "RequestQueued", "SaturationStarted"]
            await on.pool.release(connection)
            assert await waiting is connection
            (acquired,) = on.of(ConnectionAcquired)
            assert acquired.source is AcquireSource.HANDOFF
            assert on.kinds() == ["ConnectionReleased", "SaturationEnded", "ConnectionAcquired"]
            await on.pool.release(connection)

    run(main())


def test_who_waits_while_another_connects_is_in_line(mariadb_server: MariadbServer) -> None:
    async def main() -> None:
        async with stage(mariadb_server) as on:
            both = await asyncio.gather(on.pool.acquire(), on.pool.acquire())
            assert len(on.of(RequestQueued)) == len(on.of(ConnectStarted)) == 2
            requests = [event.request_id for event in on.of(RequestQueued)]
            assert [event.request_id for event in on.of(ConnectStarted)] == requests
            for connection in both:
                await on.pool.release(connection)

    run(main())


def test_what_minsize_lacks_is_opened_for_nobody(mariadb_server: MariadbServer) -> None:
    async def main() -> None:
        async with stage(mariadb_server, minsize=2, maxsize=3) as on:
            assert on.source.metrics.opened == 2
            assert on.levels() == (2, 0, 0, 0)
            first, second = await on.pool.acquire(), await on.pool.acquire()
            await first.ensure_closed()
            await on.pool.release(first)
            await on.pool.release(second)
            on.events.clear()
            async with on.pool.acquire():
                pass
            (request,), (connect,) = on.of(RequestQueued), on.of(ConnectStarted)
            assert connect.request_id == 0 < request.request_id

    run(main())


def test_an_acquire_given_up_counts_as_cancelled(mariadb_server: MariadbServer) -> None:
    async def main() -> None:
        async with stage(mariadb_server, maxsize=1) as on:
            async with on.pool.acquire():
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(on.pool.acquire(), 0.01)
            (failed,) = on.of(AcquireFailed)
            assert failed.reason is FailureReason.CANCELLED
            assert failed.wait >= 0.01
            assert on.levels() == (1, 0, 0, 0)

    run(main())


def test_a_refused_connect_fails_its_request(mariadb_server: MariadbServer) -> None:
    async def main() -> None:
        async with stage(mariadb_server, port=1) as on:
            with pytest.raises(aiomysql.OperationalError) as caught:
                await on.pool.acquire()
            (connect,), (request,) = on.of(ConnectFailed), on.of(AcquireFailed)
            assert connect.error is request.error is caught.value
            assert (connect.fault, request.reason) == (
                ConnectFault.REFUSED,
                FailureReason.CONNECT_FAILED,
            )
            assert on.levels() == (0, 0, 0, 0)

    run(main())


def test_a_wrong_password_fails_the_request_and_is_nowhere(
    mariadb_server: MariadbServer, caplog: pytest.LogCaptureFixture
) -> None:
    canary = "canary-42"

    async def main() -> None:
        async with stage(mariadb_server, password=canary) as on:
            with pytest.raises(aiomysql.OperationalError):
                await on.pool.acquire()
            (connect,) = on.of(ConnectFailed)
            assert connect.fault is ConnectFault.AUTH
            said = [on.source.name, repr(on.source), repr(on.source.target), *map(repr, on.events)]
            assert canary not in "".join(said)

    run(main())
    assert canary not in caplog.text


def test_a_connect_cut_short_is_abandoned(mariadb_server: MariadbServer) -> None:
    async def main() -> None:
        async with stage(mariadb_server) as on:
            task = asyncio.create_task(on.pool._acquire())
            await asyncio.sleep(0)
            assert on.levels() == (0, 0, 1, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            (connect,), (request,) = on.of(ConnectFailed), on.of(AcquireFailed)
            assert connect.fault is ConnectFault.ABANDONED
            assert request.reason is FailureReason.CANCELLED
            assert on.levels() == (0, 0, 0, 0)

    run(main())


def test_a_closed_pool_refuses(mariadb_server: MariadbServer) -> None:
    async def main() -> None:
        async with stage(mariadb_server) as on:
            on.pool.close()
            assert on.source.stats().state == "closing"
            with pytest.raises(RuntimeError, match="after closing pool"):
                await on.pool.acquire()
            (failed,) = on.of(AcquireFailed)
            assert failed.reason is FailureReason.CLOSED
            assert on.kinds() == ["ConnectionRequested", "AcquireFailed"]
            await on.pool.wait_closed()
            assert on.kinds() == ["PoolClosed"]

    run(main())


async def expires(on: Stage, connection: Any) -> None:
    await on.pool.release(connection)
    await asyncio.sleep(0.01)


async def breaks_idle(on: Stage, connection: Any) -> None:
    killed, reader = await number(connection), connection._reader
    await on.pool.release(connection)
    async with aiomysql.connect(**on.options) as other:
        await other.kill(killed)
    await until(reader.at_eof)


async def breaks_in_use(on: Stage, connection: Any) -> None:
    async with aiomysql.connect(**on.options) as other:
        await other.kill(await number(connection))
    with pytest.raises(aiomysql.OperationalError):
        await ask(connection, "select 1")
    assert on.closed() == []
    assert on.levels() == (0, 1, 0, 0)
    await on.pool.release(connection)


async def returns_in_transaction(on: Stage, connection: Any) -> None:
    await connection.begin()
    await on.pool.release(connection)


async def is_cut_short(on: Stage, connection: Any) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask(connection, "select sleep(10)"), 0.05)
    await on.pool.release(connection)


async def is_cleared(on: Stage, connection: Any) -> None:
    await on.pool.release(connection)
    await on.pool.clear()


async def closes_with_its_pool(on: Stage, connection: Any) -> None:
    await on.pool.release(connection)
    on.pool.close()
    await on.pool.wait_closed()


async def returns_to_a_closed_pool(on: Stage, connection: Any) -> None:
    on.pool.close()
    await on.pool.release(connection)


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        (expires, CloseReason.LIFETIME),
        (breaks_idle, CloseReason.BROKEN),
        (breaks_in_use, CloseReason.BROKEN),
        (returns_in_transaction, CloseReason.DIRTY),
        (is_cut_short, CloseReason.DIRTY),
        (is_cleared, CloseReason.STALE),
        (closes_with_its_pool, CloseReason.POOL_CLOSED),
        (returns_to_a_closed_pool, CloseReason.POOL_CLOSED),
    ],
)
def test_each_close_has_its_reason(
    mariadb_server: MariadbServer, ends: Any, reason: CloseReason
) -> None:
    async def main() -> None:
        recycle = 0 if ends is expires else -1
        async with stage(mariadb_server, pool_recycle=recycle) as on:
            connection = await on.pool.acquire()
            await ends(on, connection)
            if not on.pool._closing:
                async with on.pool.acquire() as other:
                    assert other is not connection
            assert on.closed() == [reason]
            assert on.source.metrics.opened == 1 + sum(on.levels())

    run(main())


def test_terminate_takes_connections_from_their_holders(mariadb_server: MariadbServer) -> None:
    async def main() -> None:
        async with stage(mariadb_server) as on:
            held, idle = await on.pool.acquire(), await on.pool.acquire()
            await on.pool.release(idle)
            on.events.clear()
            on.pool.terminate()
            assert on.kinds() == ["LeakReclaimed", "ConnectionClosed"]
            assert on.levels() == (1, 0, 0, 0)
            await on.pool.release(held)
            await on.pool.wait_closed()
            assert on.kinds() == ["ConnectionClosed", "PoolClosed"]

    run(main())
