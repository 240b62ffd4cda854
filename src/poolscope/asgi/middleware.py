"""Pools for a web application: opened before it, closed after it, at hand in every request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, TypeVar, overload

from poolscope.asgi.arguments import read_arguments
from poolscope.asgi.lifespan import Lifespan
from poolscope.asgi.readiness import Readiness, answer, readiness
from poolscope.asgi.types import ASGIApp, Message, Receive, Scope, Send
from poolscope.connectors import for_asyncio
from poolscope.errors import PoolError
from poolscope.faults import classify
from poolscope.manager import PoolManager
from poolscope.metrics import ConnectionPoolMetrics
from poolscope.settings import ConnectionPoolSettings
from poolscope.telemetry.requests import RequestTimes, listen, stop_listening, timed

T = TypeVar("T")

STATE = "pool_manager"
"""What the manager is called in the state of a request, of a lifespan and of an application."""


class ConnectionPoolMiddleware:
    """Open the pools `database` and `redis`, and put their manager into every request's state.

    It serves as ASGI middleware (`app.add_middleware(ConnectionPoolMiddleware, database_url=...)`,
    or `ConnectionPoolMiddleware(app, database_url=...)`), through `dispatch`, and through its other
    methods. Pools open with the application's lifespan, or else with the first request. Use it on
    one event loop at a time.

    Args:
        database_url: what to connect to; nothing by default, as for Redis.
        redis_url: what the pool `redis` connects to.
        settings: of both pools; then the following four do not count.
        max_connections: `max_size` of each pool.
        connection_timeout: `acquire_timeout`, in seconds.
        pool_recycle: `max_lifetime`, in seconds; -1 or None for ever.
        pool_pre_ping: `validate_on_acquire`.
        required: whether a start without the servers fails; if not, pools go on trying.
        readiness_path: path that is answered from the state of the pools, such as `/healthz`.
        driver_options: keywords for the driver of the database.
        redis_options: keywords for that of Redis.
        options: any other field of `ConnectionPoolSettings` but `name` and `target`.

    Raises:
        TypeError: there is no such option, or something is of the wrong type.
        ValueError: a setting has the wrong value.
    """

    @overload  # first, for frameworks take the first form
    def __init__(
        self,
        app: ASGIApp,
        /,
        database_url: str | None = None,
        redis_url: str | None = None,
        settings: ConnectionPoolSettings | None = None,
        max_connections: int = 20,
        connection_timeout: float = 5.0,
        pool_recycle: float | None = 300,
        pool_pre_ping: bool = True,
        **options: Any,
    ) -> None: ...

    @overload
    def __init__(
        self,
        /,
        database_url: str | None = None,
        redis_url: str | None = None,
        settings: ConnectionPoolSettings | None = None,
        max_connections: int = 20,
        connection_timeout: float = 5.0,
        pool_recycle: float | None = 300,
        pool_pre_ping: bool = True,
        **options: Any,
    ) -> None: ...

    def __init__(self, /, *args: Any, **options: Any) -> None:
        """Read the arguments; the first is the application if it can be called. Nothing opens."""
        app = options.pop("app", None)
        if args and callable(args[0]):
            app, *args = args  # type: ignore[assignment]
        self.app: ASGIApp | None = app
        """The application within. Some frameworks set it later."""
        self.pool_manager = PoolManager()
        self._arguments = read_arguments(*args, **options)
        self._is_open = False
        self._opening: asyncio.Task[None] | None = None
        self._failure = ""

    # Opening and closing

    async def initialize(self) -> None:
        """Open the pools, unless they are open; who comes meanwhile waits for the same opening.

        Raises:
            ConnectFailedError, PoolTimeoutError: a server that is required cannot be reached, or
                is not ready in time. Nothing is left open, and the next call tries again.
            ValueError, ImportError: a URL cannot be used, or its driver is not installed.
        """
        if not self._is_open:
            # Who gives up must not take the opening away from the others.
            await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[None]:
        loop = asyncio.get_running_loop()
        opening = self._opening
        if opening is None or opening.done() or opening.get_loop() is not loop:
            opening = self._opening = loop.create_task(self._open())
            opening.add_done_callback(self._opened)
        return opening

    async def _open(self) -> None:
        given, manager = self._arguments, self.pool_manager
        opened: list[str] = []
        try:
            for name, url in given.urls.items():
                recipe = for_asyncio(url, **given.options[name])
                settings = given.settings.copy(target=recipe.target)
                required = given.required
                await manager.create_pool(
                    name, settings=settings, required=required, **recipe.functions
                )
                opened.append(name)
        except BaseException:
            for name in opened:
                await manager.close_pool(name)
            raise

    def _opened(self, opening: asyncio.Task[None]) -> None:
        error = asyncio.CancelledError() if opening.cancelled() else opening.exception()
        self._failure = f"{type(error).__name__}: {classify(error).value}" if error else ""
        if error is None and not self._is_open:
            self._is_open = True
            listen()

    async def shutdown(self) -> None:
        """Close all pools of the manager; the next request would open them again."""
        opening, self._opening = self._opening, None
        if opening is not None and opening.get_loop() is asyncio.get_running_loop():
            opening.cancel()
            await asyncio.wait({opening})
        if self._is_open:
            self._is_open = False
            stop_listening()
        await self.pool_manager.close_all()

    # As ASGI middleware

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one lifespan, request or WebSocket."""
        app, kind = self.app, scope["type"]
        if app is None:
            raise RuntimeError(
                "this ConnectionPoolMiddleware has no application to serve; make it with one: "
                "ConnectionPoolMiddleware(app, database_url=...)"
            )
        if kind == "lifespan":
            self._introduce(scope)
            await Lifespan(receive, send, self.initialize, self.shutdown).run(app, scope, explain)
        elif kind == "http" and self._is_probe(scope):
            await answer(self.readiness(), scope, send)
        elif kind == "http":
            await self._enter(scope)
            with timed() as times:
                await app(scope, receive, send if times is None else telling(times, send))
        else:
            if kind == "websocket":
                await self._enter(scope)
            await app(scope, receive, send)

    async def _enter(self, scope: Scope) -> None:
        if not self._is_open:
            await self.initialize()
        scope.setdefault("state", {})[STATE] = self.pool_manager

    def _introduce(self, scope: Scope) -> None:
        """Let the application's own lifespan find the manager."""
        if "state" in scope:
            scope["state"][STATE] = self.pool_manager
        state = getattr(scope.get("app"), "state", None)
        if state is not None:
            setattr(state, STATE, self.pool_manager)

    def _is_probe(self, scope: Scope) -> bool:
        wanted = self._arguments.readiness_path
        if wanted is None or scope["method"] not in ("GET", "HEAD"):
            return False
        path: str = scope["path"]
        return path in (wanted, scope.get("root_path", "") + wanted)

    # By hand

    async def process_request(self, request: T) -> T:
        """Open the pools, put the manager on `request.state.pool_manager`, return the request."""
        await self.initialize()
        if not hasattr(request, "state"):
            request.state = SimpleNamespace()  # type: ignore[attr-defined]
        setattr(request.state, STATE, self.pool_manager)  # type: ignore[attr-defined]
        return request

    async def process_response(self, response: T) -> T:
        """Return the response as it is."""
        return response

    async def dispatch(self, request: Any, call_next: Callable[[Any], Awaitable[T]]) -> T:
        """Process a request, have it answered, and return the response."""
        request = await self.process_request(request)
        with timed():
            response = await call_next(request)
        return await self.process_response(response)

    # Looking

    def readiness(self) -> Readiness:
        """Tell at once whether requests can be served; pools not yet open begin to open.

        Call it on the event loop.
        """
        if self._is_open:
            return readiness(self.pool_manager)
        reason = f"not open ({self._failure})" if self._failure else "opening"
        # Nobody sends requests to a service that is not ready, so it has to open by itself.
        self._begin()
        return Readiness(False, {"ready": False, "reason": reason, "pools": {}})

    def get_metrics(self) -> dict[str, ConnectionPoolMetrics]:
        """Return the metrics of each pool, by name."""
        return self.pool_manager.get_metrics()

    def print_metrics(self) -> None:
        """Print the metrics of each pool."""
        self.pool_manager.print_metrics()


def telling(times: RequestTimes, send: Send) -> Send:
    """Return what sends messages on, and tells the span before the last: with it the span ends."""

    async def send_on(message: Message) -> None:
        if message["type"] != "http.response.start" and not message.get("more_body", False):
            times.tell()
        await send(message)

    return send_on


def explain(error: Exception) -> str:
    """Return why pools did not open, in words of our own: those of drivers may hold secrets."""
    text, cause = type(error).__name__, error.__cause__
    if isinstance(error, PoolError) or type(error) is ValueError:
        text += f": {error}"
    if isinstance(error, PoolError) and cause is not None:
        text += f" The cause is {type(cause).__name__} ({classify(cause).value})."
    return f"the pools cannot open: {text}"
