"""Cancellation at every moment: it reaches the caller, and the pool loses nothing by it."""

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack

import pytest

from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.errors import PoolClosedError, PoolError
from poolscope.events import ConnectionRequested
from poolscope.testing import FakeConnection, Ledger, Replay, clock
from poolscope.testing.ledger import Behaviour, fail, never, slow
from tests.behaviour.strikes import KINDS, Kind, Victim, in_virtual_time

HOOKS = ("open", "validate", "reset", "close")
BEHAVIOURS: Mapping[str, Behaviour | None] = {
    "ok": None,
    "failing": fail(),
    "slow": slow(1.0),
    "never": never,
    "stubborn": lambda: ignore_cancellation(6.0),
}
COMMON = ("ok", "failing", "slow", "never")
FINE: Mapping[str, str] = dict.fromkeys(HOOKS, "ok")


async def ignore_cancellation(seconds: float) -> None:
    """Sleep, and go on sleeping when cancelled, as some drivers do."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while (left := end - loop.time()) > 0:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(left)


class Stage:
    """A pool of two on a scripted server, and others who want connections too."""

    def __init__(
        self, hooks: Mapping[str, str] = FINE, *, careful: bool = True, min_size: int = 0
    ) -> None:
        self.hooks = hooks
        self.ledger = Ledger()
        self.replay = Replay()
        self.others: list[asyncio.Task[None]] = []
        self.refusals: list[PoolError] = []
        self.pool: ConnectionPool[FakeConnection] = ConnectionPool(
            self.ledger.open,
            ConnectionPoolSettings(
                min_size=min_size,
                max_size=2,
                max_connecting=1,
                retry_limit=1,
                retry_delay=0.1,
                connect_timeout=3,
                validate_timeout=2,
                close_timeout=4,
                acquire_timeout=8,
            ),
            self.ledger.validate if careful else None,
            self.ledger.close,
            reset_func=self.ledger.reset if careful else None,
            clock=clock,
        )
        self.pool.bus.subscribe(self.replay)

    def spoil(self) -> None:
        """Let the server be as bad as it is meant to be."""
        for hook, how in self.hooks.items():
            if (behaviour := BEHAVIOURS[how]) is not None:
                self.ledger.script(hook, [behaviour] * 999)

    def repair(self) -> None:
        for script in self.ledger.scripts.values():
            script.clear()

    async def insist(self, hold: float = 0.0) -> None:
        """Want a connection, and try until there was one."""
        while True:
            try:
                async with self.pool.connection() as connection:
                    await connection.execute()
                    return await asyncio.sleep(hold)
            except PoolClosedError as error:
                return self.refusals.append(error)
            except PoolError as error:
                self.refusals.append(error)
            await asyncio.sleep(0.5)

    def add_other(self, hold: float = 0.0) -> None:
        self.others.append(asyncio.create_task(self.insist(hold)))

    async def others_are_served(self) -> None:
        async with asyncio.timeout(300):
            await asyncio.gather(*self.others)
        if self.hooks == FINE:
            assert not self.refusals

    async def all_connections_can_be_had(self) -> None:
        async with asyncio.timeout(300), AsyncExitStack() as leases:
            for _ in range(self.pool.settings.max_size):
                connection = await leases.enter_async_context(self.pool.connection())
                await connection.execute()

    def books_balance(self) -> None:
        self.replay.check(self.pool.stats())
        counted = self.pool.get_metrics().connection_requests
        assert counted == self.replay.counts[ConnectionRequested]

    async def nothing_is_left(self) -> None:
        await self.pool.close()
        if "stubborn" in self.hooks.values():
            await asyncio.sleep(6.1)  # until the last of them is through
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        self.ledger.audit()
        self.books_balance()
        assert self.pool.stats().size == 0


Scene = Callable[[Stage], Awaitable[None]]


async def nothing_open(stage: Stage) -> None:
    """The victim waits for a connect."""


async def one_idle(stage: Stage) -> None:
    """The victim validates what is there."""
    await stage.insist()


async def one_dead(stage: Stage) -> None:
    """The victim's validation fails, and a connect follows."""
    await stage.insist()
    for connection in stage.ledger.open_connections.copy():
        stage.ledger.kill(connection)


async def all_in_use(stage: Stage) -> None:
    """The victim waits in line, and is handed what others give back."""
    stage.add_other(hold=1.0)
    stage.add_other(hold=2.0)
    await asyncio.sleep(0.5)


async def borrow(stage: Stage) -> None:
    async with stage.pool.connection() as connection:
        await connection.execute(2)


async def borrow_by_hand(stage: Stage) -> None:
    connection = await stage.pool.acquire()
    try:
        await connection.execute(2)
    finally:
        await stage.pool.release(connection)


async def borrow_two(stage: Stage) -> None:
    async with stage.pool.connection(timeout=5) as one:
        await one.execute()
        async with stage.pool.connection(timeout=5) as other:
            await asyncio.gather(one.execute(), other.execute())


