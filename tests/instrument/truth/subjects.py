"""What has to be said of a library: how its pool is made, used, disturbed and closed."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from inspect import isawaitable
from typing import Any, ClassVar

from tests.instrument.truth.views import View

SIZE = 4
PATIENCE = 0.04
"""Seconds a request may wait, where the pool has one limit for all."""


class Subject(ABC):
    """One kind of pool. What is `in_loop` returns awaitables, wherever that is allowed."""

    library: ClassVar[str]
    view: ClassVar[type[View]]
    in_loop: ClassVar[bool] = False
    trouble: ClassVar[tuple[type[BaseException], ...]]
    """What callers may get when connections are killed, requests time out, and so on."""
    expected: ClassVar[frozenset[str]] = frozenset({"killed", "lost", "Whim", "idle", "waiting"})
    """What must have happened, or been seen at rest, at the end."""
    notices: ClassVar[bool] = False
    """Whether a pool lets go of a connection as soon as the server has ended it."""
    reconnects: ClassVar[bool] = False
    """Whether a lease may outlive its connection, and get another one."""
    bears_all: ClassVar[bool] = True
    """Whether it loses no connection when a caller is cancelled that is just giving it back."""
    ends: ClassVar[bool] = True
    """Whether a pool that was closed cannot be used again, and so is observed no more."""
    gentle: ClassVar[bool] = False
    """Whether it may be disturbed only while nobody moves."""

    def __init__(self, view: View, rng: random.Random) -> None:
        self.server = view
        self.random = rng
        self.pool: Any = None
        self.farewells: dict[str, Callable[[Any], Any]] = {}
        """Ways to take a connection from the pool for good; each returns what then is to be closed,
        or None if the pool closes it."""
        self.beginning: set[object] = set()
        """Leases of which callers do not know yet that they have begun, and may have broken."""
        self.asking: frozenset[str] = frozenset()
        """Those of them after which the next use is a request of its own."""

    @abstractmethod
    def open(self) -> Any:
        """Make the `pool`."""

    @abstractmethod
    def lease(self, patience: float) -> AbstractContextManager[Any] | AbstractAsyncContextManager:
        """Ask for a connection. The pool may have another patience."""

    @abstractmethod
    def ask(self, connection: Any, text: str) -> Any:
        """Send a text, and return the first value of the answer."""

    @abstractmethod
    def close(self) -> Any:
        """Close the pool as its owner does."""

    def disturb(self) -> Any:
        """Do what an owner may do to a pool in use; True if that cuts what is lent."""
        return None

    def watch(self) -> Any:
        """Return what is observed."""
        return self.pool


async def act(result: Any) -> Any:
    """Wait for a result, if it is to be waited for."""
    return await result if isawaitable(result) else result
