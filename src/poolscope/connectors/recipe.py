"""What a pool has to know of one kind of connection, and what is said when a driver is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from poolscope.errors import PoolError
from poolscope.target import Target

_EXTRAS = {
    "asyncpg": "poolscope[asyncpg]",
    "psycopg": "poolscope[psycopg]",
    "aiomysql": "poolscope[mysql]",
    "pymysql": "poolscope[mysql]",
    "redis": "poolscope[redis]",
    "aiosqlite": "poolscope[sqlite]",
    "greenlet": "sqlalchemy[asyncio]",
}
"""What to install for a module that cannot be imported."""


class MissingDriverError(PoolError, ImportError):
    """The driver a URL needs is not installed."""

    def __init__(self, module: str) -> None:
        """Name the module, and what to install."""
        package = _EXTRAS.get(module, module)
        super().__init__(f"{module} is needed and not installed: pip install '{package}'")


@dataclass(slots=True)
class Recipe:
    """How to open, check, reset and close connections to one place; its repr holds no secret.

    The functions are what `ConnectionPool` (all from `for_asyncio`) or `SyncConnectionPool` (all
    from `for_threads`) takes under these names.
    """

    factory: Callable[[], Any] = field(repr=False)
    """Opens a connection, in one attempt."""
    validate_func: Callable[[Any], Any] = field(repr=False)
    """Asks the server for an answer; returns true, or raises."""
    reset_func: Callable[[Any], Any] = field(repr=False)
    """Makes a connection clean for the next borrower; raises if it is broken, or cannot be."""
    close_func: Callable[[Any], Any] = field(repr=False)
    """Closes a connection in the orderly way."""
    terminate_func: Callable[[Any], Any] | None = field(repr=False)
    """Drops a connection at once, whoever waits in it; None: its own `terminate()` does."""
    target: Target
    """What it connects to, in the words of telemetry."""
    name: str
    """`host:port/database`, or the file's name: without user or password."""

    @property
    def functions(self) -> dict[str, Any]:
        """Return the functions by the names they have as arguments of a pool."""
        return {
            "factory": self.factory,
            "validate_func": self.validate_func,
            "reset_func": self.reset_func,
            "close_func": self.close_func,
            "terminate_func": self.terminate_func,
        }


class Unfit(PoolError):
    """A connection that came back cannot be lent again; the pool closes it."""
