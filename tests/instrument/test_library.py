"""How pools of other libraries come to be observed, tried on a library as small as can be."""

import gc
import inspect
import logging
import os
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from poolscope import registry
from poolscope.events import PoolClosed, PoolOpened
from poolscope.instrument.library import meet_all
from poolscope.instrument.patches import Patches
from poolscope.instrument.source import ForeignPool
from poolscope.reasons import CloseReason
from poolscope.testing import Replay
from tests.instrument.toy import ToyLibrary, ToyPool


@pytest.fixture
def toys() -> Iterator[ToyLibrary]:
    library = ToyLibrary()
    before = dict(vars(ToyPool))
    yield library
    library.uninstrument()
    assert dict(vars(ToyPool)) == before


def observed(library: ToyLibrary, pool: ToyPool, name: str | None = "toys") -> ForeignPool:
    source = library.observe(pool, name)
    assert source is not None
    return source


def use(pool: ToyPool) -> None:
    pool.put(pool.get())


def names() -> list[str]:
    return [source.name for source in registry.live()]


def test_what_is_replaced_looks_as_before_and_is_put_back_exactly(toys: ToyLibrary) -> None:
    before, signature = dict(vars(ToyPool)), inspect.signature(ToyPool.get)
    toys.instrument()
    assert dict(vars(ToyPool)) != before
    assert inspect.signature(ToyPool.get) == signature
    assert (ToyPool.get.__name__, ToyPool.get.__doc__) == ("get", "Lend a connection.")
    toys.uninstrument()
    assert list(vars(ToyPool).items()) == list(before.items())


def test_instrumenting_and_observing_again_change_nothing(toys: ToyLibrary) -> None:
    toys.instrument()
    replaced = dict(vars(ToyPool))
    pool = ToyPool()
    source = observed(toys, pool)
    toys.instrument()
    assert observed(toys, pool, "another name") is source
    assert dict(vars(ToyPool)) == replaced
    use(pool)
    assert source.metrics.connection_requests == 1
    assert names() == ["toys"]


def test_one_observed_pool_does_not_have_the_others_observed(toys: ToyLibrary) -> None:
    one, other = ToyPool(), ToyPool()
    source = observed(toys, one)
    use(one)
    use(other)
    assert names() == ["toys"]
    assert source.metrics.connection_requests == 1


def test_pools_that_are_there_already_are_met_with_what_they_have_out(toys: ToyLibrary) -> None:
    pool = ToyPool()
    pool.put(pool.get())
    early = pool.get()
    toys.instrument()
    meet_all([toys])
    (source,) = registry.live()
    assert (source.stats().in_use, source.stats().idle) == (1, 0)
    pool.put(early)
    assert source.metrics.use.count == 0, "nobody knows when it was lent"
    use(pool)
    assert (source.stats().in_use, source.stats().idle) == (0, 1)
    assert (source.metrics.wait.count, source.metrics.use.count) == (1, 1)


def test_a_pool_that_was_not_found_is_met_when_it_is_used(toys: ToyLibrary) -> None:
    pool = ToyPool()
    toys.instrument()
    assert names() == []
    use(pool)
    assert names() == ["pool-1"]


def test_a_closed_handle_leaves_the_pool_alone_until_it_is_observed_again(
    toys: ToyLibrary,
) -> None:
    toys.instrument()
    pool = ToyPool()
    source = observed(toys, pool)
    events: list[Any] = []
    source.bus.subscribe(events.append)
    connection = pool.get()
    source.close()
    source.close()
    pool.put(connection)
    use(pool)
    assert [type(event) for event in events][-1] is PoolClosed
    assert source.stats().state == "closed"
    assert names() == []
    assert vars(pool).keys() == {"size", "idle", "out"}
    assert observed(toys, pool) is not source


def test_the_last_handle_puts_everything_back(toys: ToyLibrary) -> None:
    before = dict(vars(ToyPool))
    one, other = observed(toys, ToyPool()), observed(toys, kept := ToyPool())
    one.close()
    assert dict(vars(ToyPool)) != before
    other.close()
    assert dict(vars(ToyPool)) == before
    use(kept)


def test_a_pool_that_closes_is_seen_until_its_last_connection_is_back(toys: ToyLibrary) -> None:
    pool = ToyPool()
    source, replay = observed(toys, pool), Replay()
    source.bus.subscribe(replay)
    out = pool.get()
    pool.close()
    assert names() == ["toys"]
    pool.put(out)
    assert names() == []
    assert replay.faults == []


def test_an_observed_pool_is_collected_as_before(toys: ToyLibrary) -> None:
    toys.instrument()
    pool = ToyPool()
    source = observed(toys, pool)
    heard: list[Any] = []
    source.bus.subscribe(heard.append, PoolClosed)
    gone, forgotten = weakref.ref(pool), weakref.ref(source)
    gc.disable()
    try:
        use(pool)
        del pool, source
        assert gone() is None
        assert forgotten() is None
    finally:
        gc.enable()
    assert [type(event) for event in heard] == [PoolClosed]
    assert names() == []


