"""The load of the FastAPI example: what its phases break is mended, however it ends."""

import signal
import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from poolscope.testing.postgres import PostgresServer
from tests.examples.service import ROOT, Service, environment, serving

pytestmark = pytest.mark.slow

DATABASE = "shop_under_load"


@pytest.fixture(scope="module")
def service(postgres: PostgresServer) -> Iterator[Service]:
    """One whose database can be closed without that of other tests."""
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute(f"create database {DATABASE}")
        limits = {"POOL_SIZE": "3", "POOL_TIMEOUT": "0.5", "LEAK_THRESHOLD": "0.5"}
        with serving("fastapi", DATABASE_URL=address(postgres), **limits) as service:
            yield service
        admin.execute(f"drop database {DATABASE}")


def address(postgres: PostgresServer) -> str:
    return f"{postgres.url.rpartition('/')[0]}/{DATABASE}"


def load(service: Service, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "examples.load", *arguments],
        cwd=ROOT,
        env=environment(TARGETS=service.url, POOLSCOPE_SPEED="600", **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def admin(postgres: PostgresServer) -> dict[str, str]:
    return {"DATABASE_ADMIN_URL": postgres.url, "DATABASE_NAME": DATABASE}


def test_an_outage_is_felt_and_ends(service: Service, postgres: PostgresServer) -> None:
    with load(service, "outage", "--once", **admin(postgres)) as process:
        said = process.communicate(timeout=30)[0]
    assert process.returncode == 0, said
    names = [line.split()[0] for line in said.splitlines() if "begins" in line]
    assert names == ["calm", "outage", "recovery"]
    (felt,) = (line for line in said.splitlines() if line.startswith("outage ends"))
    assert "x 503" in felt
    assert service.get("/orders").status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_load_that_is_ended_in_an_outage_ends_the_outage(
    service: Service, postgres: PostgresServer, number: signal.Signals
) -> None:
    variables = admin(postgres) | {"POOLSCOPE_SCENARIO": "outage"}
    with load(service, **variables) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("outage begins"):
                break
        while service.get("/healthz").status_code == 200:
            pass
        process.send_signal(number)
        process.send_signal(number)
        rest = process.communicate(timeout=30)[0]
    assert process.returncode == 0, rest
    assert "Traceback" not in rest
    with psycopg.connect(address(postgres)):
        pass


def test_leaks_are_taken_back(service: Service) -> None:
    before = service.numbers("orders")("poolscope_connection_leaks_total")
    with load(service, "leak", "--once") as process:
        said = process.communicate(timeout=30)[0]
    assert "x 503" in said, "with all connections leaked there is nothing to lend"
    numbers = service.numbers("orders")
    assert numbers("poolscope_connection_leaks_total") - before >= 3
    assert numbers("db_client_connection_count", db_client_connection_state="used") == 0


def test_without_an_address_to_close_the_database_by_there_is_no_outage(service: Service) -> None:
    with load(service, "outage", "--once") as process:
        said = process.communicate(timeout=30)[0]
    assert "no DATABASE_ADMIN_URL: there will be no outage" in said
    assert "503" not in said


def test_a_scenario_that_is_not_known_is_told_with_those_that_are() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.load"],
        cwd=ROOT,
        env=environment(POOLSCOPE_SCENARIO="holiday"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "invalid choice: 'holiday'" in done.stderr
    assert "outage" in done.stderr
