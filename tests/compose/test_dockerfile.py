"""The image of the example: what the Dockerfile says, and whether what it copies runs alone."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from poolscope.testing.postgres import PostgresServer
from stack.server import free_ports
from tests.compose.files import (
    DOCKERFILE,
    ROOT,
    copies,
    environment,
    instructions,
    reaches_the_builder,
    services,
)

LOCK = (ROOT / "examples/requirements.lock").read_text()


def given(word: str) -> list[str]:
    return [rest for each, rest in instructions() if each == word]


def pins(lock: str) -> dict[str, tuple[str, set[str]]]:
    """Versions and hashes by the names of packages."""
    entries = re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)(.*(?:\n +.*)*)", lock, re.MULTILINE)
    return {
        name: (version, set(re.findall(r"--hash=(\S+)", rest))) for name, version, rest in entries
    }


def test_the_base_image_is_pinned_and_the_same_as_in_env() -> None:
    (base,) = given("ARG")
    assert base == f"PYTHON_IMAGE={environment()['PYTHON_IMAGE']}"
    assert given("FROM") == ["${PYTHON_IMAGE}"]
    assert re.search(r":\d+\.\d+\.\d+-slim-\w+$", base)


def test_it_runs_as_a_user_who_is_not_root() -> None:
    (user,) = given("USER")
    # A number: whoever forbids root need not look it up.
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    words = [word for word, _ in instructions()]
    assert words.index("USER") < words.index("CMD")
    assert "RUN" not in words[words.index("USER") :]


def test_it_has_a_health_check_that_needs_no_shell() -> None:
    (check,) = given("HEALTHCHECK")
    assert '["python", "-m", "examples.ready"' in check.replace("CMD ", "")
    assert "--timeout=" in check


def test_it_starts_without_a_shell_so_that_signals_arrive() -> None:
    (command,) = given("CMD")
    assert command.startswith('["python", "-m", "uvicorn"')
    assert f'"--port", "{given("EXPOSE")[0]}"' in command


def test_packages_are_pinned_by_hashes_and_leave_no_cache() -> None:
    (run,) = given("RUN")
    for option in ("--require-hashes", "--no-deps", "--only-binary=:all:", "--no-cache-dir"):
        assert option in run


def test_there_is_no_secret_and_nothing_from_elsewhere() -> None:
    assert not re.search(r"password|secret|token|api_?key", DOCKERFILE, re.IGNORECASE)
    assert "ADD" not in [word for word, _ in instructions()]
    assert not re.search(r"https?://(?!127\.0\.0\.1)|curl |wget |apt-get|sudo", DOCKERFILE)


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    for sources, _ in copies():
        for source in sources:
            path = ROOT / source
            assert path.exists(), source
            files = path.rglob("*.py") if path.is_dir() else [path]
            assert any(reaches_the_builder(each.relative_to(ROOT).as_posix()) for each in files)


@pytest.mark.parametrize(
    "path",
    [".env", ".git/config", "tests/conftest.py", "src/poolscope/__pycache__/bus.pyc", "README.md"],
)
def test_nothing_else_reaches_the_builder(path: str) -> None:
    assert not reaches_the_builder(path)


def test_a_linter_of_dockerfiles_has_nothing_to_say() -> None:
    linter = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if linter is None and "CI" not in os.environ:
        pytest.skip("hadolint is not installed")
    command = [linter or "hadolint", ROOT / "examples/Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


# What is installed


def test_the_packages_are_those_that_the_tests_run_with() -> None:
    ours, theirs = pins(LOCK), pins((ROOT / "requirements.lock").read_text())
    assert {name: pin for name, pin in ours.items() if theirs.get(name) != pin} == {}
    assert all(hashes for _, hashes in ours.values())


def test_the_packages_are_all_that_is_asked_for() -> None:
    project = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [")[2]
    asked = re.findall(r'^    "([\w.-]+)', project.partition("\n]")[0], re.MULTILINE)
    asked += re.findall(r"^\w[\w.-]*", (ROOT / "examples/requirements.in").read_text(), re.M)
    assert len(asked) > 8
    assert set(asked) <= set(pins(LOCK))


# What runs: the same files in the same places, with the packages of the tests


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of the image."""
    folder = tmp_path_factory.mktemp("app")
    for sources, target in copies():
        if target.startswith("/"):
            continue
        for source in map(ROOT.joinpath, sources):
            files = source.rglob("*") if source.is_dir() else [source]
            for path in files:
                inside = path.relative_to(source) if source.is_dir() else path.name
                if path.is_file() and reaches_the_builder(path.relative_to(ROOT).as_posix()):
                    (folder / target / inside).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, folder / target / inside)
    return folder


def start(image: Path, *command: str, **variables: str) -> "subprocess.Popen[bytes]":
    ours = {"PATH": os.environ["PATH"], "PYTHONPATH": str(image), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen([sys.executable, *command], cwd=image, env=ours | variables)


@contextmanager
def running(image: Path, *command: str, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = start(image, *command, **variables)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def look(image: Path, *arguments: str) -> int:
    return start(image, "-m", "examples.ready", *arguments).wait(60)


def test_the_service_runs_from_what_is_copied(image: Path, postgres: PostgresServer) -> None:
    (port,) = map(str, free_ports(1))
    (command,) = given("CMD")
    words = [word.strip('", []') for word in command.split(",")]
    assert words[:2] == ["python", "-m"]
    arguments = [{"8000": port, "0.0.0.0": "127.0.0.1"}.get(word, word) for word in words[1:]]
    health = f"http://127.0.0.1:{port}/healthz"
    wanted = services()["orders-1"]["environment"]
    settings = {k: str(v) for k, v in wanted.items() if not k.startswith(("OTEL_", "DATABASE"))}
    assert look(image, "--once", health) == 1
    with running(image, *arguments, DATABASE_URL=postgres.url, **settings):
        assert look(image, "--seconds", "30", health, f"http://127.0.0.1:{port}/orders") == 0
        assert look(image, "--once", f"http://127.0.0.1:{port}/nowhere") == 1


def test_the_pager_runs_from_what_is_copied(image: Path) -> None:
    (port,) = map(str, free_ports(1))
    command = services()["webhook-sink"]["command"][1:]
    arguments = [{"8080": port, "0.0.0.0": "127.0.0.1"}.get(word, word) for word in command]
    with running(image, *arguments):
        assert look(image, "--seconds", "30", f"http://127.0.0.1:{port}") == 0


def test_the_load_runs_from_what_is_copied(image: Path) -> None:
    command = services()["load"]["command"][1:]
    assert start(image, *command, "--help").wait(30) == 0
