"""What may go wrong between a program and its endpoint, done to real connections."""

import asyncio
import socket
import struct
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self

from tests.telemetry.endpoint import Receiver

FAULTS = ("refused", "busy", "hanging", "reset", "unanswered", "slow")
"""Nobody listens. Everybody is told to come back later. Accepted, and never answered. Reset in the
middle of a request. Taken, and reset instead of an answer. A few bytes at a time."""

PART = 1_000
"""Bytes of a connection that pass before it is reset; every request is longer."""
DRIP, PAUSE = 100, 0.05
"""Bytes at a time, and seconds between, where it is slow."""


class Proxy:
    """Stands in front of a receiver, and does what the fault says until it is healed."""

    def __init__(self, receiver: Receiver, fault: str) -> None:
        self._receiver = receiver
        self._fault = fault
        receiver.busy = fault == "busy"
        # A socket that is bound but does not listen keeps its port and refuses.
        self._socket = socket.create_server(("127.0.0.1", 0)) if fault != "refused" else _bound()
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        if self._fault != "refused":
            self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._hang_up())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._socket.close()

    def heal(self) -> None:
        """Let all pass from now on; what was open ends, as when an endpoint is restarted."""
        refused = self._fault == "refused"
        self._fault, self._receiver.busy = "", False
        self._do(self._listen() if refused else self._hang_up())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        self._socket.listen()
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        client, _ = self._socket.accept()
        task = self._loop.create_task(self._serve(client))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _hang_up(self) -> None:
        connections = list(self._connections)
        await asyncio.sleep(0)  # what was just accepted is to begin, or it would not be closed
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, client: socket.socket) -> None:
        near, to_near = await asyncio.open_connection(sock=client)
        good_bye = False
        try:
            good_bye = await self._pass_on(near, to_near)
        finally:
            if not good_bye:
                _reset(to_near)
            to_near.close()

    async def _pass_on(self, near: StreamReader, to_near: StreamWriter) -> bool:
        """Pass on what comes, both ways, until one side ends, or the fault strikes: then False."""
        asked = self._receiver.asked
        far, to_far = await asyncio.open_connection("127.0.0.1", self._receiver.port)
        pumps = [
            asyncio.create_task(self._pass_requests(near, to_far)),
            asyncio.create_task(self._pass_answers(far, to_near, asked)),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            return all(not pump.exception() and pump.result() for pump in done)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            to_far.close()

    async def _pass_requests(self, source: StreamReader, sink: StreamWriter) -> bool:
        fault, left = self._fault, PART
        if fault == "hanging":
            await asyncio.Event().wait()
        while chunk := await self._read(source):
            sink.write(chunk[:left] if fault == "reset" else chunk)
            await sink.drain()
            left -= len(chunk)
            if fault == "reset" and left < 0:
                return False
        return True

    async def _pass_answers(self, source: StreamReader, sink: StreamWriter, asked: int) -> bool:
        fault = self._fault
        while chunk := await self._read(source):
            if fault == "unanswered" and self._receiver.asked > asked:
                return False
            sink.write(chunk)
            await sink.drain()
        return True

    async def _read(self, source: StreamReader) -> bytes:
        if self._fault != "slow":
            return await source.read(65536)
        await asyncio.sleep(PAUSE)
        return await source.read(DRIP)


def _bound() -> socket.socket:
    made = socket.socket()
    made.bind(("127.0.0.1", 0))
    return made


def _reset(writer: StreamWriter) -> None:
    """Let closing be a reset, not a good-bye."""
    with suppress(OSError):  # the other side may have ended it already
        made = writer.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
