"""What may go wrong between a program and its endpoint, done to real connections."""

import asyncio
from asyncio import StreamReader, StreamWriter
from typing import Self

from tests.servers.proxy import FaultProxy
from tests.telemetry.endpoint import Receiver

FAULTS = ("refused", "busy", "hanging", "reset", "unanswered", "slow")
"""Nobody listens. Everybody is told to come back later. Accepted, and never answered. Reset in the
middle of a request. Taken, and reset instead of an answer. A few bytes at a time."""

PART = 1_000
"""Bytes of a connection that pass before it is reset; every request is longer."""
DRIP, PAUSE = 100, 0.05
"""Bytes at a time, and seconds between, where it is slow."""


class StruckError(Exception):
    """A connection is to be reset."""


class Proxy(FaultProxy):
    """Stands in front of a receiver, and does what the fault says until it is healed."""

    def __init__(self, receiver: Receiver, fault: str) -> None:
        super().__init__(receiver.port)
        self.url = f"http://127.0.0.1:{self.port}"
        self._receiver = receiver
        self._fault = fault
        receiver.busy = fault == "busy"

    def __enter__(self) -> Self:
        super().__enter__()
        if self._fault == "refused":
            self.refuse()
        if self._fault == "hanging":
            self.stall()
        return self

    def heal(self) -> None:
        """Let all pass from now on; what was open ends, as when an endpoint is restarted."""
        self._fault, self._receiver.busy = "", False
        self.reset()
        super().heal()

    async def _pass_requests(self, source: StreamReader, sink: StreamWriter) -> None:
        left = PART if self._fault == "reset" else None
        while chunk := await self._read(source):
            sink.write(chunk[:left])
            await sink.drain()
            if left is not None and (left := left - len(chunk)) < 0:
                raise StruckError

    async def _pass_answers(self, source: StreamReader, sink: StreamWriter) -> None:
        asked = self._receiver.asked
        while chunk := await self._read(source):
            if self._fault == "unanswered" and self._receiver.asked > asked:
                raise StruckError
            sink.write(chunk)
            await sink.drain()

    async def _read(self, source: StreamReader, size: int = 65536) -> bytes:
        if self._fault != "slow":
            return await super()._read(source, size)
        await asyncio.sleep(PAUSE)
        return await super()._read(source, DRIP)
