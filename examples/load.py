"""Load for the FastAPI example, in phases that each show another trouble of a pool.

    TARGETS=http://127.0.0.1:8000,http://127.0.0.1:8001 python -m examples.load

POOLSCOPE_SCENARIO chooses the phases, and POOLSCOPE_SPEED how many times faster than written they
follow each other. Only an outage needs more: DATABASE_ADMIN_URL, of another database on the same
server, and DATABASE_NAME, the one to close. What a phase breaks is mended at its end, however it
comes; what a load that was killed has left, by the next one.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from time import monotonic

import asyncpg
import httpx

ITEMS = ("tea", "coffee", "milk", "bread")


class Load:
    """Who asks the services, and what became of it."""

    def __init__(self, client: httpx.AsyncClient, targets: Sequence[str], speed: float) -> None:
        self._client = client
        self.targets = targets
        self.answers: Counter[str] = Counter()
        self._second = 60 / speed

    def seconds(self, minutes: float) -> float:
        """Return how long minutes of a phase take."""
        return minutes * self._second

    async def ask(self, method: str, url: str, **options: object) -> None:
        """Ask once, and count the answer; no answer is one as well."""
        try:
            answer = await self._client.request(method, url, **options)  # type: ignore[arg-type]
        except httpx.HTTPError:
            self.answers["no answer"] += 1
        else:
            self.answers[str(answer.status_code)] += 1

    async def order(self, target: str) -> None:
        """Ask for the latest orders, or give one."""
        if random.random() < 0.8:
            await self.ask("GET", f"{target}/orders")
        else:
            order = {"item": random.choice(ITEMS), "quantity": random.randint(1, 9)}
            await self.ask("POST", f"{target}/orders", json=order)

    async def order_on(self, target: str, rate: float) -> None:
        """Order again and again, whether or not the orders before were answered."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                tasks.create_task(self.order(target))
                await asyncio.sleep(random.expovariate(rate))

    async def report_on(self, target: str, seconds: float) -> None:
        """Ask for one report after the other."""
        while True:
            began = monotonic()
            await self.ask("GET", f"{target}/report", params={"seconds": seconds})
            # One that is refused at once is not asked for again at once.
            await asyncio.sleep(max(0.0, 0.1 - (monotonic() - began)))


Trouble = Callable[[Load], AbstractAsyncContextManager[None]]
"""What goes wrong during a phase."""


@asynccontextmanager
async def no_trouble(load: Load) -> AsyncIterator[None]:
    """Leave all as it is."""
    yield


@asynccontextmanager
async def leaks(load: Load) -> AsyncIterator[None]:
    """Have the first of the services keep one connection after the other."""

    service, enough = load.targets[0], asyncio.Event()

    async def leak_on() -> None:
        while not enough.is_set():
            await load.ask("POST", f"{service}/leak")
            await asyncio.sleep(min(load.seconds(0.5), 5))

    leaking = asyncio.create_task(leak_on())
    try:
        yield
    finally:
        # A leak that still waits for a connection would be found later, by nobody.
        enough.set()
        await leaking
        await load.ask("DELETE", f"{service}/leak")


@asynccontextmanager
async def outage(load: Load) -> AsyncIterator[None]:
    """Have the server end all connections to the database and refuse new ones."""
    if not os.environ.get("DATABASE_ADMIN_URL"):
        print("no DATABASE_ADMIN_URL: there will be no outage", flush=True)
        yield
        return
    try:
        await allow_connections(False)
        yield
    finally:
        await allow_connections(True)


async def allow_connections(allowed: bool) -> None:
    """Open the database to the services, or close it and end what is open."""
    name = os.environ.get("DATABASE_NAME", "shop")
    admin = await asyncpg.connect(os.environ["DATABASE_ADMIN_URL"], timeout=10)
    try:
        quoted = await admin.fetchval("select quote_ident($1)", name)
        await admin.execute(f"alter database {quoted} with allow_connections {allowed}")
        if not allowed:
            ending = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1"
            await admin.execute(ending, name)
    finally:
        await admin.close()


