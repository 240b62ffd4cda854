"""`poolscope demo`, put together: begin, show, end, and leave nothing behind."""

from __future__ import annotations

import argparse
import asyncio
import errno
import os
import random
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from rich.console import Console

from poolscope.cli.demo.database import Database, DemoError, GivenDatabase, PrivateDatabase
from poolscope.cli.demo.foreground import own_foreground
from poolscope.cli.demo.interrupts import Interrupts
from poolscope.cli.demo.plain import PlainScreen
from poolscope.cli.demo.report import print_summary
from poolscope.cli.demo.scenario import plan
from poolscope.cli.demo.show import Show
from poolscope.cli.demo.view import LiveScreen
from poolscope.errors import PoolError
from poolscope.pool import ConnectionPool
from poolscope.settings import ConnectionPoolSettings
from poolscope.telemetry.prometheus import start_metrics_server
from poolscope.telemetry.setup import Telemetry, setup_telemetry
from poolscope.testing.postgres import PostgresServerError

if TYPE_CHECKING:
    import asyncpg


def run(options: argparse.Namespace, interrupts: Interrupts) -> int:
    """Run the demo and return its exit status: 0 at its end, and when interrupted."""
    demo = Demo(options, interrupts)
    try:
        with own_foreground():
            try:
                asyncio.run(interrupts.watch(demo.run()))
            finally:
                demo.sum_up()
    except (DemoError, PostgresServerError, PoolError) as error:
        print(f"poolscope demo: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read has seen enough. The interpreter must not write what is left either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


class Demo:
    """One run of the demo."""

    def __init__(self, options: argparse.Namespace, interrupts: Interrupts) -> None:
        """Settle what has to be known from the beginning."""
        self._port: int = options.port
        self._stages = plan(options.scenario, options.seconds)
        self._seed: int = random.randrange(10_000) if options.seed is None else options.seed
        self._interrupts = interrupts
        self._console = _console()
        self._pool: ConnectionPool[asyncpg.Connection] | None = None
        self._show: Show | None = None

    async def run(self) -> None:
        """Begin, show, and clear up, which nothing interrupts."""
        async with AsyncExitStack() as stack:
            try:
                await self._perform(stack)
            finally:
                self._interrupts.disarm()

    def sum_up(self) -> None:
        """Print what there was, however it ended."""
        if self._pool is not None and self._show is not None and self._show.rows:
            print_summary(self._console, self._show.rows, self._pool.get_metrics())
        elif self._interrupts.came:
            _say("Stopped before the first phase.")

    async def _perform(self, stack: AsyncExitStack) -> None:
        url = self._serve_metrics(stack)
        _say(f"poolscope demo, seed {self._seed}")
        _say(f"metrics: {url}")
        telemetry = _send_telemetry()
        given = os.environ.get("DATABASE_URL")
        database: Database = GivenDatabase(given) if given else PrivateDatabase()
        _say(f"database: {database.name}")
        await stack.enter_async_context(database)
        self._pool = _make_pool(database, self._stages[0].seconds)
        self._show = Show(self._pool, database, self._stages, self._seed)
        await stack.enter_async_context(self._pool)
        if telemetry is not None:
            # Before the pool closes: a closed pool has no numbers to send.
            stack.push_async_callback(asyncio.to_thread, telemetry.shutdown, 2.0)
        await self._watch(self._show, f"poolscope demo   seed {self._seed}   {url}")

    async def _watch(self, show: Show, title: str) -> None:
        screen = LiveScreen(self._console, title, show) if self._console else PlainScreen()
        play = asyncio.create_task(show.play())
        try:
            with screen:
                while not play.done():
                    screen.show(show.look())
                    await asyncio.wait({play}, timeout=screen.interval)
            await play
        finally:
            play.cancel()
            await asyncio.wait({play})

    def _serve_metrics(self, stack: AsyncExitStack) -> str:
        try:
            return stack.enter_context(start_metrics_server(self._port)).url
        except OSError as error:
            code = errno.errorcode.get(error.errno or 0, "unknown")
            why = "is taken" if code == "EADDRINUSE" else f"cannot be used ({code})"
            raise DemoError(
                f"port {self._port} of 127.0.0.1 {why}; choose another with --port, 0 for any"
            ) from None


def _send_telemetry() -> Telemetry | None:
    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return None
    _say("telemetry: sent to OTEL_EXPORTER_OTLP_ENDPOINT")
    try:
        return setup_telemetry(service_name="poolscope-demo")
    except ValueError as error:
        raise DemoError(str(error)) from None


def _make_pool(database: Database, seconds: float) -> ConnectionPool[asyncpg.Connection]:
    """Make a pool that reacts within a stage of so many seconds."""
    settings = ConnectionPoolSettings(
        name="orders",
        min_size=2,
        max_size=10,
        max_idle=10,
        acquire_timeout=1.0,
        idle_timeout=min(3.0, seconds / 3),
        leak_threshold=min(2.5, max(1.0, seconds / 3)),
        retry_delay=0.2,
    )
    return ConnectionPool(
        database.connect,
        settings,
        validate_func=lambda connection: not connection.is_closed(),
        reset_func=lambda connection: connection.reset(),
    )


def _console() -> Console | None:
    """Return the terminal, if there is one that can show the live view."""
    console = Console()
    is_terminal = sys.stdout.isatty() and console.is_terminal
    can_draw = not console.is_dumb_terminal and console.encoding.startswith("utf")
    return console if is_terminal and can_draw else None


def _say(text: str) -> None:
    print(text, flush=True)
