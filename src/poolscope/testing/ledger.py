"""A scripted server with a ledger: the truth about connections, kept outside the pool."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Behaviour = Callable[[], Awaitable[Any] | Any]
"""What a step does: returns, raises, sleeps, or never ends. May be plain or async."""


class FakeConnection:
    """A connection of a `Ledger`. Using it while somebody else does is an error."""

    def __init__(self, ledger: Ledger, serial: int) -> None:
        """Open connection number `serial`."""
        self.ledger = ledger
        self.serial = serial
        self.alive = True
        self.busy = False
        self.said_goodbye = False
        self.dirty = False
        """A command was begun and not ended: the next reply would be somebody else's."""

    def __repr__(self) -> str:
        return f"<FakeConnection {self.serial}>"

    async def execute(self, steps: int = 1, *, behaviour: Behaviour | None = None) -> int:
        """Do one command in so many suspensions; return the serial number."""
        if self.busy:
            self.ledger.faults.append(f"{self} used by two at once")
        if self.dirty:
            self.ledger.faults.append(f"{self} used while dirty")
        if not self.alive:
            raise ConnectionResetError(f"{self} is gone")
        self.busy = self.dirty = True
        try:
            for _ in range(steps):
                await asyncio.sleep(0)
            await act(behaviour)
        finally:
            self.busy = False
        self.dirty = False
        return self.serial

    def terminate(self) -> None:
        """Close at once, without goodbye."""
        self.ledger.closed(self)


class Ledger:
    """Open, check, reset and close fake connections as scripted; write down what is open.

    `scripts` holds, for each of "open", "validate", "reset" and "close", the behaviours of the
    next calls; when they are used up each call suspends once and succeeds.
    """

    def __init__(self, *, steps: int = 1) -> None:
        """Let each step suspend so often."""
        self.steps = steps
        self.scripts: dict[str, deque[Behaviour]] = {
            name: deque() for name in ("open", "validate", "reset", "close")
        }
        self.open_connections: set[FakeConnection] = set()
        self.calls = dict.fromkeys(self.scripts, 0)
        self.opened = 0
        self.most_open = 0
        self.faults: list[str] = []

    def script(self, name: str, behaviours: Iterable[Behaviour]) -> None:
        """Say what the next calls of a step do."""
        self.scripts[name].extend(behaviours)

    async def _step(self, name: str) -> Any:
        self.calls[name] += 1
        for _ in range(self.steps):
            await asyncio.sleep(0)
        return await act(self.scripts[name].popleft() if self.scripts[name] else None)

    async def open(self) -> FakeConnection:
        """Open a connection; the factory of a pool."""
        self.opened += 1
        serial = self.opened
        await self._step("open")
        connection = FakeConnection(self, serial)
        self.open_connections.add(connection)
        self.most_open = max(self.most_open, len(self.open_connections))
        return connection

    async def validate(self, connection: FakeConnection) -> bool:
        """Check a connection."""
        answer = await self._step("validate")
        return connection.alive and not connection.dirty and answer is not False

    async def reset(self, connection: FakeConnection) -> None:
        """Make a connection clean again; fails if it is gone."""
        await self._step("reset")
        if not connection.alive:
            raise ConnectionResetError(f"{connection} is gone")
        connection.dirty = False

    async def close(self, connection: FakeConnection) -> None:
        """Close a connection."""
        if connection.said_goodbye:
            self.faults.append(f"{connection} closed twice")
        connection.said_goodbye = True
        await self._step("close")
        self.closed(connection)

    def closed(self, connection: FakeConnection) -> None:
        """Write down that a connection is gone."""
        connection.alive = False
        self.open_connections.discard(connection)

    def kill(self, connection: FakeConnection) -> None:
        """Let the server drop a connection, without the client noticing."""
        self.closed(connection)

    def audit(self) -> None:
        """Fail if anything happened that must not, or a connection is still open."""
        assert not self.faults, self.faults
        assert not self.open_connections, f"never closed: {self.open_connections}"


async def act(behaviour: Behaviour | None) -> Any:
    """Do what a script says."""
    result = behaviour() if behaviour is not None else None
    return await result if isinstance(result, Awaitable) else result


def fail(error: BaseException | type[BaseException] = ConnectionRefusedError) -> Behaviour:
    """Return a behaviour that raises."""

    def behaviour() -> Any:
        raise error

    return behaviour


def slow(seconds: float) -> Behaviour:
    """Return a behaviour that takes its time."""
    return lambda: asyncio.sleep(seconds)


def never() -> Awaitable[Any]:
    """Never return; a behaviour."""
    return asyncio.get_running_loop().create_future()


def answer(value: object) -> Behaviour:
    """Return a behaviour that answers with a value."""
    return lambda: value
