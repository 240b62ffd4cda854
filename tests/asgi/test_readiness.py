import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from poolscope import ConnectionPool, ConnectionPoolSettings, PoolManager
from poolscope.asgi import ConnectionPoolMiddleware, readiness
from poolscope.testing import Ledger, run_virtual
from tests.asgi.serving import CANARY, client_of, database_in, raw, serving
from tests.support import run


@asynccontextmanager
async def managed(
    factory: Any, *, opened: bool = True, **settings: Any
) -> AsyncIterator[tuple[PoolManager, ConnectionPool[Any]]]:
    clock = asyncio.get_running_loop().time
    async with PoolManager() as manager:
        given = ConnectionPoolSettings(name="db", **settings)
        pool: ConnectionPool[Any] = ConnectionPool(factory, given, clock=clock)
        manager.add_pool(pool)
        if opened:
            await pool.initialize()
        yield manager, pool


def refuse() -> None:
    raise ConnectionRefusedError(CANARY)


def reason(manager: PoolManager) -> object:
    ready, report = readiness(manager)
    assert ready == report["ready"]
    assert CANARY not in json.dumps(report)
    return report["pools"]["db"]["reason"]


def test_an_open_pool_is_ready_and_its_levels_are_told() -> None:
    async def main() -> None:
        async with managed(Ledger().open, max_size=3) as (manager, pool), pool.connection():
            assert readiness(manager) == (
                True,
                {
                    "ready": True,
                    "pools": {
                        "db": {
                            "ready": True, "reason": None, "state": "open", "in_use": 1, "idle": 0,
                            "connecting": 0, "waiting": 0, "max_size": 3, "saturated_for": 0.0,
                            "failing_for": 0.0,
                        }
                    },
                },
            )  # fmt: skip

    run_virtual(main())


def test_a_saturated_pool_is_ready_and_says_for_how_long() -> None:
    async def main() -> None:
        async with managed(Ledger().open, max_size=1) as (manager, pool), pool.connection():
            waiting = asyncio.create_task(pool.acquire())
            await asyncio.sleep(3)
            ready, report = readiness(manager)
            assert ready
            assert report["pools"]["db"]["saturated_for"] == 3
            assert report["pools"]["db"]["waiting"] == 1
            waiting.cancel()
            await asyncio.wait({waiting})

    run_virtual(main())


def test_a_pool_without_connections_that_cannot_connect_is_not_ready_until_it_can() -> None:
    async def main() -> None:
        ledger = Ledger()
        ledger.scripts["open"] += [refuse] * 4
        async with managed(ledger.open, opened=False) as (manager, pool):
            with suppress(TimeoutError):
                await pool.wait_ready(0)
            assert reason(manager) == "opening"
            await asyncio.sleep(0.1)
            assert reason(manager) == "connects fail (refused)"
            assert readiness(manager).report["pools"]["db"]["failing_for"] > 0
            await pool.wait_ready(timeout=60)
            assert reason(manager) is None
            assert readiness(manager).report["pools"]["db"]["failing_for"] == 0

    run_virtual(main())


def test_connects_that_fail_do_not_count_while_a_connection_is_open() -> None:
    async def main() -> None:
        ledger = Ledger()
        async with managed(ledger.open, acquire_timeout=0.5) as (manager, pool), pool.connection():
            ledger.scripts["open"] += [refuse] * 9
            with pytest.raises(TimeoutError):
                await pool.acquire()
            assert reason(manager) is None
            assert readiness(manager).report["pools"]["db"]["failing_for"] > 0

    run_virtual(main())


def test_a_pool_that_connects_only_on_demand_is_tried_again_after_ten_seconds() -> None:
    async def main() -> None:
        ledger = Ledger()
        async with managed(ledger.open, min_size=0, retry_limit=0) as (manager, pool):
            assert reason(manager) is None
            ledger.scripts["open"] += [refuse]
            with pytest.raises(Exception, match="could not connect"):
                await pool.acquire()
            assert reason(manager) == "connects fail (refused)"
            await asyncio.sleep(9.9)
            assert reason(manager) == "connects fail (refused)"
            await asyncio.sleep(0.2)
            assert reason(manager) is None

    run_virtual(main())


def test_a_closed_pool_is_not_ready() -> None:
    async def main() -> None:
        async with managed(Ledger().open) as (manager, pool):
            await pool.close()
            assert reason(manager) == "closed"

    run_virtual(main())


def test_a_pool_that_opens_with_its_first_use_is_ready() -> None:
    async def main() -> None:
        async with managed(Ledger().open, opened=False) as (manager, _):
            assert reason(manager) is None

    run_virtual(main())


def test_the_path_is_answered_by_the_middleware_and_others_by_the_application(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        pools = ConnectionPoolMiddleware(
            raw(lambda _: asyncio.sleep(0)), database_in(tmp_path), readiness_path="/healthz"
        )
        async with serving(pools) as client:
            answer = await client.get("/healthz")
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["cache-control"] == "no-store"
            assert answer.json()["pools"]["database"]["ready"] is True
            head = await client.head("/healthz")
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == str(len(answer.content))
            assert (await client.get("/healthz/more")).text == "ok"
            assert (await client.post("/healthz")).text == "ok"

    run(main())


def test_the_path_is_found_below_the_root_path_of_the_server(tmp_path: Path) -> None:
    async def main() -> None:
        pools = ConnectionPoolMiddleware(
            raw(lambda _: asyncio.sleep(0)), database_in(tmp_path), readiness_path="/healthz"
        )

        async def mounted(scope: Any, receive: Any, send: Any) -> None:
            root = {"root_path": "/api", "path": f"/api{scope['path']}"}
            await pools({**scope, **root}, receive, send)

        await pools.initialize()
        async with client_of(mounted) as client:
            assert (await client.get("/healthz")).json()["ready"] is True
        await pools.shutdown()

    run(main())


def test_asking_whether_it_is_ready_opens_the_pools_of_a_server_without_lifespan(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        pools = ConnectionPoolMiddleware(
            raw(lambda _: asyncio.sleep(0)), database_in(tmp_path), readiness_path="/healthz"
        )
        async with client_of(pools) as client:
            answer = await client.get("/healthz")
            assert (answer.status_code, answer.json()["reason"]) == (503, "opening")
            async with asyncio.timeout(10):
                while (await client.get("/healthz")).status_code != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        await pools.shutdown()

    run(main())


def test_pools_that_could_not_open_say_why_without_a_secret() -> None:
    async def main() -> None:
        url = f"postgresql://app:{CANARY}@127.0.0.1:1/{CANARY}"
        pools = ConnectionPoolMiddleware(url, retry_limit=0)
        with pytest.raises(Exception, match="could not connect"):
            await pools.initialize()
        ready, report = pools.readiness()
        assert not ready
        assert report["reason"] == "not open (ConnectFailedError: refused)"
        await pools.shutdown()

    run(main())
