"""The API contract the project started from, name by name. Behaviour is tested in behaviour/."""

import asyncio
import inspect

import pytest

from poolscope import (
    ConnectionPool,
    ConnectionPoolMetrics,
    ConnectionPoolSettings,
    PoolManager,
    PoolTimeoutError,
    ReleaseError,
)
from poolscope.events import ConnectionAcquired, ConnectionClosed, ConnectionReleased
from poolscope.testing import run_virtual
from tests.behaviour.bench import bench


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (ConnectionPoolMetrics, []),
        (ConnectionPoolMetrics.reset, []),
        (ConnectionPoolMetrics.record_connection_request, []),
        (
            ConnectionPoolMetrics.record_connection_acquire,
            ["connection_id", "acquisition_time"],
        ),
        (ConnectionPoolMetrics.record_connection_release, ["connection_id", "release_time"]),
        (ConnectionPoolMetrics.record_connection_timeout, []),
        (ConnectionPoolMetrics.record_connection_error, []),
        (ConnectionPoolMetrics.to_dict, []),
        (ConnectionPoolMetrics.to_json, ["pretty"]),
        (ConnectionPoolMetrics.save, ["file_path"]),
        (ConnectionPoolMetrics.print_summary, []),
        (ConnectionPool, ["factory", "settings", "validate_func", "close_func", "metrics"]),
        (ConnectionPool.initialize, []),
        (ConnectionPool.acquire, []),
        (ConnectionPool.release, ["connection"]),
        (ConnectionPool.connection, []),
        (ConnectionPool.close, []),
        (ConnectionPool.get_metrics, []),
        (PoolManager, ["metrics_enabled"]),
        (
            PoolManager.create_pool,
            ["name", "factory", "settings", "validate_func", "close_func"],
        ),
        (PoolManager.get_pool, ["name"]),
        (PoolManager.close_pool, ["name"]),
        (PoolManager.close_all, []),
        (PoolManager.get_metrics, []),
        (PoolManager.print_summary, []),
        (PoolManager.add_pool, ["pool"]),
        (PoolManager.close_all_pools, []),
        (PoolManager.print_metrics, []),
    ],
    ids=lambda value: getattr(value, "__qualname__", None),
)
def test_the_calls_of_the_contract_take_its_arguments_first(function, expected):
    found = parameters(function)
    assert found[: len(expected)] == expected
    others = list(inspect.signature(function).parameters.values())[-len(found) or None :]
    assert all(
        p.default is not p.empty
        for p in others
        if p.name not in expected and p.name != "self" and p.kind is not p.VAR_KEYWORD
    )


@pytest.mark.parametrize(
    "name",
    [
        "start_time", "total_connections", "active_connections", "idle_connections",
        "max_connections", "connection_requests", "connection_timeouts", "connection_errors",
        "acquisition_times", "release_times", "connection_lifetimes", "avg_acquisition_time",
        "avg_release_time", "pool_utilization", "error_rate",
    ],
)  # fmt: skip
def test_metrics_have_the_attributes_of_the_contract(name):
    assert hasattr(ConnectionPoolMetrics(), name)


def test_acquire_raises_the_built_in_errors_of_the_contract():
    async def main():
        pool = ConnectionPool(object, ConnectionPoolSettings(max_size=1))
        async with pool, pool.connection():
            with pytest.raises(TimeoutError):
                await pool.acquire(timeout=0)
        with pytest.raises(RuntimeError):
            await pool.acquire()

    asyncio.run(main())


def test_pool_size_is_what_is_idle_and_active_connections_what_is_in_use():
    async def main():
        async with bench(max_size=3) as b:
            held = [await b.pool.acquire() for _ in range(3)]
            await b.pool.release(held.pop())
            assert (b.pool.pool_size, b.pool.active_connections) == (1, 2)
            metrics = b.pool.get_metrics()
            assert metrics.pool_utilization == 2 / 3
            for connection in held:
                await b.pool.release(connection)

    run_virtual(main())


def test_a_release_while_the_pool_closes_is_counted_and_one_that_comes_too_late_is_refused():
    async def main():
        async with bench(max_size=2) as b:
            in_time, late = await b.pool.acquire(), await b.pool.acquire()
            closing = asyncio.create_task(b.pool.close(timeout=2))
            await asyncio.sleep(1)
            await b.pool.release(in_time)
            assert b.count(ConnectionReleased) == 1
            await closing
            with pytest.raises(ReleaseError):
                await b.pool.release(late)
            assert b.pool.get_metrics().misuses == 1
            assert b.pool.active_connections == 0

    run_virtual(main())


def test_connections_have_serial_names_that_never_come_again():
    async def main():
        async with bench(max_size=1) as b:
            for _ in range(50):
                await b.hold(1)
                await b.pool.drain()
            names = [event.connection_id for event in b.replay.of(ConnectionAcquired)]
            assert names == [f"bench#{serial}" for serial in range(1, 51)]
            assert len({event.connection_id for event in b.replay.of(ConnectionClosed)}) == 50

    run_virtual(main())


def test_a_failed_request_is_counted_once_whatever_happens_to_it():
    async def main():
        async with bench(max_size=1) as b, b.pool.connection():
            for _ in range(3):
                with pytest.raises(PoolTimeoutError):
                    await b.pool.acquire(timeout=1)
            metrics = b.pool.get_metrics()
            counted = metrics.connection_timeouts + metrics.connection_errors
            assert counted == 3
            assert metrics.error_rate == 3 / 4

    run_virtual(main())
