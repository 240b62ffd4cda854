"""A secret that the application knows must be in nothing of ours that others may read."""

import asyncio
import functools
import gc
import os
import pprint
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from rich.pretty import pretty_repr

from poolscope import (
    ConnectFailedError,
    ConnectionPool,
    ConnectionPoolSettings,
    EventBus,
    PoolClosedError,
    PoolManager,
    PoolTimeoutError,
    QueueFullError,
    ReleaseError,
    ValidationFailedError,
    WrongLoopError,
)
from poolscope.cli import main as cli
from poolscope.events import (
    EVENT_TYPES,
    AcquireFailed,
    AcquireTimedOut,
    CloseFailed,
    ConnectFailed,
    ConnectFault,
    ConnectionAcquired,
    ConnectionClosed,
    ConnectionReleased,
    Event,
    FailureReason,
    LeakReclaimed,
    LeakSuspected,
    Misuse,
    MisuseDetected,
    SubscriberFailed,
)
from poolscope.faults import shown
from poolscope.target import Target
from poolscope.telemetry.exporters import make_metric_exporter, make_span_exporter
from poolscope.telemetry.logs import log_pools
from poolscope.telemetry.otel_spans import PoolTracer, trace_pools
from poolscope.telemetry.prometheus import start_metrics_server
from poolscope.testing import run_virtual
from poolscope.testing.postgres import PostgresServer
from tests.support import run
from tests.telemetry.spans import under
from tests.telemetry.told import CANARY, Told, listening, own_texts
from tests.telemetry.traffic import fake_source

DSN = f"postgresql://app:{CANARY}@db.internal/shop"

DSNS = [
    DSN,
    f"postgres://app:{CANARY}@db1:5432,db2:5433/shop?target_session_attrs=primary",
    f"postgresql+asyncpg://app:{CANARY}%2F%40@db/shop",
    f"postgresql://app:12/{CANARY}#x?y@db/shop",
    f"postgresql://db/shop?user=app&password={CANARY}",
    f"postgresql:///shop?host=/run/postgresql&password={CANARY}",
    f"postgresql://app:{CANARY}@[::1]:5432/shop",
    f"host=db.internal user=app password={CANARY} dbname=shop",
    f"password='it is {CANARY}' host=db",
    f"mysql://app:{CANARY}@db:3306/shop",
    f"mariadb+pymysql://app:{CANARY}@db/shop?ssl_key_password={CANARY}",
    f"redis://:{CANARY}@db:6379/0",
    f"redis://{CANARY}@db",
    f"rediss://app:{CANARY}@db/1",
    f"redis://db/0?password={CANARY}",
    f"unix://:{CANARY}@/run/redis.sock?db=1",
    f"sqlite:///shop.db?key={CANARY}",
    f"sqlite+pysqlcipher://:{CANARY}@/shop.db",
    f"mongodb://app:{CANARY}@db1,db2/shop?replicaSet=a",
    f"mongodb+srv://app:{CANARY}@cluster/shop",
    f"mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3D{CANARY}",
    f"jdbc:postgresql://db/shop?password={CANARY}",
]
every_dsn = pytest.mark.parametrize("dsn", DSNS)


@pytest.fixture
def told(
    exporter: InMemorySpanExporter, tracer: PoolTracer, reader: InMemoryMetricReader
) -> Iterator[Told]:
    with listening(exporter, reader) as told:
        yield told


# An application whose every part knows the secret, and tells it


class DriverError(OSError):
    """Tells the secret wherever an error can."""

    def __init__(self, dsn: str) -> None:
        super().__init__(111, f"cannot connect to {dsn}", dsn)
        self.dsn = dsn
        self.add_note(f"tried {dsn}")

    def __repr__(self) -> str:
        return f"DriverError({self.dsn})"


def driver_error(dsn: str) -> DriverError:
    error = DriverError(dsn)
    error.__cause__ = KeyError(dsn)
    error.__cause__.__context__ = ExceptionGroup(dsn, [ValueError(dsn)])
    return error


