import asyncio
import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from poolscope import EventBus, PoolTimeoutError, QueueFullError, bus
from poolscope.events import (
    EVENT_TYPES,
    CloseFailed,
    ConnectFailed,
    ConnectFault,
    ConnectionAcquired,
    ConnectionReleased,
    ConnectionRequested,
    Event,
    LeakSuspected,
    Misuse,
    MisuseDetected,
    PoolClosed,
    RequestQueued,
    SaturationEnded,
    SaturationStarted,
)
from poolscope.telemetry.logs import log_pools, logfmt
from poolscope.telemetry.otel_spans import PoolTracer
from poolscope.testing import Ledger, run_virtual
from tests.behaviour.bench import bench, ticks
from tests.support import run
from tests.telemetry.traffic import Clock, expect, fail_to_connect, hold, make_pool

SECRET = "hunter2"
DSN = f"postgresql://app:{SECRET}@db.internal/shop"


class Lines(logging.Handler):
    """Keeps what is logged; `also` is done with every record, while it is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.also: Callable[[logging.LogRecord], object] = id

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.also(record)

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    def fields(self, event: str) -> dict[str, Any]:
        """The fields of the only line about this kind of event."""
        (found,) = [f for r in self.records if (f := r.__dict__["poolscope"])["event"] == event]
        return dict(found)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("tests.pools")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    logger.handlers.clear()


@pytest.fixture
def lines(logger: logging.Logger) -> Iterator[Lines]:
    """What is logged of all pools."""
    lines = Lines()
    logger.addHandler(lines)
    log = log_pools(logger)
    yield lines
    log.close()


class Teller:
    """A pool of which only the events are seen; its clock is moved by hand."""

    def __init__(self, name: str = "orders") -> None:
        self.bus = EventBus(bus.ROOT)
        self.name = name
        self.now = 1000.0
        self.sequence = 0

    def tell(self, kind: type[Event], *fields: object, times: int = 1) -> None:
        for _ in range(times):
            self.sequence += 1
            self.bus.publish(kind, self.name, self.now, self.sequence, *fields)


# What is said


def test_a_timeout_is_a_line_that_tells_the_state_of_the_pool(lines: Lines) -> None:
    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool, pool.connection():
            clock.now += 42.0
            await expect(PoolTimeoutError, pool)

    run(main())
    (timeout,) = [r for r in lines.records if "acquire_timed_out" in r.getMessage()]
    assert timeout.levelno == logging.WARNING
    text = re.sub(r"(?<=oldest_use_at=)\S+", "PLACE", timeout.getMessage())
    assert text == (
        "pool=orders event=acquire_timed_out wait=0.000 waiting=0 in_use=1 max_size=1 "
        "oldest_use=42.000 oldest_use_at=PLACE"
    )
    place = lines.fields("acquire_timed_out")["oldest_use_at"]
    assert re.fullmatch(r"telemetry/test_logs.py:\d+", place)


def test_the_fields_come_with_the_record_as_they_are(lines: Lines) -> None:
    Teller().tell(SaturationEnded, 0.1234567, 7)
    (record,) = lines.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == (
        "pool=orders event=saturation_ended duration=0.123 peak_waiting=7"
    )
    assert json.loads(json.dumps(record.__dict__["poolscope"])) == {
        "pool": "orders", "event": "saturation_ended", "duration": 0.1234567, "peak_waiting": 7,
    }  # fmt: skip


def test_saturation_is_told_when_it_starts_and_when_it_ends(lines: Lines) -> None:
    async def main() -> None:
        async with bench(max_size=1) as b:
            async with b.pool.connection():
                waiting = [asyncio.create_task(b.hold(0)) for _ in range(3)]
                await asyncio.sleep(2.0)
            await asyncio.wait(waiting)

    run_virtual(main())
    assert [(r.levelno, r.getMessage()) for r in lines.records] == [
        (logging.WARNING, "pool=bench event=saturation_started waiting=1"),
        (logging.INFO, "pool=bench event=saturation_ended duration=2.000 peak_waiting=3"),
    ]


def test_a_failed_connect_is_an_error_in_closed_words(lines: Lines) -> None:
    error = ConnectionRefusedError(f"cannot reach {DSN}")
    run_in_pool(fail_to_connect, error=error)
    fault, failed = lines.records
    assert fault.levelno == logging.ERROR
    assert fault.getMessage() == (
        "pool=orders event=connect_failed connection_id=orders#1 attempt=1 create=0.020 "
        "fault=refused error=ConnectionRefusedError"
    )
    assert failed.levelno == logging.WARNING
    assert failed.getMessage() == (
        "pool=orders event=acquire_failed wait=0.020 reason=connect_failed "
        "error=ConnectionRefusedError"
    )


def test_a_close_that_fails_is_told(lines: Lines) -> None:
    Teller().tell(CloseFailed, "orders#3", OSError(DSN))
    assert lines.texts == ["pool=orders event=close_failed connection_id=orders#3 error=OSError"]


def test_what_somebody_chose_is_not_told(lines: Lines) -> None:
    async def main() -> None:
        clock = Clock()
        async with make_pool("orders", clock) as pool, pool.connection():
            caller = asyncio.create_task(hold(pool, clock, 1.0))
            await ticks(2)
            caller.cancel()
            await asyncio.wait({caller})

    run(main())
    Teller().tell(ConnectFailed, "orders#1", 0.5, 1, OSError(), ConnectFault.ABANDONED)
    assert {record.__dict__["poolscope"]["event"] for record in lines.records} == {
        "saturation_started", "saturation_ended",
    }  # fmt: skip


def test_a_request_that_finds_the_line_full_is_told(lines: Lines) -> None:
    async def main() -> None:
        async with bench(max_size=1, max_waiting=1) as b, b.pool.connection():
            first = asyncio.create_task(b.hold(0))
            await ticks(2)
            with pytest.raises(QueueFullError):
                await b.pool.acquire()
            first.cancel()
            await asyncio.wait({first})

    run_virtual(main())
    assert lines.fields("acquire_failed") == {
        "pool": "bench", "event": "acquire_failed", "wait": 0.0, "reason": "queue_full",
    }  # fmt: skip


def test_a_leak_is_told_with_where_it_began_and_what_its_holder_does(lines: Lines) -> None:
    async def main() -> None:
        async with bench(leak_threshold=30.0) as b:
            secret = SECRET
            holder = await b.holder(100.0)
            assert secret
            await asyncio.sleep(40.0)
            suspected = lines.fields("leak_suspected")
            assert re.fullmatch(r"behaviour/bench.py:\d+", suspected["acquired_at"])
            assert re.fullmatch(r"\S+/\S+.py:\d+ in \w+", suspected["holder"])
            assert suspected["connection_id"] == "bench#1"
            assert suspected["use"] >= 30.0
            await holder

    run_virtual(main())
    assert lines.fields("leak_returned")["use"] == 100.0
    assert [record.levelno for record in lines.records] == [logging.WARNING, logging.INFO]


def test_a_lease_taken_back_by_force_is_told(lines: Lines) -> None:
    async def main() -> None:
        async with bench() as b:
            await b.pool.acquire()
            await b.pool.close(timeout=0)

    run_virtual(main())
    (record,) = lines.records
    assert record.levelno == logging.WARNING
    assert lines.fields("leak_reclaimed")["reason"] == "pool_closed"


def test_a_misuse_is_told(lines: Lines) -> None:
    async def main() -> None:
        async with bench() as b:
            with contextlib.suppress(Exception):
                await b.pool.release(Ledger)  # type: ignore[arg-type]

    run_virtual(main())
    assert lines.texts == [
        'pool=bench event=misuse_detected misuse=foreign_release detail="this type"'
    ]
    assert {type(value) for value in lines.fields("misuse_detected").values()} == {str}


def test_no_text_of_an_exception_and_no_source_text_gets_into_a_line(lines: Lines) -> None:
    stack = (
        f"task 'Task-1':\n"
        f'  File "/srv/app/orders.py", line 88, in place_order\n    connect("{DSN}")\n'
        f'  File "/srv/app/db.py", line 7, in fetch\n    File "{SECRET}", line 1, in {SECRET}'
    )
    teller = Teller()
    teller.tell(LeakSuspected, 1, "orders#1", 61.0, "app/orders.py:88", stack)
    teller.tell(ConnectFailed, "orders#1", 0.5, 1, ValueError(DSN), ConnectFault.AUTH)
    teller.tell(CloseFailed, "orders#1", ValueError(DSN))
    assert lines.fields("leak_suspected")["holder"] == "app/db.py:7 in fetch"
    for record in lines.records:
        everything = f"{record.getMessage()} {record.__dict__}"
        assert SECRET not in everything
        assert record.exc_info is None


@pytest.mark.parametrize("stack", ["(held outside any task)", "", "task 'x':"])
def test_a_holder_without_a_stack_is_left_out(lines: Lines, stack: str) -> None:
    Teller().tell(LeakSuspected, 1, "orders#1", 61.0, None, stack)
    assert lines.texts == ["pool=orders event=leak_suspected connection_id=orders#1 use=61.000"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("orders", "orders"),
        ("größe", "größe"),
        ("app/orders.py:88", "app/orders.py:88"),
        ("", '""'),
        ("two words", '"two words"'),
        ("größe 2", '"größe 2"'),
        ('a"b', r'"a\"b"'),
        ("a=b", '"a=b"'),
        ("a\\b", r'"a\\b"'),
        ("a\nlevel=ERROR", r'"a\nlevel=ERROR"'),
        ("a\x1b[31m", r'"a\u001b[31m"'),
        ("a\rb\tc\x00\x1b[31m", r'"a\rb\tc\u0000\u001b[31m"'),
        ("a\x85b\u2028c\x7f\xa0\ud800", r'"a\u0085b\u2028c\u007f\u00a0\ud800"'),
        (37, "37"),
        (5.00349, "5.003"),
    ],
)
def test_no_value_breaks_out_of_its_line(value: str | int | float, text: str) -> None:
    line = logfmt({"pool": value, "event": "x"})
    assert line == f"pool={text} event=x"
    assert len(line.encode().splitlines()) == len(line.splitlines()) == 1


# Traces


def test_a_line_leads_to_the_span_it_was_written_in(lines: Lines, provider: TracerProvider) -> None:
    async def main() -> trace.SpanContext:
        async with make_pool("orders", Clock()) as pool, pool.connection():
            with provider.get_tracer("app").start_as_current_span("request") as span:
                await expect(PoolTimeoutError, pool)
                return span.get_span_context()

    context = run(main())
    fields = lines.fields("acquire_timed_out")
    assert fields["trace_id"] == trace.format_trace_id(context.trace_id)
    assert fields["span_id"] == trace.format_span_id(context.span_id)
    assert f"trace_id={fields['trace_id']} span_id={fields['span_id']}" in "\n".join(lines.texts)


def test_a_suspected_leak_leads_to_the_span_of_its_holder(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter, lines: Lines
) -> None:
    async def main() -> None:
        async with bench(leak_threshold=30.0) as b:
            with provider.get_tracer("app").start_as_current_span("request"):
                holder = await b.holder(100.0)
                await b.hold(0)
            await holder

    run_virtual(main())
    *_, use = [s for s in exporter.get_finished_spans() if s.name == "pool.use"]
    for event in ("leak_suspected", "leak_returned"):
        assert lines.fields(event)["trace_id"] == trace.format_trace_id(use.context.trace_id)
        assert lines.fields(event)["span_id"] == trace.format_span_id(use.context.span_id)


def test_a_failed_connect_leads_to_its_own_span(
    tracer: PoolTracer, provider: TracerProvider, exporter: InMemorySpanExporter, lines: Lines
) -> None:
    async def main() -> None:
        async with make_pool("orders", Clock(), error=OSError()) as pool:
            with provider.get_tracer("app").start_as_current_span("request"):
                await fail_to_connect(pool)

    run(main())
    (connect,) = [s for s in exporter.get_finished_spans() if s.name == "pool.connect"]
    assert lines.fields("connect_failed")["span_id"] == trace.format_span_id(
        connect.context.span_id
    )


# How much is said


def test_of_a_flood_five_lines_are_logged_and_the_next_one_counts_the_rest(lines: Lines) -> None:
    teller = Teller()
    teller.tell(SaturationStarted, 1, times=42)
    assert len(lines.records) == 5
    teller.now += 10.0
    teller.tell(SaturationStarted, 1)
    assert lines.texts[5:] == ["pool=orders event=saturation_started waiting=1 suppressed=37"]
    teller.now += 60.0
    teller.tell(SaturationStarted, 1, times=10)
    assert len(lines.records) == 6 + 5
    assert not any("suppressed" in text for text in lines.texts[6:])


def test_each_pool_and_each_kind_of_event_has_lines_of_its_own(lines: Lines) -> None:
    one, two = Teller("one"), Teller("two")
    one.tell(SaturationStarted, 1, times=10)
    one.tell(SaturationEnded, 0.1, 1, times=10)
    two.tell(SaturationStarted, 1, times=10)
    assert len(lines.records) == 15


def test_the_rate_can_be_chosen_and_the_last_choice_counts(
    lines: Lines, logger: logging.Logger
) -> None:
    teller = Teller()
    log = log_pools(logger, per_minute=60)
    assert log.per_minute == 60
    teller.tell(SaturationStarted, 1, times=10)
    teller.now += 2.0
    teller.tell(SaturationStarted, 1, times=10)
    assert len(lines.records) == 5 + 2


def test_a_clock_that_goes_back_silences_nothing_for_long(lines: Lines) -> None:
    teller = Teller()
    teller.tell(SaturationStarted, 1, times=10)
    teller.now = 3.0
    teller.tell(SaturationStarted, 1)
    teller.now += 10.0
    teller.tell(SaturationStarted, 1)
    assert len(lines.records) == 6


def test_a_pool_that_closed_is_forgotten(lines: Lines) -> None:
    first, second = Teller(), Teller()
    first.tell(SaturationStarted, 1, times=10)
    first.tell(PoolClosed)
    second.tell(SaturationStarted, 1, times=10)
    assert len(lines.records) == 10
    assert not any("suppressed" in text for text in lines.texts)


def test_pools_without_end_are_forgotten_too_the_oldest_first(lines: Lines) -> None:
    oldest = Teller("oldest")
    oldest.tell(SaturationStarted, 1, times=10)
    for number in range(2000):
        Teller(f"pool-{number}").tell(SaturationStarted, 1)
    oldest.tell(SaturationStarted, 1)
    Teller("pool-1000").tell(SaturationStarted, 1, times=10)
    assert len(lines.records) == 5 + 2000 + 1 + 4


def test_lines_nobody_wants_are_not_counted_against_the_rate(
    lines: Lines, logger: logging.Logger
) -> None:
    teller = Teller()
    logger.setLevel(logging.ERROR)
    teller.tell(SaturationStarted, 1, times=10)
    logger.setLevel(logging.INFO)
    teller.tell(SaturationStarted, 1)
    assert lines.texts == ["pool=orders event=saturation_started waiting=1"]


@pytest.mark.parametrize("rate", [0, -1, 1.5, True, None])
def test_a_rate_that_makes_no_sense_is_refused(rate: Any) -> None:
    with pytest.raises(ValueError, match="per_minute must be a whole number of at least 1: got"):
        log_pools(per_minute=rate)


# On and off


def test_asking_again_for_the_same_logger_gives_the_same_object(
    lines: Lines, logger: logging.Logger
) -> None:
    log = log_pools(logger)
    assert log_pools(logger) is log
    Teller().tell(SaturationStarted, 1)
    assert len(lines.records) == 1
    log.close()
    log.close()
    Teller().tell(SaturationStarted, 1)
    assert len(lines.records) == 1
    assert log_pools(logger) is log
    Teller().tell(SaturationStarted, 1)
    assert len(lines.records) == 2


def test_the_logger_is_that_of_the_package_by_default(caplog: pytest.LogCaptureFixture) -> None:
    log = log_pools()
    try:
        assert log_pools(logging.getLogger("poolscope")) is log
        Teller().tell(SaturationStarted, 1)
    finally:
        log.close()
    assert caplog.record_tuples == [
        ("poolscope", logging.WARNING, "pool=orders event=saturation_started waiting=1")
    ]


def test_what_happens_with_every_request_is_not_listened_to(logger: logging.Logger) -> None:
    hot = {ConnectionRequested, RequestQueued, ConnectionAcquired, ConnectionReleased}
    before = dict(bus.ROOT.hooks)
    log = log_pools(logger)
    after = dict(bus.ROOT.hooks)
    log.close()
    assert not {kind for kind in EVENT_TYPES if after[kind] != before[kind]} & hot
    assert bus.ROOT.hooks == before


# Log handlers that misbehave


def test_a_log_handler_that_raises_harms_no_pool_and_no_other_subscriber(lines: Lines) -> None:
    def fail(record: logging.LogRecord) -> None:
        raise OSError("disk full")

    lines.also = fail
    heard: list[Event] = []
    with bus.ROOT.subscribe(heard.append, SaturationStarted):
        run_in_pool(fail_to_connect, error=ConnectionRefusedError())
        Teller().tell(SaturationStarted, 1)
    assert len(lines.records) == 3
    assert len(heard) == 1


def test_a_log_that_was_detached_can_be_opened_again(lines: Lines, logger: logging.Logger) -> None:
    def fail(record: logging.LogRecord) -> None:
        raise OSError("disk full")

    lines.also = fail
    teller = Teller()
    for _ in range(20):
        teller.now += 60.0
        teller.tell(SaturationStarted, 1)
    assert len(lines.records) == 10
    lines.also = id
    log_pools(logger)
    teller.tell(SaturationStarted, 1)
    assert len(lines.records) == 11


def test_a_log_handler_that_misuses_the_pool_is_not_logged_for_ever(lines: Lines) -> None:
    teller = Teller()
    lines.also = lambda _: teller.tell(MisuseDetected, Misuse.DOUBLE_RELEASE, "orders#1")
    teller.tell(SaturationStarted, 1, times=2)
    assert [text.split()[1] for text in lines.texts] == ["event=saturation_started"] * 2
    lines.also = id
    teller.tell(MisuseDetected, Misuse.DOUBLE_RELEASE, "orders#1")
    assert len(lines.records) == 3


def test_a_log_handler_that_starts_work_with_a_pool_is_not_logged_for_ever(lines: Lines) -> None:
    async def main() -> int:
        clock = Clock()
        async with make_pool("orders", clock) as pool, pool.connection():
            tasks: list[asyncio.Task[None]] = []

            def write_to_database(_: logging.LogRecord) -> None:
                tasks.append(asyncio.create_task(expect(PoolTimeoutError, pool)))

            await expect(PoolTimeoutError, pool)
            lines.records.clear()
            lines.also = write_to_database
            await expect(PoolTimeoutError, pool)
            while any(not task.done() for task in tasks):
                await asyncio.wait(tasks)
            lines.also = id
            return len(tasks)

    assert run(main()) == 1
    assert [record.__dict__["poolscope"]["event"] for record in lines.records] == [
        "acquire_timed_out",
    ]


def test_a_log_handler_may_open_and_close_the_log(lines: Lines, logger: logging.Logger) -> None:
    lines.also = lambda _: log_pools(logger).close()
    teller = Teller()
    teller.tell(SaturationStarted, 1, times=3)
    assert len(lines.records) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_goes_on_logging(lines: Lines) -> None:
    teller = Teller()
    teller.tell(SaturationStarted, 1, times=4)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            teller.tell(SaturationStarted, 1, times=10)
            os._exit(len(lines.records))
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5


def run_in_pool(work: Callable[[Any], Any], **how: Any) -> None:
    async def main() -> None:
        async with make_pool("orders", Clock(), **how) as pool:
            await work(pool)

    run(main())
