"""Databases for threads: real servers, and the server's own view of what happened."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pymysql.cursors
import pytest

from poolscope.connectors import for_threads
from poolscope.errors import ConnectFailedError, PoolTimeoutError
from poolscope.events import CloseReason, ConnectionClosed
from poolscope.faults import classify
from poolscope.opening import create_sync_pool
from poolscope.reasons import ConnectFault
from poolscope.sync_pool import SyncConnectionPool
from tests.connectors.kinds import (
    SYNC_FILES,
    SYNC_SERVERS,
    TABLE,
    Kind,
    Place,
    count,
    find,
    parameters,
    settled,
)
from tests.support import run

CANARY = "can" + "ary"


@pytest.fixture
def place(kind: Kind, request: pytest.FixtureRequest, tmp_path: Any) -> Place:
    return find(kind, request, tmp_path)


@contextmanager
def pooled(
    place: Place, **settings: Any
) -> Iterator[tuple[SyncConnectionPool[Any], list[CloseReason]]]:
    """A pool of one connection, and the reasons for which connections were closed."""
    before = run(count(place.server))
    reasons: list[CloseReason] = []
    with create_sync_pool(place.url, max_size=1, **settings) as pool:
        pool.bus.subscribe(lambda event: reasons.append(event.reason), ConnectionClosed)
        yield pool, reasons
    run(settled(place.server, before))


@pytest.mark.parametrize("kind", parameters(*SYNC_SERVERS, *SYNC_FILES))
def test_a_pool_is_open_and_works_in_any_thread(place):
    answers: list[Any] = []
    with pooled(place) as (pool, reasons):
        assert pool.stats().idle == 1

        def ask() -> None:
            with pool.connection() as connection:
                answers.append(place.kind.run(connection, "select 40 + 2"))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [42, 42, 42]
        assert reasons == []


@pytest.mark.parametrize("kind", parameters(*SYNC_SERVERS))
@pytest.mark.parametrize("in_use", [False, True], ids=["idle", "in_use"])
def test_a_connection_the_server_killed_is_replaced(place, in_use):
    with pooled(place, validate_on_acquire=not in_use) as (pool, reasons):
        with pool.connection() as connection:
            first = place.kind.run(connection, place.session)
            if in_use:
                place.disconnect(first)
                with pytest.raises(Exception) as lost:  # noqa: PT011 - each driver has its own
                    place.kind.run(connection, "select 1")
                assert not isinstance(lost.value, AssertionError)
        if not in_use:
            place.disconnect(first)
        with pool.connection() as connection:
            assert place.kind.run(connection, place.session) != first
        assert reasons == [CloseReason.RESET if in_use else CloseReason.VALIDATION]


@pytest.mark.parametrize("kind", parameters(*SYNC_SERVERS, *SYNC_FILES))
def test_a_transaction_left_open_is_rolled_back(place):
    ask = place.kind.run
    with pooled(place) as (pool, reasons):
        with pool.connection() as connection:
            ask(connection, TABLE)
            connection.commit()
            ask(connection, "insert into things values (1)")
            assert ask(connection, "select count(*) from things") == 1
        with pool.connection() as connection:
            assert ask(connection, "select count(*) from things") == 0
            ask(connection, "drop table things")
            connection.commit()
        assert reasons == []


@pytest.mark.parametrize("kind", parameters(*SYNC_SERVERS))
def test_a_wrong_password_is_told_as_such_and_not_repeated(place):
    user, host = place.url.partition("://")[2].split("@")
    url = f"{place.kind.scheme}://{user.partition(':')[0]}:{CANARY}@{host}"
    with pytest.raises(ConnectFailedError) as failed:
        create_sync_pool(url, retry_limit=0)
    assert failed.value.__cause__ is not None
    assert classify(failed.value.__cause__) is ConnectFault.AUTH
    assert CANARY not in str(failed.value)


@pytest.mark.parametrize("kind", parameters(SYNC_SERVERS[0]))
def test_a_connection_that_still_waits_for_a_reply_is_not_lent_again(place):
    with pooled(place) as (pool, reasons):
        with pool.connection() as connection:
            connection.pgconn.send_query(b"select 'of another'")
        with pool.connection() as connection:
            assert place.kind.run(connection, "select 42") == 42
        assert reasons == [CloseReason.RESET]


@pytest.mark.filterwarnings("ignore:Previous unbuffered result")
@pytest.mark.parametrize("kind", parameters(SYNC_SERVERS[1]))
def test_a_connection_with_rows_unread_is_not_lent_again(place):
    with pooled(place) as (pool, reasons):
        with pool.connection() as connection:
            cursor = connection.cursor(pymysql.cursors.SSCursor)
            cursor.execute("select 1 union select 2")
        with pool.connection() as connection:
            assert place.kind.run(connection, "select 42") == 42
        assert reasons == [CloseReason.RESET]


@pytest.mark.parametrize("kind", parameters(SYNC_SERVERS[0]))
def test_what_a_borrower_set_for_transactions_to_come_is_forgotten(place):
    with pooled(place, driver_options={"autocommit": True}) as (pool, reasons):
        with pool.connection() as connection:
            connection.autocommit = False
            connection.read_only = True
        with pool.connection() as connection:
            assert connection.autocommit
            place.kind.run(connection, TABLE)
            place.kind.run(connection, "drop table things")
        assert reasons == []


@pytest.mark.parametrize("kind", parameters(SYNC_SERVERS[1]))
def test_autocommit_is_as_the_options_say_again(place):
    with pooled(place) as (pool, reasons):
        with pool.connection() as connection:
            connection.autocommit(True)
        with pool.connection() as connection:
            assert not connection.get_autocommit()
        assert reasons == []


@pytest.mark.parametrize("kind", parameters(SYNC_SERVERS[2]))
def test_options_that_cannot_be_taken_away_cost_the_connection(place):
    with pooled(place) as (pool, reasons):
        with pool.connection() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
        with pool.connection() as connection:
            assert connection.get_isolation_level() == "READ COMMITTED"
        assert reasons == [CloseReason.RESET]


@pytest.mark.parametrize("kind", parameters(SYNC_SERVERS[0]))
def test_a_check_leaves_the_state_of_a_transaction_as_it_was(place):
    recipe = for_threads(place.url)
    connection = recipe.factory()
    for sql in ("", "select 1"):
        if sql:
            connection.execute(sql)
        before = connection.info.transaction_status
        assert recipe.validate_func(connection)
        assert connection.info.transaction_status == before
        assert not connection.autocommit
    recipe.close_func(connection)


@pytest.mark.parametrize("kind", parameters(*SYNC_SERVERS))
def test_a_check_that_waits_for_a_server_that_hangs_is_cut_short(place):
    assert place.server is not None
    with pooled(place, acquire_timeout=0.5, validate_timeout=0.2) as (pool, reasons):
        place.server.pause()
        try:
            began = time.monotonic()
            with pytest.raises(PoolTimeoutError):
                pool.acquire()
            assert time.monotonic() - began < 2.0
            assert reasons == [CloseReason.VALIDATION]
        finally:
            place.server.resume()
        with pool.connection(timeout=10) as connection:
            assert place.kind.run(connection, "select 42") == 42


@pytest.mark.parametrize("kind", parameters(*SYNC_SERVERS[:2]))
def test_a_connection_closed_under_a_holder_ends_what_it_waits_for(place):
    sleep = {"postgresql": "select pg_sleep(2)", "mysql": "select sleep(2)"}[place.kind.scheme]
    before = run(count(place.server))
    asking, heard = threading.Event(), []
    pool = create_sync_pool(place.url)

    def hold() -> None:
        with pool.connection() as connection:
            asking.set()
            try:
                heard.append(place.kind.run(connection, sleep))
            except Exception as error:
                heard.append(type(error))

    holder = threading.Thread(target=hold)
    holder.start()
    asking.wait()
    pool.close(timeout=0.2)
    holder.join()
    assert heard in ([psycopg.OperationalError], [pymysql.err.OperationalError])
    run(settled(place.server, before))
