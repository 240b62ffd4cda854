import subprocess
import sys

import pytest

HEAVY = ("opentelemetry.sdk", "opentelemetry.exporter", "prometheus_client", "sqlalchemy", "grpc")

RUN_A_POOL = """
import asyncio
from poolscope import ConnectionPool

async def main():
    async with ConnectionPool(object) as pool:
        async with pool.connection():
            pass

asyncio.run(main())
"""


def heavy_modules(program: str) -> list[str]:
    """What a program has loaded at its end, of the packages that cost much to import."""
    program += "\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    return [name for name in HEAVY if any(f"{module}.".startswith(f"{name}.") for module in loaded)]


@pytest.mark.parametrize(
    "program",
    [
        "import poolscope",
        RUN_A_POOL,
        "import poolscope.telemetry.otel_metrics, poolscope.telemetry.otel_spans",
        "import poolscope.telemetry.setup",
    ],
)
def test_neither_sdk_nor_prometheus_nor_sqlalchemy_is_loaded(program: str) -> None:
    assert heavy_modules(program) == []


def test_the_check_sees_what_is_loaded() -> None:
    assert heavy_modules("import poolscope.telemetry.prometheus") == ["prometheus_client"]
