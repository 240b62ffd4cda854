"""Cancellation at every moment: it reaches the caller, and the pool loses nothing by it."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from poolscope.errors import PoolError
from tests.behaviour.bench import Driver, kill_threads
from tests.behaviour.stage import (
    BEHAVIOURS,
    COMMON,
    FINE,
    HOOKS,
    Body,
    Scene,
    Stage,
    all_in_use,
    borrow,
    borrow_by_hand,
    borrow_two,
    nothing_open,
    one_dead,
    one_idle,
    one_is_connecting,
    one_is_reset,
    one_is_validated,
    one_returns_and_one_never_does,
)
from tests.behaviour.strikes import KINDS, Kind, Victim, sweep

TROUBLES = [how for how in BEHAVIOURS if how != "ok"]
SCENES: tuple[Scene, ...] = (nothing_open, one_idle, one_dead, all_in_use)
CLOSING: tuple[Scene, ...] = (
    one_idle,
    one_returns_and_one_never_does,
    one_is_connecting,
    one_is_validated,
    one_is_reset,
)
PAIRS: tuple[tuple[Kind, Kind], ...] = (
    ("task.cancel", "task.cancel"),
    ("asyncio.timeout", "task.cancel"),
    ("anyio scope", "asyncio.timeout"),
)


async def play(
    stage: Stage, scene: Scene, body: Body, victim: Victim, *, others: int = 2
) -> BaseException | None:
    """Let the victim suffer among others; return what came out of it."""
    await scene(stage)
    stage.begin()
    task = asyncio.create_task(victim.suffer(body(stage)))
    for _ in range(others):
        stage.add_other()
    async with asyncio.timeout(300):
        await asyncio.wait({task})
    stage.repair()
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def judge(victim: Victim, outcome: BaseException | None, stage: Stage) -> None:
    """The caller hears of the cancellation, as its kind prescribes; without one all goes well."""
    if not victim.felt:
        assert outcome is None or (isinstance(outcome, PoolError) and stage.hooks != FINE), outcome
    elif victim.strikes == 1:
        expected = {
            "task.cancel": asyncio.CancelledError,
            "asyncio.timeout": TimeoutError,
            "anyio scope": type(None),
        }
        assert type(outcome) is expected[victim.kinds[0]]
    else:
        assert outcome is None or isinstance(outcome, asyncio.CancelledError | TimeoutError)


def borrower(
    scene: Scene,
    body: Body = borrow,
    hooks: Mapping[str, str] = FINE,
    *,
    careful: bool = True,
    others: int = 2,
) -> Callable[[Victim], Awaitable[None]]:
    """Strike one who borrows; then see that all others, and all that comes after, is well."""

    async def act(victim: Victim) -> None:
        stage = Stage(hooks, careful=careful)
        outcome = await play(stage, scene, body, victim, others=others)
        await stage.others_are_served()
        await stage.all_connections_can_be_had()
        await stage.nothing_is_left()
        judge(victim, outcome, stage)

    return act


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [borrow, borrow_by_hand, borrow_two])
@pytest.mark.parametrize("scene", SCENES)
def test_a_strike_at_any_moment_of_borrowing_loses_nothing(
    scene: Scene, body: Body, kind: Kind
) -> None:
    assert sweep(borrower(scene, body), [kind]) > 20


@pytest.mark.parametrize("kinds", PAIRS, ids=" then ".join)
@pytest.mark.parametrize("scene", SCENES)
def test_a_second_strike_at_any_moment_after_the_first_loses_nothing(
    scene: Scene, kinds: Sequence[Kind]
) -> None:
    assert sweep(borrower(scene), kinds) > 40


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scene", [nothing_open, one_idle, all_in_use])
def test_without_reset_and_validation_an_interrupted_connection_is_never_lent_again(
    scene: Scene, kind: Kind
) -> None:
    assert sweep(borrower(scene, borrow_two, careful=False), [kind]) > 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", TROUBLES)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_strike_while_one_hook_is_in_trouble_loses_nothing(
    hook: str, how: str, kind: Kind
) -> None:
    assert sweep(borrower(one_idle, hooks=FINE | {hook: how}, others=1), [kind]) > 10


@pytest.mark.parametrize("validate", COMMON)
@pytest.mark.parametrize("connect", COMMON)
def test_a_strike_while_any_hooks_are_in_trouble_loses_nothing(connect: str, validate: str) -> None:
    for reset, close in itertools.product(COMMON, repeat=2):
        hooks = dict(zip(HOOKS, (connect, validate, reset, close), strict=True))
        sweep(borrower(one_idle, hooks=hooks, others=1), ["task.cancel"], every=5)


async def close(stage: Stage) -> None:
    await stage.pool.close(timeout=3.0)


def closer(scene: Scene, hooks: Mapping[str, str] = FINE) -> Callable[[Victim], Awaitable[None]]:
    """Strike one who closes; then see that the pool is closed in time all the same."""

    async def act(victim: Victim) -> None:
        stage = Stage(hooks)
        loop = asyncio.get_running_loop()
        outcome = await play(stage, scene, close, victim)
        await stage.pool.close()
        assert loop.time() <= stage.began + 3.0
        assert (stage.pool.stats().state, stage.pool.stats().size) == ("closed", 0)
        stage.ledger.audit()
        for other in stage.others:
            other.cancel()
        await asyncio.wait(stage.others)
        assert stage.refusals
        await stage.nothing_is_left()
        judge(victim, outcome, stage)

    return act


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scene", CLOSING)
def test_a_strike_at_any_moment_of_closing_does_not_stop_it(scene: Scene, kind: Kind) -> None:
    assert sweep(closer(scene), [kind]) > 5


@pytest.mark.parametrize("kinds", PAIRS, ids=" then ".join)
@pytest.mark.parametrize("scene", CLOSING)
def test_a_second_strike_does_not_stop_closing_either(scene: Scene, kinds: Sequence[Kind]) -> None:
    sweep(closer(scene), kinds)


@pytest.mark.parametrize("how", TROUBLES)
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("scene", CLOSING)
def test_a_strike_does_not_stop_closing_with_a_hook_in_trouble(
    scene: Scene, hook: str, how: str
) -> None:
    sweep(closer(scene, FINE | {hook: how}), ["task.cancel"], every=2)


async def open_pool(stage: Stage) -> None:
    await stage.pool.initialize()


def opener(hooks: Mapping[str, str] = FINE) -> Callable[[Victim], Awaitable[None]]:
    """Strike one who opens; then see that nothing is left, and that it can be opened again."""

    async def act(victim: Victim) -> None:
        stage = Stage(hooks, min_size=2)
        outcome = await play(stage, nothing_open, open_pool, victim, others=0)
        if outcome is not None or victim.felt:
            # Whoever is struck again, or cannot wait in a cancelled scope, leaves it to the pool.
            # No thread can be stopped: what it still opens is closed when it comes.
            alone = victim.strikes > 1 or "anyio scope" in victim.kinds
            late = "stubborn" in hooks.values() or Driver.name == "threads"
            await asyncio.sleep(10 if alone or late else 0)
            await kill_threads(stage.pool)
            stage.ledger.audit()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await stage.pool.initialize()
        await stage.all_connections_can_be_had()
        await stage.nothing_is_left()
        judge(victim, outcome, stage)

    return act


@pytest.mark.parametrize("kind", KINDS)
def test_a_strike_at_any_moment_of_opening_leaves_nothing_behind(kind: Kind) -> None:
    assert sweep(opener(), [kind]) > 5


@pytest.mark.parametrize("kinds", PAIRS, ids=" then ".join)
def test_a_second_strike_while_opening_leaves_nothing_behind_either(kinds: Sequence[Kind]) -> None:
    assert sweep(opener(), kinds) > 10


@pytest.mark.parametrize("how", TROUBLES)
@pytest.mark.parametrize("hook", ["open", "close"])
def test_a_strike_while_opening_fails_leaves_nothing_behind(hook: str, how: str) -> None:
    assert sweep(opener(FINE | {hook: how}), ["task.cancel"]) > 5
