"""A pool for threads, called where an event loop runs."""

import asyncio
import warnings

import pytest

from poolscope import ConnectionPoolSettings, SyncConnectionPool
from poolscope.events import Misuse, MisuseDetected
from tests.threads.real import RealLedger


def test_who_stops_an_event_loop_is_warned_once_per_pool() -> None:
    async def main() -> None:
        for _ in range(3):
            with pool.connection():
                pass
        pool.release(pool.acquire())

    ledger = RealLedger()
    told: list[MisuseDetected] = []
    with SyncConnectionPool(
        ledger.open, ConnectionPoolSettings(name="for-threads"), close_func=ledger.close
    ) as pool:
        pool.bus.subscribe(told.append, MisuseDetected)
        with pytest.warns(RuntimeWarning, match=r"for-threads.*asyncio\.to_thread") as caught:
            asyncio.run(main())
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert [event.misuse for event in told] == [Misuse.BLOCKED_LOOP]
    ledger.audit()


@pytest.mark.parametrize("how", ["acquire", "initialize", "wait_ready"])
def test_each_way_to_wait_warns_and_names_the_line(how: str) -> None:
    async def main() -> None:
        with pytest.warns(RuntimeWarning, match="ConnectionPool") as caught:
            result = getattr(pool, how)()
        assert [each.filename for each in caught] == [__file__]
        if how == "acquire":
            pool.release(result)
        pool.close()

    ledger = RealLedger()
    pool = SyncConnectionPool(ledger.open, close_func=ledger.close)
    asyncio.run(main())
    ledger.audit()


def test_in_a_thread_beside_a_loop_a_pool_may_wait() -> None:
    def use() -> None:
        with pool.connection() as connection:
            connection.use()

    async def main() -> None:
        await asyncio.gather(*(asyncio.to_thread(use) for _ in range(5)))

    ledger = RealLedger()
    with (
        warnings.catch_warnings(),
        SyncConnectionPool(ledger.open, close_func=ledger.close) as pool,
    ):
        warnings.simplefilter("error")
        asyncio.run(main())
    ledger.audit()
