"""Every code block of the README is run."""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from poolscope.testing.postgres import PostgresServer

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(README) if found == language]


@pytest.fixture
def environment(postgres: PostgresServer) -> dict[str, str]:
    """What makes the commands short, and keeps them from calling this test."""
    # What a make that runs these tests hands on would go before the variables below.
    inherited = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    return {
        **inherited,
        "DATABASE_URL": postgres.dsn,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "VENV": sys.prefix,
        "DEMO_ARGS": "--seconds 6 --port 0",
        "PYTEST_ARGS": "tests/words",
        "BENCH_ARGS": "--quick --only uncontended",
    }


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shape(text: str) -> str:
    """Replace every number, which differs from run to run."""
    return re.sub(r"\d+(\.\d+)?", "N", text)


def test_the_readme_is_short_and_every_kind_of_block_is_known():
    assert len(README.splitlines()) < 200
    assert {language for language, _ in BLOCK.findall(README)} <= {"python", "sh", "output", "text"}


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0][:40])
def test_python_blocks_run(code: str, environment: dict[str, str]) -> None:
    run([sys.executable, "-W", "error", "-c", code], environment)


def test_the_example_prints_what_the_readme_says(environment: dict[str, str]) -> None:
    before, _, _ = README.partition("```output")
    code = [text for found, text in BLOCK.findall(before) if found == "python"][-1]
    printed = run([sys.executable, "-c", code], environment)
    assert shape(printed) == shape(blocks("output")[0])


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("commands", blocks("sh"), ids=lambda text: text.strip().replace("\n", ";"))
def test_shell_blocks_run(commands: str, environment: dict[str, str], tmp_path: Path) -> None:
    if "pip install" in commands:
        venv.create(tmp_path, with_pip=True)
        environment["PATH"] = f"{tmp_path}/bin:{environment['PATH']}"
    run(["bash", "-euc", commands], environment)