Body = Callable[[Stage], Awaitable[None]]
SCENES: tuple[Scene, ...] = (nothing_open, one_idle, one_dead, all_in_use)
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
    stage.spoil()
    task = asyncio.create_task(victim.suffer(body(stage)))
    for _ in range(others):
        stage.add_other()
    async with asyncio.timeout(300):
        await asyncio.wait({task})
    stage.repair()
    return asyncio.CancelledError() if task.cancelled() else task.exception()


def sweep(
    act: Callable[[Victim], Awaitable[None]], kinds: Sequence[Kind], *, every: int = 1
) -> int:
    """Act once for every moment, or pair of moments, there is time to strike; return how often."""
    moments = list(range(1, len(kinds) + 1))
    for times in itertools.count():
        victim = Victim(kinds, moments)
        try:
            in_virtual_time(act(victim))
        except BaseException as error:
            error.add_note(f"struck by {' and '.join(kinds)} at moments {moments}")
            raise
        if not victim.strikes:
            return times
        moments[victim.strikes - 1] += every
        for later in range(victim.strikes, len(kinds)):
            moments[later] = moments[later - 1] + 1
    raise AssertionError


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
@pytest.mark.parametrize("how", [how for how in BEHAVIOURS if how != "ok"])
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
    await stage.pool.close(timeout=3)


async def one_returns_and_one_never_does(stage: Stage) -> None:
    """The victim closes a pool of which one connection comes back in time."""
    stage.add_other(hold=2.0)
    stage.add_other(hold=1000.0)
    await asyncio.sleep(0.5)


async def one_is_connecting(stage: Stage) -> None:
    """The victim closes a pool in the midst of a connect, with one connection in use."""
    stage.add_other(hold=2.0)
    await asyncio.sleep(0.5)
    stage.ledger.script("open", [slow(2.0)])
    stage.add_other()
    await asyncio.sleep(0.5)


async def one_is_validated(stage: Stage) -> None:
    """The victim closes a pool that is just about to lend a connection."""
    await stage.insist()
    stage.ledger.script("validate", [never])
    stage.add_other()
    await asyncio.sleep(0.5)


async def one_is_reset(stage: Stage) -> None:
    """The victim closes a pool that is just taking a connection back."""
    stage.ledger.script("reset", [never])
    stage.add_other()
    await asyncio.sleep(0.5)


def closer(scene: Scene, hooks: Mapping[str, str] = FINE) -> Callable[[Victim], Awaitable[None]]:
    """Strike one who closes; then see that the pool is closed in time all the same."""

    async def act(victim: Victim) -> None:
        stage = Stage(hooks)
        outcome = await play(stage, scene, close, victim)
        await stage.pool.close()
        assert (stage.pool.stats().state, stage.pool.stats().size) == ("closed", 0)
        stage.ledger.audit()
        assert asyncio.get_running_loop().time() < 1 + 3 + 4 + 6.1
        for other in stage.others:
            other.cancel()
        await asyncio.wait(stage.others)
        assert stage.refusals
        await stage.nothing_is_left()
        judge(victim, outcome, stage)

    return act


CLOSING: tuple[Scene, ...] = (
    one_idle,
    one_returns_and_one_never_does,
    one_is_connecting,
    one_is_validated,
    one_is_reset,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scene", CLOSING)
def test_a_strike_at_any_moment_of_closing_does_not_stop_it(scene: Scene, kind: Kind) -> None:
    assert sweep(closer(scene), [kind]) > 5


@pytest.mark.parametrize("kinds", PAIRS, ids=" then ".join)
@pytest.mark.parametrize("scene", CLOSING)
def test_a_second_strike_does_not_stop_closing_either(scene: Scene, kinds: Sequence[Kind]) -> None:
    sweep(closer(scene), kinds)


@pytest.mark.parametrize("how", [how for how in BEHAVIOURS if how != "ok"])
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("scene", CLOSING)
def test_a_strike_does_not_stop_closing_with_a_hook_in_trouble(
    scene: Scene, hook: str, how: str
) -> None:
    sweep(closer(scene, FINE | {hook: how}), ["task.cancel"])


async def open_pool(stage: Stage) -> None:
    await stage.pool.initialize()


def opener(hooks: Mapping[str, str] = FINE) -> Callable[[Victim], Awaitable[None]]:
    """Strike one who opens; then see that nothing is left, and that it can be opened again."""

    async def act(victim: Victim) -> None:
        stage = Stage(hooks, min_size=2)
        outcome = await play(stage, nothing_open, open_pool, victim, others=0)
        if outcome is not None or victim.felt:
            # Whoever is struck again, or cannot wait in a cancelled scope, leaves it to the pool.
            alone = victim.strikes > 1 or "anyio scope" in victim.kinds
            await asyncio.sleep(10 if alone or "stubborn" in hooks.values() else 0)
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


@pytest.mark.parametrize("how", [how for how in BEHAVIOURS if how != "ok"])
@pytest.mark.parametrize("hook", ["open", "close"])
def test_a_strike_while_opening_fails_leaves_nothing_behind(hook: str, how: str) -> None:
    assert sweep(opener(FINE | {hook: how}), ["task.cancel"]) > 5
