"""What may go wrong between a client and its server, done to real connections."""

import asyncio
import socket
import ssl
import struct
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self

from poolscope.testing.server import free_port


class FaultProxy:
    """Stands in front of a server of 127.0.0.1, and passes all on until it is told otherwise.

        with FaultProxy(server.port) as proxy:
            client = connect(proxy.through(server.url))
            proxy.stall()

    It works in a thread of its own: what it is told holds when the call returns, for blocking
    clients and for those on an event loop. With `tls` clients speak TLS to it; the server does not.
    """

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.port = free_port()
        self._server_port = port
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._listener: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._hears, self._flows = asyncio.Event(), asyncio.Event()
        self._hears.set()
        self._flows.set()
        self._delay = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.reset()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def open(self) -> int:
        """How many connections clients have with it."""
        return len(self._connections)

    def through(self, url: str) -> str:
        """Lead the URL of the server through here."""
        led = url.replace(f"@127.0.0.1:{self._server_port}", f"@127.0.0.1:{self.port}")
        return led.replace("://", "s://", 1) if self._tls else led

    def refuse(self) -> None:
        """Refuse new connections, as if nobody listened; those that are open stay."""
        self._do(self._stop_listening())

    def deafen(self) -> None:
        """Accept new connections and leave them without a word; those that are open stay."""
        self._tell(self._hears.clear)

    def stall(self) -> None:
        """Pass nothing on from now, not even an end, as a network does that has gone."""
        self._tell(self._flows.clear)

    def delay(self, seconds: float) -> None:
        """Let all that passes, in either direction, take so much longer."""
        self._delay = seconds

    def reset(self) -> None:
        """Reset all open connections, on both sides; new ones are served."""
        self._do(self._reset_all())

    def heal(self) -> None:
        """Listen, and pass all on again, what was held back included."""
        self._delay = 0.0
        self._tell(self._hears.set, self._flows.set)
        self._do(self._listen())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _tell(self, *words: Callable[[], None]) -> None:
        async def tell() -> None:
            for word in words:
                word()

        self._do(tell())

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(
                self._accept,
                "127.0.0.1",
                self.port,
                ssl=self._tls,
                # Clients do not answer a good-bye of TLS.
                ssl_shutdown_timeout=0.1 if self._tls else None,
            )

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
        self._listener = None
        await asyncio.sleep(0)  # what was just accepted is to begin, or it would not be closed

    def _accept(self, near: StreamReader, to_near: StreamWriter) -> None:
        task = self._loop.create_task(self._serve(near, to_near))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _reset_all(self) -> None:
        connections = list(self._connections)
        await asyncio.sleep(0)  # one that has not begun could not be closed
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, near: StreamReader, to_near: StreamWriter) -> None:
        ends = [to_near]
        good_bye = False
        try:
            await self._hears.wait()
            far, to_far = await asyncio.open_connection("127.0.0.1", self._server_port)
            ends.append(to_far)
            good_bye = await self._pass_on(near, to_near, far, to_far)
        except OSError:
            pass  # the server refuses
        finally:
            for end in ends:  # all of them, before a cancellation may strike
                _part(end, good_bye)
            for end in ends:
                with suppress(OSError):  # the other side may have ended it already
                    await end.wait_closed()

    async def _pass_on(
        self, near: StreamReader, to_near: StreamWriter, far: StreamReader, to_far: StreamWriter
    ) -> bool:
        """Pass on what comes, both ways, until one side ends; say whether it said good-bye."""
        pumps = [
            asyncio.create_task(self._pass_requests(near, to_far)),
            asyncio.create_task(self._pass_answers(far, to_near)),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            return all(not pump.exception() for pump in done)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pass_requests(self, source: StreamReader, sink: StreamWriter) -> None:
        while chunk := await self._read(source):
            sink.write(chunk)
            await sink.drain()

    async def _pass_answers(self, source: StreamReader, sink: StreamWriter) -> None:
        await self._pass_requests(source, sink)

    async def _read(self, source: StreamReader, size: int = 65536) -> bytes:
        try:
            chunk = await source.read(size)
        except OSError:
            await self._flows.wait()  # not even a reset passes
            raise
        await asyncio.sleep(self._delay)
        await self._flows.wait()
        return chunk


def _part(end: StreamWriter, good_bye: bool) -> None:
    if not good_bye:
        with suppress(OSError):  # the other side may have ended it already
            made = end.get_extra_info("socket")
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.transport.abort()
    end.close()
