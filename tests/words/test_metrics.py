import asyncio
import json
import threading
from datetime import datetime

import pytest

from poolscope import ConnectionPoolMetrics, PoolTimeoutError
from poolscope.events import FailureReason
from poolscope.histogram import Histogram
from poolscope.testing import run_virtual
from tests.behaviour.bench import bench

CONTRACT_KEYS = {
    "timestamp", "duration_seconds", "total_connections", "active_connections",
    "idle_connections", "max_connections", "connection_requests", "connection_timeouts",
    "connection_errors", "avg_acquisition_time_ms", "avg_release_time_ms", "pool_utilization",
    "error_rate",
}  # fmt: skip


def test_the_calls_of_the_contract_count_by_hand():
    metrics = ConnectionPoolMetrics()
    for _ in range(4):
        metrics.record_connection_request()
    metrics.record_connection_acquire("a", 0.010)
    metrics.record_connection_acquire("b", 0.030)
    metrics.record_connection_release("a", 0.002)
    metrics.record_connection_timeout()
    metrics.record_connection_error()
    assert metrics.connection_requests == 4
    assert (metrics.connection_timeouts, metrics.connection_errors) == (1, 1)
    assert metrics.error_rate == 0.5
    assert metrics.avg_acquisition_time == pytest.approx(20)
    assert metrics.avg_release_time == pytest.approx(2)
    assert (metrics.active_connections, metrics.idle_connections) == (1, 1)
    assert metrics.pool_utilization == 0.5
    assert list(metrics.acquisition_times) == [10, 30]


def test_the_error_rate_is_never_above_one():
    metrics = ConnectionPoolMetrics()
    for _ in range(5):
        metrics.record_connection_timeout()
        metrics.record_connection_error()
    assert metrics.error_rate == 1


def test_to_dict_has_the_keys_of_the_contract_and_is_json():
    metrics = ConnectionPoolMetrics()
    assert set(metrics.to_dict()) >= CONTRACT_KEYS
    assert datetime.fromisoformat(metrics.to_dict()["timestamp"])
    assert json.loads(metrics.to_json())["error_rate"] == 0
    assert "\n" not in metrics.to_json(pretty=False)


def test_a_report_can_be_saved_and_printed(tmp_path, capsys):
    metrics = ConnectionPoolMetrics()
    metrics.save(tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text())["connection_requests"] == 0
    metrics.print_summary()
    assert "error rate 0.0%" in capsys.readouterr().out


def test_every_reader_may_be_called_from_any_thread_while_the_pool_works():
    async def main():
        async with bench(max_size=3) as b:
            metrics, errors = b.pool.get_metrics(), []
            ended = threading.Event()

            def read():
                while not ended.is_set():
                    try:
                        metrics.to_json()
                        stats = b.pool.stats()
                        assert stats.size <= 3
                        repr(b.pool)
                    except Exception as error:
                        errors.append(error)

            readers = [threading.Thread(target=read) for _ in range(2)]
            for reader in readers:
                reader.start()
            for _ in range(20):
                await asyncio.gather(*(b.hold(0.001) for _ in range(50)))
            ended.set()
            for reader in readers:
                reader.join()
            assert not errors

    run_virtual(main())


def test_levels_are_read_from_the_pool_and_survive_a_reset():
    async def main():
        async with bench(min_size=1, max_size=4) as b:
            await b.pool.initialize()
            metrics = b.pool.get_metrics()
            async with b.pool.connection(), b.pool.connection():
                metrics.reset()
                assert metrics.total_connections == 2
                assert metrics.active_connections == 2
                assert metrics.max_connections == 4
                assert metrics.saturation == 0.5
                assert metrics.connection_requests == 0
            assert metrics.idle_connections == 2
            await b.pool.resize(0, 1)
            assert metrics.total_connections == 1

    run_virtual(main())


def test_counts_and_histograms_agree():
    async def main():
        async with bench(max_size=1, acquire_timeout=2) as b:
            metrics = b.pool.get_metrics()
            async with b.pool.connection():
                with pytest.raises(PoolTimeoutError):
                    await b.pool.acquire()
            cancelled = asyncio.create_task(b.hold(9))
            await asyncio.sleep(1)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            assert metrics.connection_requests == 3
            assert metrics.wait.count == metrics.acquired == 2
            assert metrics.failed_wait[FailureReason.TIMEOUT].count == 1
            assert metrics.use.count == metrics.released == 2
            assert metrics.create.count == metrics.opened + metrics.connect_failures
            assert metrics.use.sum == 2 + 1

    run_virtual(main())


def test_lists_of_timings_are_bounded():
    async def main():
        async with bench() as b:
            for _ in range(1000):
                await b.hold(0)
            metrics = b.pool.get_metrics()
            assert len(metrics.acquisition_times) == len(metrics.release_times) == 60
            assert metrics.acquired == 1000

    run_virtual(main())


def test_a_metrics_object_given_to_a_pool_is_the_one_that_counts():
    async def main():
        mine = ConnectionPoolMetrics()
        async with bench(functions={"metrics": mine}) as b:
            await b.hold(0)
            assert b.pool.get_metrics() is mine
            assert mine.acquired == 1

    run_virtual(main())


def test_a_bound_belongs_to_the_bucket_below_it():
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 2, 3):
        histogram.record(value)
    assert histogram.counts == [2, 2, 1]
    assert (histogram.count, histogram.sum, histogram.mean) == (5, 8, 1.6)


def test_a_quantile_is_interpolated_within_its_bucket():
    histogram = Histogram((1, 2))
    assert histogram.quantile(0.5) == 0
    for value in (0.5, 1.5, 1.5, 1.5):
        histogram.record(value)
    assert histogram.quantile(0.25) == 1
    assert histogram.quantile(1) == 2
    assert histogram.quantile(0.625) == 1.5
    histogram.record(99)
    assert histogram.quantile(0.99) == 2