def test_ten_thousand_pools_leave_nothing(toys: ToyLibrary) -> None:
    toys.instrument()
    for _ in range(10_000):
        use(ToyPool())
    assert names() == []
    assert len(gc.get_referrers(toys)) < 50


def test_pools_of_one_name_are_told_apart(toys: ToyLibrary) -> None:
    pools = [ToyPool(), ToyPool()]
    sources = [observed(toys, pool) for pool in pools]
    use(pools[0])
    assert [source.name for source in sources] == ["toys", "toys-2"]
    assert [source.metrics.connection_requests for source in sources] == [1, 0]


def test_an_unknown_version_costs_one_line_in_the_log(
    toys: ToyLibrary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = dict(vars(ToyPool))
    monkeypatch.setattr(ToyLibrary, "kinds", lambda _: (ToyPool,))
    monkeypatch.delattr(ToyPool, "close")
    with caplog.at_level(logging.INFO, "poolscope"):
        assert not toys.instrument()
        assert not toys.instrument()
        assert toys.observe(ToyPool(), None) is None
    use(ToyPool())
    (record,) = caplog.records
    text = record.getMessage()
    assert "toy-pools (unknown) are not observed" in text
    assert "1.0 to 2.0" in text
    assert "AttributeError" in text
    assert dict(vars(ToyPool)) == {k: v for k, v in before.items() if k != "close"}
    monkeypatch.undo()


def test_a_pool_that_cannot_be_read_costs_one_line_in_the_log(
    toys: ToyLibrary, caplog: pytest.LogCaptureFixture
) -> None:
    toys.instrument()
    pools = [ToyPool(), ToyPool()]
    for pool in pools:
        del pool.size
        pool.out, pool.idle = [], [object()]  # type: ignore[list-item]
    with caplog.at_level(logging.INFO, "poolscope"):
        for pool in pools:
            pool.put(pool.get())
            pool.put(pool.get())
    assert len(caplog.records) == 1
    assert names() == []


def test_wrappers_that_somebody_put_around_ours_stay_and_do_no_harm() -> None:
    library = ToyLibrary()
    original = ToyPool.get
    library.instrument()
    ours = ToyPool.get

    def theirs(pool: ToyPool, *args: Any) -> Any:
        return ours(pool, *args)

    ToyPool.get = theirs  # type: ignore[assignment]
    library.uninstrument()
    try:
        assert ToyPool.get is theirs
        pool = ToyPool()
        use(pool)
        assert names() == []
    finally:
        ToyPool.get = original  # type: ignore[method-assign]


def test_an_inherited_method_is_inherited_again() -> None:
    class Child(ToyPool):
        pass

    patches = Patches()
    patches.wrap(Child, "get", lambda inner: lambda pool: inner(pool))
    assert "get" in vars(Child)
    patches.undo()
    assert "get" not in vars(Child)


def test_a_forked_child_counts_from_zero_and_leaves_the_parents_to_it(toys: ToyLibrary) -> None:
    pool = ToyPool()
    source = observed(toys, pool)
    out = pool.get()
    if (child := os.fork()) == 0:
        pool.put(out)
        fresh = (source.metrics.connection_requests, source.metrics.use.count, source.leases)
        os._exit(0 if fresh == (0, 0, {}) and source.inherited else 1)
    assert os.waitpid(child, 0)[1] == 0
    pool.put(out)
    assert source.metrics.use.count == 1


def test_who_subscribes_to_all_pools_hears_of_observed_ones(toys: ToyLibrary) -> None:
    from poolscope.bus import ROOT

    heard: list[Any] = []
    with ROOT.subscribe(heard.append, PoolOpened, PoolClosed):
        observed(toys, ToyPool()).close()
    assert [(type(event), event.pool) for event in heard] == [
        (PoolOpened, "toys"),
        (PoolClosed, "toys"),
    ]


def test_the_books_of_an_observed_pool_balance(toys: ToyLibrary) -> None:
    pool = ToyPool(size=2)
    source, replay = observed(toys, pool), Replay()
    source.bus.subscribe(replay)
    held = [pool.get(), pool.get()]
    with pytest.raises(TimeoutError, match="none is free"):
        pool.get()
    replay.check(source.stats())
    for connection in held:
        pool.put(connection)
    source.closed(held[0], CloseReason.BROKEN)
    pool.idle.remove(held[0])
    source.closed(held[0], CloseReason.BROKEN)
    replay.check(source.stats())
    assert source.metrics.to_dict()["failures"] == {"timeout": 1}
    assert source.metrics.to_dict()["closed"] == {"broken": 1}


def test_saturation_is_told_while_requests_wait_and_all_are_in_use(toys: ToyLibrary) -> None:
    pool = ToyPool(size=1)
    source, replay = observed(toys, pool), Replay()
    source.bus.subscribe(replay)
    out = pool.get()
    waiting = source.requested()
    source.queued(waiting)
    source.queued(waiting)
    assert source.stats().saturated_for > 0
    replay.check(source.stats())
    pool.put(out)
    source.acquired(waiting, pool.idle[0])
    assert source.stats().saturated_for == 0
    assert source.stats().saturation_time > 0
    assert replay.faults == []
