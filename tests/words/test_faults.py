import asyncio
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ECONNREFUSED, EHOSTUNREACH, ETIMEDOUT
from typing import Any

import pytest

from poolscope.events import ConnectFailed, ConnectFault
from poolscope.faults import classify, where
from poolscope.testing import run_virtual
from poolscope.testing.ledger import fail, never
from tests.behaviour.bench import bench
from tests.support import run

TIMEOUT, REFUSED, AUTH, OTHER, ABANDONED = ConnectFault


def named(name: str, base: type[Exception] = Exception, **members: Any) -> type[Exception]:
    """Make an error class as a driver has it that is not installed here."""
    return type(name, (base,), members)


def raised(error: BaseException, *, cause: Any = None, context: Any = None) -> BaseException:
    error.__cause__, error.__context__ = cause, context
    error.__suppress_context__ = cause is not None
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (TimeoutError(), TIMEOUT),
        (OSError(ETIMEDOUT, "Connect call failed"), TIMEOUT),
        (OSError(ETIMEDOUT), TIMEOUT),
        (ConnectionRefusedError(), REFUSED),
        (OSError(ECONNREFUSED, "Connect call failed"), REFUSED),
        (OSError(ECONNREFUSED), REFUSED),
        (OSError(f"Multiple exceptions: [Errno {ECONNREFUSED}] Connect call failed"), REFUSED),
        (OSError(EHOSTUNREACH, "No route to host"), OTHER),
        (ConnectionResetError(), OTHER),
        (socket.gaierror(-2, "Name or service not known"), OTHER),
        (Exception(ECONNREFUSED), OTHER),
        (ValueError("1145"), OTHER),
        (asyncio.CancelledError(), OTHER),
        (OSError(f"Errno {ECONNREFUSED}4 is another number"), OTHER),
    ],
)
def test_an_error_of_python_is_told_by_its_type_and_number(error, fault):
    assert classify(error) is fault


@pytest.mark.parametrize(
    ("module", "make", "fault"),
    [
        ("asyncpg", lambda m: m.InvalidPasswordError("no"), AUTH),
        ("asyncpg", lambda m: m.InvalidAuthorizationSpecificationError("no"), AUTH),
        ("asyncpg", lambda m: m.TooManyConnectionsError("no"), OTHER),
        ("asyncpg", lambda m: m.CannotConnectNowError("starting up"), OTHER),
        ("asyncpg", lambda m: m.InvalidCatalogNameError("no such database"), OTHER),
        ("psycopg", lambda m: m.errors.InvalidPassword("no"), AUTH),
        ("psycopg", lambda m: m.errors.ConnectionTimeout("no"), TIMEOUT),
        (
            "psycopg",
            lambda m: m.OperationalError(
                'connection failed: FATAL:  password authentication failed for user "app"'
            ),
            AUTH,
        ),
        ("psycopg", lambda m: m.OperationalError('FATAL: role "app" does not exist'), AUTH),
        ("psycopg", lambda m: m.OperationalError('database "app" does not exist'), OTHER),
        ("psycopg", lambda m: m.OperationalError("no pg_hba.conf entry for host"), AUTH),
        ("psycopg", lambda m: m.OperationalError("fe_sendauth: no password supplied"), AUTH),
        ("psycopg", lambda m: m.OperationalError("port 1 failed: Connection refused"), REFUSED),
        ("psycopg", lambda m: m.OperationalError("connection timeout expired"), TIMEOUT),
        ("psycopg", lambda m: m.OperationalError("server closed the connection"), OTHER),
        ("pymysql", lambda m: m.err.OperationalError(1045, "Access denied for user"), AUTH),
        ("pymysql", lambda m: m.err.OperationalError(1045), AUTH),
        ("pymysql", lambda m: m.err.OperationalError(2013, "Lost connection (timed out)"), TIMEOUT),
        ("pymysql", lambda m: m.err.OperationalError(1040, "Too many connections"), OTHER),
        ("pymysql", lambda m: m.err.OperationalError(1114, "The table is full"), OTHER),
        ("redis", lambda m: m.exceptions.AuthenticationError("invalid"), AUTH),
        ("redis", lambda m: m.exceptions.ResponseError("NOAUTH Authentication required."), AUTH),
        ("redis", lambda m: m.exceptions.TimeoutError("connecting to server"), TIMEOUT),
        ("redis", lambda m: m.exceptions.ConnectionError(f"Error {ECONNREFUSED} at db"), REFUSED),
        ("redis", lambda m: m.exceptions.BusyLoadingError("loading"), OTHER),
    ],
)
def test_an_error_of_a_driver_is_told_by_type_code_or_text(module, make, fault):
    assert classify(make(pytest.importorskip(module))) is fault


@pytest.mark.parametrize(
    ("kind", "text", "fault"),
    [
        (named("OperationalError"), 'password authentication failed for user "app"', AUTH),
        (named("OperationalError"), "CONNECTION REFUSED", REFUSED),
        (named("PostgresError", sqlstate="28P01"), "", AUTH),
        (named("PostgresError", sqlstate="28000"), "", AUTH),
        (named("PostgresError", sqlstate="57P03"), "", OTHER),
        (named("PostgresError", sqlstate=28), "", OTHER),
        (named("AuthenticationError"), "", AUTH),
        (named("ConnectTimeout"), "", TIMEOUT),
    ],
)
def test_a_driver_that_is_not_installed_is_told_the_same_way(kind, text, fault):
    assert classify(kind(text)) is fault


