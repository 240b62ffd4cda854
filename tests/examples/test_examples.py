"""Every service of examples/, started by its one command and used over HTTP."""

import asyncio
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import httpx
import psycopg
import pytest

from poolscope.testing.postgres import PostgresServer
from poolscope.testing.redis import RedisServer
from tests.examples.service import ROOT, Service, command, environment, family_of, serving
from tests.support import run

EXAMPLES = ("fastapi", "flask", "starlette")
SENTENCE = re.compile(r"no connection from pool '\w+' in 0\.[34]\d s: 2/2 in use, 0 idle, \d wait")


def pool_of(example: str) -> str:
    return "database" if example == "starlette" else "orders"


@pytest.fixture(scope="module", params=EXAMPLES)
def example(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def start(
    example: str, postgres: PostgresServer, redis_server: RedisServer
) -> Iterator[Callable[[], Service]]:
    """Return the service that runs, for starting takes longer than a test."""
    redis = {"REDIS_URL": redis_server.url} if example == "starlette" else {}
    limits = {"POOL_SIZE": "2", "POOL_TIMEOUT": "0.3", "LEAK_THRESHOLD": "2"}
    started: list[Service] = []
    with ExitStack() as stack:

        def start() -> Service:
            if not started or started[-1].process.poll() is not None:
                new = serving(example, DATABASE_URL=postgres.url, **limits, **redis)
                started.append(stack.enter_context(new))
            return started[-1]

        yield start


@pytest.fixture
def service(start: Callable[[], Service]) -> Service:
    """One with two connections and little patience."""
    return start()


def connections(postgres: PostgresServer, example: str) -> int:
    """Ask the server how many connections an example has."""
    with psycopg.connect(postgres.url) as asking:
        query = "select count(*) from pg_stat_activity where application_name = %s"
        (row,) = asking.execute(query, [f"orders-{example}"]).fetchall()
        return int(row[0])


def test_orders_are_taken_and_listed(service: Service) -> None:
    stored = service.order("tea", 2)
    assert stored.status_code == 201, stored.text
    order = stored.json()
    assert order == {"id": order["id"], "item": "tea", "quantity": 2}
    assert order in service.get("/orders").json()
    assert service.get("/report?seconds=0").json()["tea"] >= 2
    assert service.order("tea", -1).status_code == 422
    assert service.get("/healthz").status_code == 200


def test_metrics_tell_what_was_asked_for_over_http_and_what_the_server_sees(
    service: Service, example: str, postgres: PostgresServer
) -> None:
    before = service.numbers(pool_of(example))
    answers = [service.order("milk") for _ in range(3)]
    answers += service.get_together(*["/report?seconds=0.1"] * 2)
    assert [answer.status_code for answer in answers] == [201] * 3 + [200] * 2
    after = service.numbers(pool_of(example))
    assert after.acquired - before.acquired == 5
    assert after.timed_out == before.timed_out
    assert after.open == connections(postgres, example) == 2


def test_too_many_slow_requests_are_told_so_instead_of_hanging(
    service: Service, example: str
) -> None:
    before = service.numbers(pool_of(example))
    began = time.monotonic()
    *answers, ready = service.get_together(*["/report?seconds=1"] * 6, "/healthz")
    assert time.monotonic() - began < 5
    served = [answer for answer in answers if answer.status_code == 200]
    refused = [answer for answer in answers if answer.status_code == 503]
    assert (len(served), len(refused)) == (2, 4)
    assert ready.status_code == 200, "a saturated pool works"
    for answer in refused:
        assert SENTENCE.match(answer.json()["detail"])
        assert f"examples/{example}_orders.py:" in answer.json()["detail"]
        assert answer.headers["Retry-After"] == "1"
    after = service.numbers(pool_of(example))
    assert after.timed_out - before.timed_out == 4
    assert service.get("/orders").status_code == 200


def test_without_its_database_it_is_not_ready_and_with_it_it_is_again(
    service: Service, example: str, postgres: PostgresServer
) -> None:
    assert service.get("/healthz").status_code == 200
    postgres.stop()
    try:
        refused = service.get("/orders")
        assert refused.status_code == 503, refused.text
        assert until(service, 503) < 5
    finally:
        postgres.start()
    assert until(service, 200) < 10
    assert service.get("/orders").status_code == 200
    assert service.numbers(pool_of(example)).open == connections(postgres, example)
    password = postgres.url.partition("@")[0].rpartition(":")[2]
    assert password not in service.output + refused.text


def until(service: Service, status: int) -> float:
    """Return how long it took until readiness was so."""
    began = time.monotonic()
    while service.get("/healthz").status_code != status:
        assert time.monotonic() - began < 20, service.output
        time.sleep(0.05)
    return time.monotonic() - began


def test_a_signal_ends_it_in_order_with_the_last_answer_given_and_no_connection_left(
    service: Service, example: str, postgres: PostgresServer
) -> None:
    async def stop_in_the_middle() -> tuple[httpx.Response, float]:
        async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
            slow = asyncio.create_task(client.get("/report?seconds=0.7"))
            while not in_use((await client.get("/metrics")).text):
                pass
            took = await asyncio.to_thread(service.stop)
            return await slow, took

    answer, took = run(stop_in_the_middle())
    assert answer.status_code == 200
    assert took < 5
    assert service.process.returncode == 0, service.output
    assert "Traceback" not in service.output
    assert connections(postgres, example) == 0


def in_use(metrics: str) -> bool:
    return re.search(r'connection_count\{.*state="used"\} [1-9]', metrics) is not None


@pytest.mark.slow
@pytest.mark.usefixtures("postgres", "redis_server")  # where these can run, so can its own
def test_one_command_needs_nothing_else_sends_what_it_is_asked_for_and_leaves_nothing(
    example: str,
) -> None:
    asked = {"OTEL_METRICS_EXPORTER": "console", "OTEL_TRACES_EXPORTER": "console"}
    with serving(example, OTEL_SERVICE_NAME="shop", **asked) as service:
        assert service.order("coffee").json() == {"id": 1, "item": "coffee", "quantity": 1}
        assert service.get("/healthz").status_code == 200
        children = family_of(service.process.pid)
        assert any("postgres" in text for text in children.values())
        assert any("redis-server" in text for text in children.values()) == (example == "starlette")
        service.stop()
        assert service.process.returncode == 0, service.output
        assert '"service.name": "shop"' in service.output
        assert '"db.client.connection.wait_time"' in service.output
        if example == "fastapi":  # the one of these frameworks that has spans of its own
            assert '"name": "pool.acquire"' in service.output
            assert '"poolscope.request.acquired.orders": 1' in service.output
    assert not set(commands(children)) & set(children.values())


def commands(pids: Iterable[int]) -> list[str]:
    """Return what those of the processes run that are still there."""
    asking = ["ps", "-ww", "-o", "command=", "-p", ",".join(map(str, pids))]
    return subprocess.run(asking, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("example", ["fastapi"], scope="module")
def test_a_leak_is_told_with_its_place_and_does_not_keep_the_service_alive(
    service: Service, postgres: PostgresServer
) -> None:
    assert httpx.post(service.url + "/leak").status_code == 204
    deadline = time.monotonic() + 10
    while not service.numbers("orders")("poolscope_connection_leaks_total"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "examples/fastapi_orders.py:" in service.output
    assert service.stop() < 5
    assert service.process.returncode == 0, service.output
    assert connections(postgres, "fastapi") == 0


def test_make_runs_the_same_command() -> None:
    variables = ["EXAMPLE=flask", "EXAMPLE_ARGS=--port 8000", f"VENV={sys.prefix}"]
    said = subprocess.run(
        ["make", "--dry-run", "example", *variables],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.splitlines()[-1] == f"{sys.prefix}/bin/python -m examples flask --port 8000"


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            command("flask", "--port", port),
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert done.stderr == (
        f"examples: cannot listen on 127.0.0.1:{port} (Address already in use); "
        "choose another --port\n"
    )
