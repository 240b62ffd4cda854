"""The names of pools: unique among those that live, and few over time."""

import asyncio
import gc

import pytest

from poolscope import ConnectionPool, ConnectionPoolSettings, registry
from poolscope.testing import run_virtual

pytestmark = pytest.mark.driver("asyncio")


def make(name: str | None = None) -> ConnectionPool[object]:
    return ConnectionPool(object, ConnectionPoolSettings(name=name, min_size=0))


async def close(*pools: ConnectionPool[object]) -> None:
    await asyncio.gather(*(pool.close() for pool in pools))


def number(pool: ConnectionPool[object]) -> int:
    return int(pool.name.removeprefix("pool-"))


def test_unnamed_pools_that_live_together_have_numbers_of_their_own():
    async def main():
        pools = [make() for _ in range(5)]
        names = [pool.name for pool in pools]
        assert len(set(names)) == 5
        assert [registry.find(name).name for name in names] == names
        assert sorted(map(number, pools)) == list(map(number, pools))
        await close(*pools)
        assert [registry.find(name) for name in names] == [None] * 5

    run_virtual(main())


def test_the_number_of_a_closed_pool_is_given_again():
    async def main():
        one, two, three = make(), make(), make()
        names = [one.name, two.name, three.name]
        await close(two, one)
        again = [make(), make()]
        assert [pool.name for pool in again] == names[:2]
        following = make()
        assert number(following) > number(three)
        await close(*again, three, following)
        assert make().name == names[0]

    run_virtual(main())


def test_ten_thousand_unnamed_pools_one_after_the_other_have_one_name():
    async def main():
        names = set()
        for _ in range(10_000):
            async with make() as pool:
                names.add(pool.name)
        assert len(names) == 1

    run_virtual(main())


def test_a_pool_that_is_closed_twice_does_not_take_the_name_of_its_successor():
    async def main():
        first = make()
        await close(first)
        second = make()
        assert second.name == first.name
        await close(first)
        assert registry.find(second.name).name == second.name
        third = make()
        assert third.name != second.name
        await close(second, third)

    run_virtual(main())


def test_a_name_of_ones_own_that_looks_like_a_number_is_left_alone():
    async def main():
        unnamed = make()
        following = f"pool-{number(unnamed) + 1}"
        mine = make(following)
        assert mine.name == following
        other = make()
        assert number(other) == number(unnamed) + 2
        await close(mine)
        assert make().name == following
        await close(unnamed, other)

    run_virtual(main())


@pytest.mark.parametrize(
    "name",
    ["pool-0", "pool-007", "pool--1", "pool-x", "pool-\u0661", "pool-", f"pool-{'9':9>5000}"],
)
def test_no_name_of_ones_own_confuses_the_numbers(name):
    async def main():
        before = make()
        mine = make(name)
        assert mine.name == name
        await close(mine)
        again = make(name)
        assert again.name == name
        after = make()
        assert number(after) == number(before) + 1
        await close(before, again, after)

    run_virtual(main())


def test_a_name_of_ones_own_that_is_taken_gets_a_suffix():
    async def main():
        one, two, three = make("orders"), make("orders"), make("orders")
        assert [one.name, two.name, three.name] == ["orders", "orders-2", "orders-3"]
        await close(two)
        again = make("orders")
        assert again.name == "orders-2"
        await close(one, three, again)

    run_virtual(main())


def test_the_name_of_a_pool_that_was_lost_is_free():
    lost = make("lost")
    name = lost.name
    del lost
    gc.collect()
    assert registry.find(name) is None
    assert make("lost").name == name
