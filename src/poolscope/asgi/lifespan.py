"""The lifespan of an application, with its pools around it.

Pools are open before the application starts, so that it can use them, and closed after it has
stopped. An application that takes no lifespan has its pools opened and closed all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from poolscope.asgi.types import ASGIApp, Message, Receive, Scope, Send
from poolscope.faults import where

logger = logging.getLogger("poolscope")


class Lifespan:
    """Stands between server and application for one run."""

    def __init__(
        self,
        receive: Receive,
        send: Send,
        open_: Callable[[], Awaitable[None]],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        """Prepare for a run in which nothing has happened yet."""
        self._receive = receive
        self._send = send
        self._open = open_
        self._close = close
        self._startup: Message | None = None
        """What the server said first, until the application has heard it."""
        self._started = False
        """The application said how its start went."""
        self._stopping = False
        """The application was told to stop."""
        self._over = False
        """The server was told the end."""

    async def run(self, app: ASGIApp, scope: Scope, explain: Callable[[Exception], str]) -> None:
        """Serve until the end; a start of the pools that fails is answered with what it tells."""
        self._startup = await self._receive()
        try:
            await self._open()
        except Exception as error:
            # Not raised: the server would print what is chained, and secrets with it.
            await self._send({"type": "lifespan.startup.failed", "message": explain(error)})
            return
        try:
            await self._run(app, scope)
        except BaseException:
            await self._close()
            raise

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._hear, self._say)
        except Exception as error:
            if self._started:
                raise
            text = "the application takes no lifespan; its pools are opened and closed all the same"
            logger.info("%s: %s", text, where(error))
        if not self._started:
            await self._say({"type": "lifespan.startup.complete"})
        if not self._over:
            if not self._stopping:
                await self._receive()
            await self._say({"type": "lifespan.shutdown.complete"})

    async def _hear(self) -> Message:
        if self._startup is not None:
            message, self._startup = self._startup, None
            return message
        message = await self._receive()
        self._stopping = True
        return message

    async def _say(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._started = True
        elif kind in ("lifespan.startup.failed", *_ENDS):
            self._started = self._over = True
            await self._close()
        await self._send(message)


_ENDS = ("lifespan.shutdown.complete", "lifespan.shutdown.failed")
