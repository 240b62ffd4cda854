from pathlib import Path
from typing import Any

import pytest

from tests.sqlalchemy.stage import Stage

DRIVERS = {
    "postgresql+psycopg": "postgres",
    "postgresql+asyncpg": "postgres",
    "mysql+pymysql": "mariadb_server",
    "mysql+aiomysql": "mariadb_server",
    "sqlite+pysqlite": None,
    "sqlite+aiosqlite": None,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`stage` is each driver in turn, `server_stage` each that speaks to a server."""
    for name in {"stage", "server_stage"} & set(metafunc.fixturenames):
        drivers = [
            pytest.param(driver, marks=[pytest.mark.servers] if fixture else [])
            for driver, fixture in DRIVERS.items()
            if fixture or name == "stage"
        ]
        metafunc.parametrize(name, drivers, indirect=True)


def make(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    fixture = DRIVERS[request.param]
    if fixture is None:
        return Stage(request.param, f"sqlite:///{tmp_path}/shop.db")
    server: Any = request.getfixturevalue(fixture)
    return Stage(request.param, server.url, server)


stage = pytest.fixture(make, name="stage")
server_stage = pytest.fixture(make, name="server_stage")
