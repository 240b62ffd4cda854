import subprocess
import sys

import poolscope


def test_every_public_name_exists_and_the_list_is_sorted():
    assert all(hasattr(poolscope, name) for name in poolscope.__all__)
    assert poolscope.__all__ == sorted(poolscope.__all__)


def test_importing_poolscope_loads_no_exporter_and_no_driver():
    heavy = ["opentelemetry.sdk", "prometheus_client", "sqlalchemy", "asyncpg", "rich", "grpc"]
    code = f"import sys, poolscope; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_errors_are_what_code_written_against_the_contract_catches():
    assert issubclass(poolscope.PoolTimeoutError, TimeoutError)
    assert issubclass(poolscope.PoolClosedError, RuntimeError)
    errors = [name for name in poolscope.__all__ if name.endswith("Error")]
    assert all(issubclass(getattr(poolscope, name), poolscope.PoolError) for name in errors)
