import pytest

from poolscope import ConnectFailedError, ConnectionPool, ConnectionPoolSettings, PoolManager
from poolscope.testing import Ledger, run_virtual

pytestmark = pytest.mark.driver("asyncio")


def test_pools_are_found_by_name_and_closed_together():
    async def main():
        ledger = Ledger()
        manager = PoolManager()
        orders = await manager.create_pool("orders", ledger.open, close_func=ledger.close)
        users = await manager.create_pool("users", ledger.open, None, None, ledger.close)
        assert orders.name == "orders"
        assert await manager.get_pool("orders") is orders
        assert await manager.get_pool("unknown") is None
        async with users.connection():
            pass
        assert {name: m.acquired for name, m in manager.get_metrics().items()} == {
            "orders": 0,
            "users": 1,
        }
        await manager.close_pool("orders")
        await manager.close_pool("orders")
        assert await manager.get_pool("orders") is None
        await manager.close_all_pools()
        assert manager.get_metrics() == {}
        ledger.audit()

    run_virtual(main())


def test_a_name_in_use_is_refused_and_the_pool_goes_on():
    async def main():
        async with PoolManager() as manager:
            pool = await manager.create_pool("db", Ledger().open)
            with pytest.raises(ValueError, match="there is a pool named 'db' already"):
                await manager.create_pool("db", Ledger().open)
            assert await manager.get_pool("db") is pool
            async with pool.connection():
                pass

    run_virtual(main())


def test_a_pool_that_cannot_open_is_not_kept():
    async def main():
        def refuse():
            raise ConnectionRefusedError

        async with PoolManager() as manager:
            with pytest.raises(ConnectFailedError):
                await manager.create_pool("db", refuse, ConnectionPoolSettings(retry_limit=0))
            assert await manager.get_pool("db") is None
            await manager.create_pool("db", Ledger().open)

    run_virtual(main())


def test_a_pool_made_elsewhere_can_be_added():
    async def main():
        manager = PoolManager(metrics_enabled=True)
        pool = ConnectionPool(object, ConnectionPoolSettings(name="mine"))
        manager.add_pool(pool)
        assert await manager.get_pool("mine") is pool
        await manager.close_all()

    run_virtual(main())


def test_without_metrics_the_pools_count_nothing():
    async def main():
        async with PoolManager(metrics_enabled=False) as manager:
            pool = await manager.create_pool("db", Ledger().open)
            async with pool.connection():
                assert pool.get_metrics().acquired == 0

    run_virtual(main())


def test_the_summary_names_each_pool(capsys):
    async def main():
        async with PoolManager() as manager:
            await manager.create_pool("orders", Ledger().open)
            manager.print_summary()
            manager.print_metrics()

    run_virtual(main())
    assert capsys.readouterr().out.count("pool orders") == 2
