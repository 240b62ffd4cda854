"""Any database by SQLAlchemy, for asyncio: with an async driver, or off the event loop."""

from __future__ import annotations

import asyncio
from importlib import import_module
from traceback import clear_frames
from typing import Any

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from poolscope.connectors.recipe import Recipe
from poolscope.connectors.sqlalchemy import (
    check,
    close,
    make_engine,
    refuse_spoilt,
    reset,
    terminator,
)
from poolscope.connectors.urls import Address


def recipe(address: Address, connect_timeout: float | None, options: dict[str, Any]) -> Recipe:
    """Return what opens `AsyncConnection`s, or `Connection`s if the driver is not for asyncio.

    Options are those of `create_engine`.
    """
    try:
        engine = make_engine(create_async_engine, address, connect_timeout, options)
    except InvalidRequestError:  # the driver is not for asyncio
        return _off_the_loop(address, make_engine(create_engine, address, connect_timeout, options))
    return _on_the_loop(address, engine)


def _on_the_loop(address: Address, engine: AsyncEngine) -> Recipe:
    import_module("greenlet")  # SQLAlchemy would miss it only later

    async def connect() -> AsyncConnection:
        try:
            return await engine.connect()
        except BaseException as error:
            # They may hold a socket, which psycopg closes when it is forgotten: do that now.
            clear_frames(error.__traceback__)
            raise

    drop = terminator(engine.dialect.driver)

    def terminate(connection: AsyncConnection) -> None:
        if connection.sync_connection is not None:
            drop(connection.sync_connection)

    return address.recipe(connect, _check, _reset, _close, terminate)


async def _check(connection: AsyncConnection) -> bool:
    return not connection.closed and await connection.run_sync(check)


async def _reset(connection: AsyncConnection) -> None:
    if connection.sync_connection is not None:
        refuse_spoilt(connection.sync_connection)
    await connection.rollback()


async def _close(connection: AsyncConnection) -> None:
    await connection.close()


def _off_the_loop(address: Address, engine: Engine) -> Recipe:
    """Work in threads of the loop's default executor, as `asyncio.to_thread` does."""

    async def connect() -> Connection:
        return await _Opening(engine).connection()

    async def check_it(connection: Connection) -> bool:
        return await asyncio.to_thread(check, connection)

    async def reset_it(connection: Connection) -> None:
        refuse_spoilt(connection)
        if connection.in_transaction():
            await asyncio.to_thread(reset, connection)

    async def close_it(connection: Connection) -> None:
        await asyncio.to_thread(close, connection)

    drop = terminator(engine.dialect.driver)
    return address.recipe(connect, check_it, reset_it, close_it, drop)


class _Opening:
    """A connect in a thread, which cannot be cancelled: what comes too late is closed there."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._opened: list[Connection] = []
        self._abandoned = False

    async def connection(self) -> Connection:
        """Connect, and return the connection."""
        try:
            await asyncio.to_thread(self._open)
        except asyncio.CancelledError:
            self._abandoned = True
            await asyncio.to_thread(self._close_late)
            raise
        return self._opened.pop()

    def _open(self) -> None:
        self._opened.append(self._engine.connect())
        if self._abandoned:
            self._close_late()

    def _close_late(self) -> None:
        # Two threads may come here; `pop` lets one of them have it.
        try:
            connection = self._opened.pop()
        except IndexError:
            return
        connection.close()
