"""What a pool and those who wait for it weigh. One process per pool, so that none pays for another.

`python -m benchmarks.memory POOL` is such a process; it reads the server's address from stdin.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from benchmarks import contestants
from benchmarks.case import SIZE, Borrow, Case, FakeConnection, Opener, inspect
from benchmarks.plan import Plan
from benchmarks.section import Goal, Section
from benchmarks.server import Server, UnavailableError

WAITERS = 1000
CYCLES = 1000
IDLE_POOL = 12.0
WAITER = 1600.0
EXPLANATION = (
    f"Traced by tracemalloc, each pool in a process of its own. Idle: a pool and its {SIZE} "
    f"connections, opened; and again after {CYCLES:,} cycles. A waiter is one of {WAITERS:,} tasks "
    "that wait for a connection; over: beyond a task that waits for a future."
)

FLOOR = "asyncio.Semaphore, ten connections"


@asynccontextmanager
async def _floor(_: Server) -> AsyncIterator[Case]:
    semaphore = asyncio.Semaphore(SIZE)
    connections = [FakeConnection() for _ in range(SIZE)]
    yield Case(FLOOR, contestants.FAKE, lambda: semaphore, identify=None)
    del connections


OPENERS: Mapping[str, Opener] = {
    FLOOR: _floor,
    contestants.OURS: contestants.ours,
    **contestants.PEERS,
}


@dataclass(frozen=True, slots=True)
class Weight:
    """Bytes."""

    connections: str
    opened: int
    worked: int
    waiter: float
    over_bare: float


async def measure(server: Server, _: Plan) -> list[Section]:
    header = ["pool", "connections", "idle, KiB", "after cycles, KiB", "waiter, bytes", "over"]
    section = Section("Memory", EXPLANATION, header)
    section.rows.append(
        ["*goal for poolscope*", "", f"≤ {IDLE_POOL:g}", f"≤ {IDLE_POOL:g}", f"≤ {WAITER:g}", ""]
    )
    for name in OPENERS:
        answer = await _ask_process(name, server)
        if "missing" in answer:
            section.missing[name] = answer["missing"]
            continue
        weight = Weight(**answer)
        section.data[name] = answer
        section.rows.append(_row(name, weight))
        if name == contestants.OURS:
            section.goals = _goals(weight)
    return [section]


def _row(name: str, weight: Weight) -> list[str]:
    row = [name, weight.connections]
    # Real connections weigh more than the pools that hold them, and differ by driver.
    is_fake = weight.connections == contestants.FAKE
    row += [f"{size / 1024:.1f}" if is_fake else "" for size in (weight.opened, weight.worked)]
    return [*row, f"{weight.waiter:,.0f}", f"{weight.over_bare:,.0f}"]


def _goals(weight: Weight) -> list[Goal]:
    heaviest = max(weight.opened, weight.worked) / 1024
    return [
        Goal("an idle pool of ten, in KiB,", heaviest, IDLE_POOL),
        Goal("a parked waiter, in bytes,", weight.waiter, WAITER),
    ]


async def _ask_process(name: str, server: Server) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory", name]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    output, _ = await process.communicate(json.dumps(asdict(server)).encode())
    if process.returncode:
        raise RuntimeError(f"weighing {name} failed; its output is above")
    answer: dict[str, Any] = json.loads(output)
    return answer


# In the process of one pool


@asynccontextmanager
async def _nothing(_: Server) -> AsyncIterator[Case]:
    """Weigh as much as a case without its pool."""
    yield Case("nothing", contestants.FAKE, nullcontext, identify=None)


async def _weigh(opener: Opener, server: Server) -> Weight:
    # What a first use imports and caches is no part of a pool.
    async with opener(server) as case:
        await inspect(case)
        await _weigh_waiter(case.borrow)
    tracemalloc.start()
    harness = [await _weigh_nothing(server) for _ in range(2)][-1]
    before = await _traced() + harness
    async with opener(server) as case:
        await inspect(case)
        opened = await _traced() - before
        for _ in range(CYCLES):
            async with case.borrow():
                pass
        worked = await _traced() - before
        # The tables in which asyncio keeps all tasks grow at different moments.
        waiter = median([await _weigh_waiter(case.borrow) for _ in range(5)])
    bare = median([await _weigh_bare_waiter() for _ in range(5)])
    return Weight(case.connections, opened, worked, waiter, waiter - bare)


async def _weigh_nothing(server: Server) -> int:
    before = await _traced()
    async with _nothing(server):
        return await _traced() - before


async def _weigh_waiter(borrow: Borrow) -> float:
    async def wait() -> None:
        async with borrow():
            pass

    async with AsyncExitStack() as held:
        for _ in range(SIZE):
            await held.enter_async_context(borrow())
        weight, tasks = await _park(wait)
        assert not any(task.done() for task in tasks)
    await asyncio.gather(*tasks)
    return weight


async def _weigh_bare_waiter() -> float:
    loop = asyncio.get_running_loop()

    async def wait() -> None:
        await loop.create_future()

    weight, tasks = await _park(wait)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return weight


async def _park(
    wait: Callable[[], Coroutine[Any, Any, None]],
) -> tuple[float, list[asyncio.Task[None]]]:
    before = await _traced()
    tasks = [asyncio.create_task(wait()) for _ in range(WAITERS)]
    await asyncio.sleep(0.05)
    return (await _traced() - before) / WAITERS, tasks


async def _traced() -> int:
    # The event loop holds on to what it did last until it does something else.
    await asyncio.sleep(0)
    # A full collection also empties the interpreter's free lists, which would hide allocations.
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def main() -> None:
    server = Server(**json.load(sys.stdin))
    try:
        answer: dict[str, Any] = asdict(asyncio.run(_weigh(OPENERS[sys.argv[1]], server)))
    except (ImportError, UnavailableError) as error:
        answer = {"missing": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
