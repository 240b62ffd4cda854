"""A program that forks after its telemetry was set up and its pool was used. See test_forks.

`forked.py MOMENT END [ENDPOINT]`: it forks when its telemetry has sent everything (`idle`), nothing
yet (`unsent`), or is about to (`sending`, where its own endpoint hangs; the children have another).
The children end as a program does (`exit`), or by `_exit` after a shutdown. Each process prints who
it is and what it did, as a line of JSON.
"""

import asyncio
import json
import os
import sys
import time

from opentelemetry import trace

from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.telemetry.setup import setup_telemetry


async def use(times: int) -> None:
    for _ in range(times):
        with trace.get_tracer("app").start_as_current_span(f"request of {os.getpid()}"):
            async with pool.connection():
                pass


def counts() -> list[int]:
    assert telemetry.exporter is not None
    assert telemetry.span_exporter is not None
    spans, exports = telemetry.span_exporter, telemetry.exporter
    return [spans.sent, spans.lost, exports.exports, exports.failed]


def tell(requests: int, began_at: list[int]) -> None:
    line = json.dumps({"pid": os.getpid(), "requests": requests, "counts": began_at})
    os.write(1, f"{line}\n".encode())  # in one piece: the others write too


def fork(requests: int) -> int:
    """Fork; the child makes so many requests, and does not return."""
    child = os.fork()
    if child == 0:
        began_at = counts()
        asyncio.run(use(requests))
        tell(requests, began_at)
        if end == "_exit":
            telemetry.shutdown()
            os._exit(0)
        sys.exit(0)
    return child


def get_into(moment: str) -> None:
    if moment == "idle":
        assert telemetry.force_flush()
    elif moment == "sending":
        time.sleep(0.5)  # there is no way to see that an export is under way
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = sys.argv[3]


if __name__ == "__main__":
    moment, end = sys.argv[1:3]
    telemetry = setup_telemetry("shop")
    pool = ConnectionPool(object, ConnectionPoolSettings(name="orders"))
    runner = asyncio.Runner()
    began_at = counts()
    runner.run(use(3))
    get_into(moment)
    children = [fork(5), fork(7)]
    runner.run(use(1))
    tell(4, began_at)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    runner.close()
