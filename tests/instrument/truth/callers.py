"""Those who use a pool: each asks, waits, holds, uses and gives back, again and again."""

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

from tests.instrument.truth.subjects import act

if TYPE_CHECKING:
    from tests.instrument.truth.load import Load

STILL = frozenset({"away", "waiting", "holding", "keeping"})
"""Where callers are who do nothing, and nothing more before they are told to."""


class Whim(Exception):
    """What the code that uses a connection may raise."""


class Caller:
    def __init__(self, load: "Load", rng: random.Random) -> None:
        self.load = load
        self.random = rng
        self.place = "away"
        self.number = 0
        """The server's, of the connection that is held."""
        self.asked = self.entered = 0
        self.outcomes: Counter[str] = Counter()

    async def live(self) -> None:
        while self.load.goes_on:
            await self.rest("away", 0.003 if self.load.tide else 0.12)
            await self.load.stage.attempt(self.ask(), self)
        self.place = "away"

    def may_give_up(self) -> bool:
        # Who parts has to close by itself what the pool no longer does.
        return self.place != "parting" and (self.load.subject.bears_all or self.place != "leaving")

    async def rest(self, place: str, mean: float = 0.005) -> None:
        """Be somewhere for a while, and for as long as all are to stand still."""
        load = self.load
        self.place = place
        await load.stage.sleep(self.random.expovariate(1 / mean))
        while load.halted:
            await load.stage.sleep(0.002)
        self.place = "busy"
        if load.halted:  # meanwhile
            await self.rest(place, mean)

    async def ask(self) -> None:
        load = self.load
        self.asked += 1
        self.place = "waiting"
        patience = self.random.choice([0.005, 0.05, 1.0])
        outcome = "served"
        try:
            async with entered(load.subject.lease(patience)) as connection:
                self.place = "busy"
                self.entered += 1
                try:
                    await self.use(connection)
                finally:
                    self.place = "leaving"
        except (Whim, asyncio.CancelledError, *load.subject.trouble) as error:
            outcome = type(error).__name__
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self.outcomes[outcome] += 1
            self.place = "away"

    async def say(self, connection: Any, text: str) -> Any:
        try:
            return await act(self.load.subject.ask(connection, text))
        except BaseException:
            self.load.cut.add(self.number)
            raise

    async def learn(self, connection: Any) -> None:
        """Show at the server that the connection is held, and note which it is."""
        self.number = int(await self.say(connection, self.load.view.mark))
        self.load.books.learn(self.number)

    async def use(self, connection: Any) -> None:
        await self.learn(connection)
        try:
            for _ in range(self.random.randrange(3)):
                await self.rest("holding")
                nap = 0.002 + self.random.expovariate(400)  # for 0 might mean: for ever
                await self.say(connection, self.load.view.nap.format(nap))
                # Some connect anew by themselves.
                await self.learn(connection)
            await self.rest("holding")
            if self.random.random() < 0.1:
                raise Whim
            if self.random.random() < 0.1 * len(self.load.subject.farewells):
                await self.part(connection)
        finally:
            with suppress(*self.load.subject.trouble):
                await self.say(connection, self.load.view.unmark)

    async def part(self, connection: Any) -> None:
        """Take the connection from its pool; perhaps keep it for a while."""
        load = self.load
        way = self.random.choice(sorted(load.subject.farewells))
        self.place = "parting"
        self.outcomes[way] += 1
        load.cut.add(self.number)
        kept = await act(load.subject.farewells[way](connection))
        self.asked += way in load.subject.asking
        if kept is None:
            return
        load.kept.add(self.number)
        try:
            await self.rest("keeping")
        finally:
            self.place = "parting"
            await act(kept())


@asynccontextmanager
async def entered(lease: Any) -> Any:
    """Enter a context, whether or not that is to be waited for."""
    if hasattr(lease, "__aenter__"):
        async with lease as connection:
            yield connection
    else:
        with lease as connection:
            yield connection
