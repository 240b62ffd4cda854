"""A server for one application, in this process: its lifespan, and a client for its requests."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from poolscope.asgi.types import ASGIApp, Message, Scope
from poolscope.bus import ROOT
from poolscope.events import Event

CANARY = "geheim7f3a"


class StartFailedError(Exception):
    """The application said so, with this message."""


class Server:
    """Talks the lifespan protocol as uvicorn does, and hands requests on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.state: dict[str, Any] = {}
        self.said: list[str] = []
        self._heard: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message | None] = asyncio.Queue()

    async def start(self) -> None:
        self.lifespan = asyncio.create_task(self._run())
        await self._tell("lifespan.startup")

    async def stop(self) -> None:
        await self._tell("lifespan.shutdown")
        await self.lifespan

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self.state}
        try:
            await self.app(scope, self._heard.get, self._answers.put)
        finally:
            await self._answers.put(None)

    async def _tell(self, kind: str) -> None:
        await self._heard.put({"type": kind})
        answer = await self._answers.get()
        if answer is None:
            return
        self.said.append(answer["type"])
        if answer["type"] == "lifespan.startup.failed":
            raise StartFailedError(answer.get("message"))

    def client(self) -> httpx.AsyncClient:
        return client_of(self._with_state)

    async def _with_state(self, scope: Scope, receive: Any, send: Any) -> None:
        await self.app({**scope, "state": dict(self.state)}, receive, send)


def client_of(app: Any) -> httpx.AsyncClient:
    """A client of an application that is never told of a lifespan."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop")


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """Start an application, yield a client for it, and stop it."""
    server = Server(app)
    await server.start()
    async with server.client() as client:
        yield client
    await server.stop()


def database_in(directory: Path) -> str:
    return f"sqlite:///{directory}/shop.db"


@contextmanager
def heard(*kinds: type[Event]) -> Any:
    """Collect the events of all pools."""
    events: list[Event] = []
    with ROOT.subscribe(events.append, *kinds):
        yield events


def raw(handle: Callable[[Scope], Any]) -> ASGIApp:
    """An application that does something on each request and answers 200; it has no lifespan."""

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError("no lifespan here")
        await handle(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    return app
