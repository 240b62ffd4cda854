"""SQLite by aiosqlite, which works in a thread per connection."""

from __future__ import annotations

import asyncio
from typing import Any

import aiosqlite

from poolscope.connectors.recipe import Recipe
from poolscope.connectors.sqlite import parameters
from poolscope.connectors.urls import Address

_LONGEST_END = 1.0
"""Seconds. What was interrupted ends sooner, unless it waits for another's lock on the file."""


def recipe(address: Address, connect_timeout: float | None, options: dict[str, Any]) -> Recipe:
    """Return what opens `aiosqlite.Connection`s; options are those of `aiosqlite.connect`.

    Opening a file takes no time to speak of: `connect_timeout` is not needed.
    """
    options = parameters(address) | options

    async def connect() -> aiosqlite.Connection:
        opening = aiosqlite.connect(**options)
        try:
            return await opening
        except BaseException:
            # Its thread is about to tell the loop that it ends, and the loop has to be there.
            await asyncio.to_thread(opening._thread.join)
            raise

    return address.recipe(connect, _check, _reset, _close, terminate)


async def _check(connection: aiosqlite.Connection) -> bool:
    await connection.execute_fetchall("select 1")
    return True


async def _reset(connection: aiosqlite.Connection) -> None:
    # Always, and behind what is still at work there: a cancelled command goes on in its thread.
    await connection.rollback()


async def _close(connection: aiosqlite.Connection) -> None:
    try:
        await connection.interrupt()  # nobody waits for what it is at
    except ValueError:
        return  # it is closed
    await connection.close()


def terminate(connection: aiosqlite.Connection) -> None:
    """Have its thread close the file and end, whatever it is at."""
    connection._conn.interrupt()
    connection.stop()
    # It is about to tell the loop that it ends, and the loop may be gone soon.
    connection._thread.join(_LONGEST_END)