class Connection:
    """A connection that tells where it leads to."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def __repr__(self) -> str:
        return f"<Connection to {self.dsn}>"

    async def execute(self, query: str) -> None:
        await asyncio.sleep(100)


def raises(dsn: str) -> Callable[..., Any]:
    def function(*_: object) -> None:
        raise driver_error(dsn)

    return function


async def connect(dsn: str) -> Connection:
    return Connection(dsn)


def make_pool(factory: Callable[[], Any], **options: Any) -> ConnectionPool[Any]:
    functions = {name: options.pop(name) for name in list(options) if name.endswith("_func")}
    chosen = {"min_size": 0, "max_size": 1, "retry_limit": 0, "retry_delay": 0, "name": "orders"}
    settings = ConnectionPoolSettings(**(chosen | options))
    clock = asyncio.get_running_loop().time
    return ConnectionPool(factory, settings, clock=clock, **functions)


async def attempt(told: Told, kind: type[BaseException], action: Any) -> BaseException:
    """Do what is to fail, and keep the error."""
    with pytest.raises(kind) as caught:
        await action
    told.errors.append(caught.value)
    return caught.value


async def fail_to_connect(told: Told, dsn: str) -> None:
    pool = make_pool(raises(dsn), min_size=1, target=Target("postgresql", "db.internal"))
    await attempt(told, ConnectFailedError, pool.initialize())
    refused = await attempt(told, ConnectFailedError, pool.acquire())
    assert CANARY in "".join(traceback.format_exception(refused)), "the driver's own words"
    told.look(pool, pool.stats(), pool.settings, pool.get_metrics())
    await pool.close()
    async with make_pool(raises(dsn), retry_limit=9, retry_delay=9) as pool:
        late = await attempt(told, PoolTimeoutError, pool.acquire(1))
        assert CANARY in "".join(traceback.format_exception(late))


async def fail_to_validate(told: Told, dsn: str) -> None:
    async with make_pool(functools.partial(connect, dsn), validate_func=raises(dsn)) as pool:
        await attempt(told, ValidationFailedError, pool.acquire())
        told.look(pool)


async def lend(told: Told, dsn: str) -> None:
    """Use a pool well and badly: a leak, a full line, resets and closes that fail."""
    broken = {"reset_func": raises(dsn), "close_func": raises(dsn)}
    pool = make_pool(
        functools.partial(connect, dsn), **broken, max_waiting=1, leak_threshold=1, name="users"
    )
    async with pool:
        holder = asyncio.create_task(hold(pool), name=f"job of {dsn}")
        await asyncio.sleep(20)
        waiting = asyncio.create_task(attempt(told, PoolTimeoutError, pool.acquire(5)))
        await asyncio.sleep(1)
        await attempt(told, QueueFullError, pool.acquire())
        told.look(pool, pool.stats(), pool.connection(), pool.bus, pool.settings)
        await waiting
        holder.cancel()
        await asyncio.wait({holder})
        connection = await pool.acquire()
        await pool.release(connection)
        await attempt(told, ReleaseError, pool.release(connection))
        await attempt(told, ReleaseError, pool.release(Connection(dsn)))
        metrics = pool.get_metrics()
        told.look(metrics, metrics.to_dict(), metrics.to_json())
    await attempt(told, PoolClosedError, pool.acquire())


async def hold(pool: ConnectionPool[Connection]) -> None:
    async with pool.connection() as connection:
        await connection.execute("select 'geheim7f3a'")  # the query is in the stack of a leak


async def lose(told: Told, dsn: str) -> None:
    """Lose a lease, and then a pool."""
    pool = make_pool(functools.partial(connect, dsn), name="lost")
    lease = pool.connection()
    await lease.__aenter__()
    del lease
    gc.collect()
    await asyncio.sleep(1)
    await pool.acquire()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del pool
        gc.collect()
    told.note("warnings", *(str(each.message) for each in warned), *map(str, warned))


async def listen_badly(told: Told, dsn: str) -> None:
    """Have handlers, taps and a buffer that raise what they know."""
    async with make_pool(functools.partial(connect, dsn), name="heard") as pool:
        pool.bus.subscribe(raises(dsn), ConnectionAcquired)
        pool.bus.tap({ConnectionReleased: raises(dsn)})
        subscription = pool.bus.buffered(raises(dsn), 10, ConnectionAcquired)
        for _ in range(12):
            async with pool.connection():
                pass
        told.look(pool, subscription)
        subscription.unsubscribe()


SCENES = [fail_to_connect, fail_to_validate, lend, lose, listen_badly]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_nothing_tells_what_the_application_knows(
    scene: Any, told: Told, provider: TracerProvider
) -> None:
    with under(provider):
        run_virtual(scene(told, DSN))
    told.assert_clean()


def test_all_of_it_was_looked_at(told: Told, provider: TracerProvider) -> None:
    async def main() -> None:
        for scene in SCENES:
            await scene(told, DSN)

    with under(provider):
        run_virtual(main())
    told.assert_clean()
    assert {ConnectFailed, AcquireFailed, AcquireTimedOut, LeakSuspected, LeakReclaimed,
            MisuseDetected, CloseFailed, SubscriberFailed} <= {*map(type, told.events)}  # fmt: skip
    assert any(CANARY in e.stack for e in told.events if isinstance(e, LeakSuspected))
    assert "poolscope_connect_failures_total{" in told["metrics"]
    assert {"pool.acquire", "pool.use", "pool.connect"} <= {
        span.name for span in told.spans.get_finished_spans()
    }
    assert "event=connect_failed" in told["logs"]
    assert "error=DriverError" in told["logs"]
    assert "failed; the pool goes on without it: DriverError" in told["logs"]
    assert ": DriverError" in told["words"]
    assert "(DriverError, chained above)" in told["errors"]
    assert "was lost with 1 open connections" in told["warnings"]
    assert "<ConnectionPool 'orders'" in told["objects"]


def test_the_wrong_loop_is_told_without_what_runs_on_it(told: Told) -> None:
    async def main() -> None:
        async with make_pool(functools.partial(connect, DSN)) as pool, pool.connection():
            await asyncio.to_thread(run, attempt(told, WrongLoopError, pool.acquire()))
            await asyncio.sleep(0)
            told.look(pool)

    run(main())
    told.assert_clean()
    assert [e.misuse for e in told.events if isinstance(e, MisuseDetected)] == [Misuse.WRONG_LOOP]


@every_dsn
def test_an_error_with_any_dsn_is_told_by_its_type(
    dsn: str, told: Told, provider: TracerProvider
) -> None:
    with under(provider):
        run_virtual(fail_to_connect(told, dsn))
    told.assert_clean()


# Drivers


def ask(driver: str, dsn: str) -> Any:
    """Connect by a real driver."""
    module = pytest.importorskip(driver)
    if driver == "psycopg":
        return module.AsyncConnection.connect(dsn)
    return module.connect(dsn)


@pytest.mark.parametrize(
    ("driver", "dsn"),
    [
        ("asyncpg", f"postgresql://app:{CANARY}/x@db.internal/shop"),
        ("psycopg", f"postgresql//app:{CANARY}@db.internal/shop"),
    ],
)
def test_a_driver_that_repeats_its_dsn_is_not_repeated(
    driver: str, dsn: str, told: Told, provider: TracerProvider
) -> None:
    async def main() -> None:
        async with make_pool(lambda: ask(driver, dsn)) as pool:
            error = await attempt(told, ConnectFailedError, pool.acquire())
            assert CANARY in str(error.__cause__)
            told.look(pool)

    with under(provider):
        run(main())
    told.assert_clean()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_a_wrong_password_for_a_real_server_is_in_nothing_of_ours(
    driver: str, told: Told, provider: TracerProvider, postgres: PostgresServer
) -> None:
    where = postgres.dsn.rpartition("@")[2]
    dsn = f"postgresql://{CANARY}:{CANARY}@{where}"

    async def main() -> None:
        async with make_pool(lambda: ask(driver, dsn), target=postgres.dsn) as pool:
            error = await attempt(told, ConnectFailedError, pool.acquire())
            assert f'user "{CANARY}"' in str(error.__cause__)
            told.look(pool, pool.settings)

    with under(provider):
        run(main())
    told.assert_clean()
    faults = [event.fault for event in told.events if isinstance(event, ConnectFailed)]
    assert faults == [ConnectFault.AUTH]
    assert postgres.dsn.partition("@")[0].rpartition(":")[2] not in told["spans"]


# Events


def an_event(kind: type[Event]) -> Event:
    """Make one of which every error, text and stack holds the secret, names apart."""
    ours = {"pool": "orders", "connection_id": "orders#1", "subscriber": "job", "acquired_at": None}
    enums = {"reason": FailureReason.CLOSED, "fault": ConnectFault.AUTH, "detail": "orders#1"}
    given = ours | enums | {"error": driver_error(DSN), "stack": DSN, "misuse": Misuse.WRONG_LOOP}
    return kind(**{field.name: given.get(field.name, 1) for field in fields(kind)})


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.__name__)
def test_no_event_shows_the_text_of_an_error(kind: type[Event]) -> None:
    event = an_event(kind)
    for view in (repr, str, format, pprint.pformat, pretty_repr):
        text = view(event)
        assert CANARY not in text
        assert ("error=DriverError" in text) == hasattr(event, "error")


def test_an_event_shows_its_fields_as_any_dataclass_does() -> None:
    closed = ConnectionClosed("orders", 1.0, 2, "orders#1", FailureReason.CLOSED, 3.0)  # type: ignore[arg-type]
    assert repr(closed) == (
        "ConnectionClosed(pool='orders', time=1.0, sequence=2, connection_id='orders#1', "
        "reason=<FailureReason.CLOSED: 'closed'>, age=3.0)"
    )
    failed = AcquireFailed("orders", 1.0, 2, 3, 0.5, FailureReason.CLOSED, None)
    assert repr(failed).endswith("reason=<FailureReason.CLOSED: 'closed'>, error=None)")
    assert eval(repr(failed).replace("<FailureReason.CLOSED: 'closed'>", "FailureReason.CLOSED"))


# A pool that cannot be read


def test_a_source_that_fails_to_be_read_is_logged_without_its_text(told: Told) -> None:
    with fake_source("orders") as source, fake_source("users"):
        source.stats = raises(DSN)  # type: ignore[method-assign]
        told.look()
    told.assert_clean()
    assert "a pool could not be read: DriverError" in told["logs"]
    assert "users" in told["metrics"]


def test_upkeep_that_fails_is_logged_without_the_text_of_the_error(told: Told) -> None:
    async def main() -> None:
        loop, errors = asyncio.get_running_loop(), [driver_error(DSN)]

        def clock() -> float:
            if loop.time() >= 10 and errors:
                raise errors.pop()
            return loop.time()

        settings = ConnectionPoolSettings(name="orders", idle_timeout=10)
        async with ConnectionPool(object, settings, clock=clock):
            await asyncio.sleep(12)
        assert errors == []

    run_virtual(main())
    told.assert_clean()
    assert "upkeep of pool 'orders' failed; it goes on in a second" in told["logs"]


# What is given in the wrong place


def settings_with(field: str) -> Callable[[str], object]:
    return lambda dsn: ConnectionPoolSettings(**{field: dsn})


def used(method: str, *before: object) -> Callable[[str], object]:
    """Call a method of a pool with the DSN."""

    async def main(dsn: str) -> None:
        async with make_pool(object) as pool:
            result = getattr(pool, method)(*before, dsn)
            await (result.__aenter__() if method == "connection" else result)

    return lambda dsn: run(main(dsn))


def managed(dsn: str) -> object:
    return run(PoolManager().create_pool("orders", dsn))  # type: ignore[arg-type]


def given(argument: str) -> Callable[[str], object]:
    return lambda dsn: ConnectionPool(**({"factory": object} | {argument: dsn}))  # type: ignore[arg-type]


MISTAKES: dict[str, Callable[[str], object]] = {
    **{
        f"ConnectionPool({argument})": given(argument)
        for argument in (
            "factory", "settings", "validate_func", "close_func", "reset_func", "metrics", "bus",
        )
    },
    **{
        f"ConnectionPoolSettings({field.name})": settings_with(field.name)
        for field in fields(ConnectionPoolSettings)
        if field.name not in ("name", "target")
    },
    "settings.copy": lambda dsn: ConnectionPoolSettings().copy(max_size=dsn),
    "setattr(settings)": lambda dsn: setattr(ConnectionPoolSettings(), "max_size", dsn),
    "PoolManager.create_pool": managed,
    "pool.connection": used("connection"),
    "pool.acquire": used("acquire"),
    "pool.release": used("release"),
    "pool.detach": used("detach"),
    "pool.wait_ready": used("wait_ready"),
    "pool.close": used("close"),
    "pool.resize": used("resize", 1),
    "bus.subscribe": lambda dsn: EventBus().subscribe(dsn),  # type: ignore[arg-type]
    "bus.subscribe(kind)": lambda dsn: EventBus().subscribe(print, dsn),  # type: ignore[arg-type]
    "bus.tap": lambda dsn: EventBus().tap({ConnectionAcquired: dsn}),  # type: ignore[dict-item]
    "bus.tap(kind)": lambda dsn: EventBus().tap({dsn: print}),  # type: ignore[dict-item]
    "bus.buffered": lambda dsn: EventBus().buffered(print, dsn),  # type: ignore[arg-type]
    "log_pools": lambda dsn: log_pools(per_minute=dsn),  # type: ignore[arg-type]
    "trace_pools(mode)": lambda dsn: trace_pools(mode=dsn),
    "trace_pools(threshold)": lambda dsn: trace_pools(threshold=dsn),  # type: ignore[arg-type]
    "start_metrics_server(port)": lambda dsn: start_metrics_server(dsn),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("dsn", [DSN, "redis://:geheim7f3a@d", f"password={CANARY}"])
def test_a_dsn_in_the_wrong_place_is_refused_without_a_word_of_it(mistake: str, dsn: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each its own
        MISTAKES[mistake](dsn)
    assert not [text for text in own_texts(caught.value) if CANARY in text]
    assert CANARY not in str(caught.value)


VARIABLES: dict[str, Callable[[], object]] = {
    "POOLSCOPE_SPANS": trace_pools,
    "POOLSCOPE_SLOW_THRESHOLD": trace_pools,
    "OTEL_METRICS_EXPORTER": make_metric_exporter,
    "OTEL_TRACES_EXPORTER": make_span_exporter,
    "OTEL_EXPORTER_OTLP_PROTOCOL": make_metric_exporter,
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": make_span_exporter,
}


@pytest.mark.parametrize("variable", VARIABLES)
def test_an_address_in_the_wrong_variable_is_not_repeated(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"http://app:{CANARY}@collector:4317")
    with pytest.raises(ValueError, match=variable) as caught:
        VARIABLES[variable]()
    assert CANARY not in str(caught.value)


def test_a_key_given_in_place_of_its_file_is_not_repeated() -> None:
    key = f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n"
    with pytest.raises(OSError, match="keyfile") as caught:
        start_metrics_server(0, certfile=key, keyfile=key)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (10, "10"),
        (-0.5, "-0.5"),
        (float("nan"), "nan"),
        (True, "True"),
        (None, "None"),
        ("", "''"),
        ("10", "'10'"),
        ("http/json", "'http/json'"),
        (DSN, "a str"),
        ("redis://:x@db", "a str"),
        ("password=x", "a str"),
        ("a" * 21, "a str"),
        ("two\nlines", "a str"),
        (DSN.encode(), "a bytes"),
        ([DSN], "a list"),
        (driver_error(DSN), "a DriverError"),
        (type("Odd", (str,), {"__repr__": lambda _: DSN})("10"), "a Odd"),
    ],
)
def test_a_wrong_value_is_shown_if_it_cannot_be_a_dsn(value: object, text: str) -> None:
    assert shown(value) == text


# Targets


@every_dsn
def test_a_target_keeps_or_repeats_nothing_of_a_password(
    dsn: str, told: Told, provider: TracerProvider
) -> None:
    async def main() -> None:
        async with make_pool(object, target=dsn) as pool, pool.connection():
            told.look(pool, pool.settings, pool.settings.target)

    with under(provider), suppress(ValueError):
        try:
            run_virtual(main())
        except ValueError as error:
            told.errors += [error, error.__cause__ or error, error.__context__ or error]
            raise
    told.assert_clean()


# The command line


@every_dsn
@pytest.mark.parametrize("before", [[], ["9464", "--watch"], ["9464", "--timeout"], ["--json"]])
def test_the_command_line_repeats_no_password(
    dsn: str, before: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["poolscope"])
    with pytest.raises(SystemExit):
        cli(["stats", *before, dsn])
    out, err = capsys.readouterr()
    assert "usage: poolscope stats" in err
    assert CANARY not in out + err


def test_the_demo_says_nothing_of_the_database_it_cannot_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "DATABASE_URL", f"postgresql://app:{CANARY}/x@db/shop")
    assert cli(["demo", "--port", "0", "--seconds", "6"]) == 2
    out, err = capsys.readouterr()
    assert "the PostgreSQL of DATABASE_URL" in err
    assert CANARY not in out + err
