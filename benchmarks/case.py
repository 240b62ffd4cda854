"""What takes part in a measurement, and proof that it does what it is said to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

from benchmarks.server import Server, UnavailableError

SIZE = 10
"""Connections in every pool, all open before anything is measured."""

PATIENCE = 0.02
"""Seconds after which who wants one more connection is taken to wait for it."""

Borrow = Callable[[], Any]
"""Returns what an `async with` statement takes, or a plain `with` if the case is a sync one."""


class FakeConnection:
    """A connection that costs nothing, for pools that take any object."""

    def __init__(self) -> None:
        self.is_closed = False

    def rollback(self) -> None:
        """Do nothing; SQLAlchemy's pool asks for it on every return."""

    def close(self) -> None:
        self.is_closed = True


@dataclass(frozen=True, slots=True)
class Case:
    """A warm pool. `borrow` is its own public call: no wrapper of ours is measured with it."""

    name: str
    connections: str
    borrow: Borrow
    identify: Callable[[Any], object] | None = id
    """Tells which connection a borrower holds. None for a floor, which is no pool."""
    is_sync: bool = False
    """It is for threads: what is measured of it runs in one that has no event loop."""
    cycles: Callable[[Borrow, int], None] | None = None
    """Borrows and gives back so many times, if the pool's own way to do it is no `with` statement;
    `borrow` wraps it into one where that does not matter."""
    active: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext
    """What goes on while the case is timed, and only then. It raises UnsoundError afterwards if
    that was not what the table says."""


Opener = Callable[[Server], AbstractAsyncContextManager[Case]]


@dataclass(frozen=True, slots=True)
class Field:
    """Those who take part, and why others do not."""

    cases: list[Case] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


class UnsoundError(Exception):
    """A case does not do what the table would say of it."""


def expect(is_so: bool, what: str) -> None:
    """Check what the table says of a case.

    Raises:
        UnsoundError: it is not so.
    """
    if not is_so:
        raise UnsoundError(f"it is not so that {what}")


async def enter(stack: AsyncExitStack, openers: Mapping[str, Opener], server: Server) -> Field:
    """Open all cases that can be had here, and warm them up."""
    entered = Field()
    for name, opener in openers.items():
        try:
            case = await stack.enter_async_context(opener(server))
        except (ImportError, UnavailableError) as error:
            entered.missing[name] = str(error)
            continue
        stack.push_async_callback(_verify_unchanged, case, await inspect(case))
        entered.cases.append(case)
    return entered


async def inspect(case: Case) -> frozenset[object]:
    """Return which connections a pool lends. This also opens all of them.

    Raises:
        UnsoundError: it lends more or fewer than SIZE at the same time.
    """
    if case.identify is None:
        return frozenset()
    look = asyncio.to_thread(_look_at_sync, case) if case.is_sync else _look_at(case)
    seen, lends_more = await look
    if lends_more or len(seen) != SIZE:
        raise UnsoundError(f"{case.name} does not lend {SIZE} connections: {len(seen)} or more")
    return seen


async def _look_at(case: Case) -> tuple[frozenset[object], bool]:
    assert case.identify is not None
    async with AsyncExitStack() as held:
        lent = [await held.enter_async_context(case.borrow()) for _ in range(SIZE)]
        seen = frozenset(map(case.identify, lent))
        late = asyncio.create_task(_borrow_once(case))
        await asyncio.sleep(PATIENCE)
        lends_more = late.done()
    await late
    return seen, lends_more


async def _borrow_once(case: Case) -> None:
    async with case.borrow():
        pass


def _look_at_sync(case: Case) -> tuple[frozenset[object], bool]:
    assert case.identify is not None
    lent_one_more = Event()

    def borrow_once() -> None:
        # A pool that refuses lends no more, just as one that lets callers wait.
        with suppress(Exception), case.borrow():
            lent_one_more.set()

    late = Thread(target=borrow_once)
    with ExitStack() as held:
        lent = [held.enter_context(case.borrow()) for _ in range(SIZE)]
        seen = frozenset(map(case.identify, lent))
        late.start()
        lends_more = lent_one_more.wait(PATIENCE)
    late.join()
    return seen, lends_more


async def _verify_unchanged(case: Case, before: frozenset[object]) -> None:
    """Connections that were replaced meanwhile would mean that connecting was measured too."""
    if await inspect(case) != before:
        raise UnsoundError(f"{case.name} replaced connections while it was measured")