@dataclass(frozen=True, slots=True)
class Phase:
    """What is asked of each service, and for how long."""

    name: str
    minutes: float
    what: str
    trouble: Trouble = no_trouble
    orders: float = 5
    """A second."""
    reports: int = 0
    """At the same time."""
    seconds: float = 1
    """That each of them takes."""


CALM = Phase("calm", 8, "orders, which take milliseconds")
BURST = Phase("burst", 14, "far more reports than connections", reports=40, seconds=0.4)
SLOW = Phase("slow", 25, "slow reports on all connections but one", reports=9, seconds=3, orders=2)
LEAK = Phase("leak", 37, "one service keeps its connections, one after the other", leaks)
OUTAGE = Phase("outage", 12, "the database ends all connections and takes none", outage)
RECOVERY = replace(CALM, name="recovery", minutes=18, what="orders, as if nothing had been")
RESTART = replace(CALM, name="restart", what="orders, while somebody restarts a service")

SCENARIOS = {
    "day": (
        *(CALM, BURST, RECOVERY, SLOW, CALM, LEAK, RECOVERY, OUTAGE, RECOVERY),
        *(RESTART, CALM),
    ),
    "calm": (CALM,),
    "burst": (CALM, BURST, RECOVERY),
    "slow": (CALM, SLOW, RECOVERY),
    "leak": (CALM, LEAK, RECOVERY),
    "outage": (CALM, OUTAGE, RECOVERY),
    "restart": (CALM, RESTART),
}


async def live_through(phase: Phase, load: Load) -> None:
    """Ask for as long as the phase lasts, and say when it begins and ends."""
    duration = load.seconds(phase.minutes)
    print(f"{phase.name} begins, for {duration:.0f} s: {phase.what}", flush=True)
    load.answers.clear()
    async with phase.trouble(load):
        with suppress(TimeoutError):
            async with asyncio.timeout(duration), asyncio.TaskGroup() as tasks:
                for target in load.targets:
                    tasks.create_task(load.order_on(target, phase.orders))
                    for _ in range(phase.reports):
                        tasks.create_task(load.report_on(target, phase.seconds))
    answers = ", ".join(f"{count} x {answer}" for answer, count in sorted(load.answers.items()))
    print(f"{phase.name} ends: {answers}", flush=True)


async def mended(load: Load) -> None:
    """Undo what a load before this one may have left when it was killed."""
    if os.environ.get("DATABASE_ADMIN_URL"):
        await allow_connections(True)
    for target in load.targets:
        await load.ask("DELETE", f"{target}/leak")


async def main(scenario: str, *, once: bool) -> None:
    """Live through the phases, again and again unless `once`."""
    targets = os.environ.get("TARGETS", "http://127.0.0.1:8000").split(",")
    speed = float(os.environ.get("POOLSCOPE_SPEED", "1"))
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _cancel_once(task))
    async with AsyncExitStack() as stack:
        limits = httpx.Limits(max_connections=None)
        client = httpx.AsyncClient(timeout=20, limits=limits, trust_env=False)
        load = Load(await stack.enter_async_context(client), targets, speed)
        await mended(load)
        while True:
            for phase in SCENARIOS[scenario]:
                await live_through(phase, load)
            if once:
                return


def _cancel_once(task: asyncio.Task[None]) -> Callable[[], None]:
    """Let a second signal not disturb the mending."""

    def cancel() -> None:
        if not task.cancelling():
            task.cancel()

    return cancel


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m examples.load", description="Load services.")
    parser.add_argument(
        "scenario",
        nargs="?",
        choices=SCENARIOS,
        default=os.environ.get("POOLSCOPE_SCENARIO") or "day",
    )
    parser.add_argument("--once", action="store_true", help="end with the scenario")
    options = parser.parse_args()
    with suppress(asyncio.CancelledError):
        asyncio.run(main(options.scenario, once=options.once))
    sys.exit(0)