@contextmanager
def closed_port() -> Iterator[int]:
    """A port nobody listens at, and nobody else gets meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


CONNECTS: dict[str, Callable[[Any, int], object]] = {
    "asyncpg": lambda m, port: run(m.connect(host="127.0.0.1", port=port, user="app")),
    "psycopg": lambda m, port: m.connect(f"host=127.0.0.1 port={port}"),
    "pymysql": lambda m, port: m.connect(host="127.0.0.1", port=port),
    "redis": lambda m, port: m.Connection(host="127.0.0.1", port=port).connect(),
}


@pytest.mark.parametrize("module", CONNECTS)
def test_a_port_nobody_listens_at_refuses_every_driver(module):
    driver = pytest.importorskip(module)
    with closed_port() as port, pytest.raises(Exception) as caught:  # noqa: PT011 - each its own
        CONNECTS[module](driver, port)
    assert classify(caught.value) is REFUSED


# Chains


@pytest.mark.parametrize("how", ["cause", "context"])
def test_what_led_to_an_error_counts(how):
    error = raised(OSError("cannot connect"), **{how: ConnectionRefusedError()})
    assert classify(raised(RuntimeError("no connection"), **{how: error})) is REFUSED


def test_what_was_raised_from_none_has_no_context():
    error = raised(ValueError("what it was does not matter"), context=TimeoutError())
    error.__suppress_context__ = True
    assert classify(error) is OTHER


def test_a_type_further_down_counts_more_than_a_text():
    error = raised(OSError("timed out"), cause=named("PostgresError", sqlstate="28P01")())
    assert classify(error) is AUTH


def test_an_error_that_is_false_is_looked_at_all_the_same():
    empty = named("Refused", ConnectionRefusedError, __len__=lambda _: 0)
    assert classify(raised(OSError("cannot connect"), cause=empty())) is REFUSED


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_a_chain_that_is_a_circle_has_an_end(size):
    ring = [ValueError(number) for number in range(size)]
    for each, following in zip(ring, ring[1:] + ring[:1], strict=True):
        raised(each, cause=following)
    assert classify(ring[0]) is OTHER
    raised(ring[-1], cause=TimeoutError())
    assert classify(ring[0]) is (TIMEOUT if size < 20 else OTHER)


def test_a_group_is_as_its_members():
    group = ExceptionGroup("create_connection failed", [ValueError(), ConnectionRefusedError()])
    assert classify(raised(OSError("cannot connect"), cause=group)) is REFUSED


# Whatever a driver raises


class Odd:
    """Fails at whatever is asked of it."""

    def fail(self, *_: object) -> Any:
        raise random.choice([ValueError, RecursionError, SystemExit])("canary")

    __str__ = __repr__ = __eq__ = __bool__ = __len__ = __int__ = __index__ = fail
    __hash__ = fail  # type: ignore[assignment]


ODD_MEMBERS: dict[str, Any] = {
    "__str__": Odd.fail,
    "__repr__": Odd.fail,
    "__bool__": Odd.fail,
    "__eq__": Odd.fail,
    "__hash__": Odd.fail,
    "__class__": property(Odd.fail),
    "__cause__": property(Odd.fail),
    "__context__": property(lambda _: ValueError("always a new one")),
    "args": property(Odd.fail),
    "sqlstate": property(Odd.fail),
}
ODD_VALUES = [None, 1045, 10**30, -1, True, "", "28P01", "timeout", "\udcff", b"\xff", 0.5, Odd()]
BASES = [Exception, OSError, TimeoutError, ConnectionRefusedError, ValueError, KeyError]


def odd_error(rng: random.Random, depth: int = 3) -> BaseException:
    members = {name: ODD_MEMBERS[name] for name in rng.sample(list(ODD_MEMBERS), 2)}
    kind = named(rng.choice(["X", "Auth", "Timeout"]), rng.choice(BASES), **members)
    error = kind(*rng.choices(ODD_VALUES, k=rng.randint(0, 3)))
    if "sqlstate" not in members:
        error.sqlstate = rng.choice(ODD_VALUES)  # type: ignore[attr-defined]
    if depth and not members.keys() & {"__cause__", "__context__", "__class__"}:
        raised(error, **{rng.choice(["cause", "context"]): odd_error(rng, depth - 1)})
    return ExceptionGroup("odd", [error]) if rng.random() < 0.1 else error


def test_any_error_has_a_fault_and_none_is_that_of_the_pool_itself(request):
    rng = random.Random(request.config.option.hypothesis_seed)
    random.seed(rng.random())
    faults = [classify(odd_error(rng)) for _ in range(10_000)]
    assert set(faults) == {TIMEOUT, REFUSED, AUTH, OTHER}


def test_a_text_is_in_nothing_that_is_told_of_an_error():
    error = OSError("postgresql://app:canary@db/shop")
    try:
        raise error
    except OSError:
        assert "canary" not in where(error)
    assert "canary" not in classify(error)


# On the events


def test_a_connect_that_fails_tells_its_fault():
    async def main():
        async with bench(connect_timeout=1, retry_limit=9, retry_delay=0) as b:
            odd = named("Unprintable", OSError, __str__=Odd.fail)
            b.ledger.script("open", [fail(), never, fail(OSError("wrongpass")), fail(odd)])
            await b.hold(0)
            assert [e.fault for e in b.replay.of(ConnectFailed)] == [REFUSED, TIMEOUT, AUTH, OTHER]
            faults = b.pool.get_metrics().connect_faults
            assert dict(faults) == {REFUSED: 1, TIMEOUT: 1, AUTH: 1, OTHER: 1}

    run_virtual(main())


def test_a_connect_the_pool_gives_up_is_no_fault_of_the_server():
    async def main():
        async with bench() as b:
            b.ledger.script("open", [never])
            asking = asyncio.create_task(b.hold(0))
            await asyncio.sleep(1)
            await b.pool.close()
            await asyncio.gather(asking, return_exceptions=True)
            assert b.last(ConnectFailed).fault is ABANDONED

    run_virtual(main())
