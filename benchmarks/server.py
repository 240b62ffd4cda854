"""The PostgreSQL that pools which take no fake connections are measured on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass


class UnavailableError(Exception):
    """Something a case needs is not here; the case is left out."""


@dataclass(frozen=True, slots=True)
class Server:
    """The address of a server, or why there is none."""

    address: str | None
    reason: str = ""

    def dsn(self) -> str:
        """Return the address.

        Raises:
            UnavailableError: there is no server.
        """
        if self.address is None:
            raise UnavailableError(self.reason)
        return self.address


@contextmanager
def postgres(*, wanted: bool) -> Iterator[Server]:
    """Run a server of our own meanwhile."""
    with ExitStack() as stack:
        yield _start(stack) if wanted else Server(None, "servers were not wanted")


def _start(stack: ExitStack) -> Server:
    try:
        from poolscope.testing.postgres import PostgresServer, PostgresServerError
    except ImportError as error:
        return Server(None, f"no PostgreSQL here: {error}")
    try:
        return Server(stack.enter_context(PostgresServer()).dsn)
    except (PostgresServerError, OSError) as error:
        return Server(None, f"no PostgreSQL here: {error}")
