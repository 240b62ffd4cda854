"""Whatever happens to the endpoint, pools do as they do without telemetry, and losses are counted.

Each test runs a program of its own, in real time.
"""

import json
import re
import subprocess
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import pytest

from poolscope.telemetry.catalog import WAIT_BUCKETS
from tests.telemetry.endpoint import RECEIVERS, HttpReceiver, Receiver, plain
from tests.telemetry.faults import FAULTS, Proxy
from tests.telemetry.programs import STRICT, USE_A_POOL, run_program, start

pytestmark = [pytest.mark.servers, pytest.mark.slow]

HASTE = {
    # The load ends some 3,000 spans, more than ten times of what may wait.
    "OTEL_BSP_MAX_QUEUE_SIZE": "256",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "64",
    "OTEL_BSP_SCHEDULE_DELAY": "50",
    "OTEL_METRIC_EXPORT_INTERVAL": "100",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5",
    # The SDK then counts the spans for which its queue had no room.
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true",
}
LINE = re.compile(
    r"pool=\w+ event=|Failed to export |Transient error |Queue full, dropping Span\.$"
    r"|Shutdown in progress, aborting retry\.$"
)
"""What may be logged: by `log_pools`, and by the SDK."""

PATIENCE = 2.0
"""Seconds a program gives an endpoint at its end, as `setup` has it."""
BUSY = 2.0
"""Seconds the interpreter may need besides on a busy machine."""

FLUSH_AND_END = """
asyncio.run(main())
began = time.monotonic()
print(telemetry.force_flush(0.2), time.monotonic() - began, time.time(), flush=True)
"""


@contextmanager
def loaded(*words: str, protocol: str, endpoint: str) -> Iterator["subprocess.Popen[str]"]:
    program = (*STRICT, "-m", "tests.telemetry.loaded", *words)
    with start(*program, protocol=protocol, endpoint=endpoint, **HASTE) as process:
        try:
            yield process
        finally:
            process.kill()


def read(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line, process.stderr.read()
    found: dict[str, Any] = json.loads(line)
    return found


@cache
def without_telemetry() -> dict[str, Any]:
    with loaded("off", protocol="", endpoint="") as process:
        return read(process)


def bucket(seconds: float) -> int:
    return bisect_left(WAIT_BUCKETS, seconds)


def dropped(receiver: Receiver) -> int:
    """How many spans found the queue full, as the SDK says."""
    last = 0
    for _, metric in receiver.points():
        if metric.name == "otel.sdk.processor.span.processed":
            for point in metric.sum.data_points:
                if plain(point.attributes).get("error.type") == "queue_full":
                    last = point.as_int
    return last


@pytest.mark.parametrize("protocol", RECEIVERS)
@pytest.mark.parametrize("fault", FAULTS)
def test_pools_do_as_without_telemetry_and_what_is_lost_is_counted(
    fault: str, protocol: str
) -> None:
    bare = without_telemetry()
    with (
        RECEIVERS[protocol]() as receiver,
        Proxy(receiver, fault) as proxy,
        loaded(protocol=protocol, endpoint=proxy.url) as process,
    ):
        ill = read(process)
        proxy.heal()
        output, log = process.communicate("heal\n", timeout=30)
    well = json.loads(output)

    assert (ill["outcomes"], ill["counts"]) == (bare["outcomes"], bare["counts"])
    # A bucket is about twice as wide as the one before. That much other threads and the machine may
    # do; whoever waited for the endpoint would be five or more buckets above.
    assert bucket(ill["p99"]) <= bucket(bare["p99"]) + 1
    # A full queue takes some 1.3 MB, and all spans would take 7.
    assert ill["memory"][-1] < 3_000_000

    succeeded, took = ill["flushed"]
    assert not succeeded
    assert took < 0.3 + BUSY
    assert ill["lost"] > 0
    assert ill["exports"] >= ill["failed"] > 0

    assert well["flushed"]
    assert process.returncode == 0
    assert [line for line in log.splitlines() if not LINE.match(line)] == []
    # What is counted arrives whole, as it is cumulative.
    assert list(receiver.requests_by_instance().values()) == [ill["requests"]]
    # Spans are gone, but none without being counted. The SDK counts one too many when its queue
    # gets room at this very moment.
    missing = well["ended"] - well["sent"] - well["lost"]
    assert missing <= dropped(receiver) <= missing + 0.01 * well["ended"]


@pytest.mark.parametrize("protocol", RECEIVERS)
def test_a_program_ends_in_time_whatever_the_endpoint_does(protocol: str) -> None:
    # All at once, for they mostly wait.
    with ExitStack() as stack:
        programs = []
        for fault in FAULTS:
            receiver = stack.enter_context(RECEIVERS[protocol]())
            proxy = stack.enter_context(Proxy(receiver, fault))
            process = start(
                *STRICT, "-c", USE_A_POOL + FLUSH_AND_END, protocol=protocol, endpoint=proxy.url
            )
            programs.append((fault, stack.enter_context(process)))
            stack.callback(process.kill)
        for fault, process in programs:
            assert process.stdout is not None
            result, took, end = process.stdout.readline().split()
            assert (fault, result) == (fault, "False")
            assert 0.2 <= float(took) < 0.2 + BUSY, fault
            _, log = process.communicate(timeout=30)
            assert time.time() - float(end) < PATIENCE + BUSY, fault
            assert process.returncode == 0, fault
            assert [line for line in log.splitlines() if not LINE.match(line)] == [], fault


@pytest.mark.parametrize("protocol", RECEIVERS)
def test_shutdown_keeps_its_deadline_and_the_program_goes_on(protocol: str) -> None:
    text = (
        USE_A_POOL
        + """
asyncio.run(main())
began = time.monotonic()
print(telemetry.shutdown(0.3), time.monotonic() - began)
asyncio.run(main())
print(time.time())
"""
    )
    with RECEIVERS[protocol]() as receiver, Proxy(receiver, "hanging") as proxy:
        done = run_program(*STRICT, "-c", text, protocol=protocol, endpoint=proxy.url)
    ended = time.time()
    assert done.returncode == 0, done.stderr
    result, took, end = done.stdout.split()
    assert result == "False"
    assert 0.3 <= float(took) < 0.3 + BUSY
    assert ended - float(end) < BUSY


def test_flushes_do_not_pile_up_behind_an_endpoint_that_hangs() -> None:
    text = (
        USE_A_POOL
        + """
import os, threading
before = threading.active_count()
asyncio.run(main(lambda: [telemetry.force_flush(0.001) for _ in range(100)]))
began = time.monotonic()
print(telemetry.force_flush(5.0), time.monotonic() - began, flush=True)
assert threading.active_count() <= before + 1, threading.enumerate()
os._exit(0)
"""
    )
    # Spans apart: the SDK lets every flush of them wait for the one before.
    variables = {"protocol": "http/protobuf", "OTEL_TRACES_EXPORTER": "none"}
    with HttpReceiver() as receiver, Proxy(receiver, "hanging") as proxy:
        done = run_program(*STRICT, "-c", text, endpoint=proxy.url, **variables)
    assert done.returncode == 0, done.stderr
    result, took = done.stdout.split()
    assert result == "False"
    assert float(took) < BUSY
