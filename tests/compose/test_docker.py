"""What Docker itself says, where there is one."""

import shutil
import subprocess

import pytest

from tests.compose.files import ROOT, services


def docker(*arguments: str, seconds: float = 60) -> "subprocess.CompletedProcess[str]":
    if shutil.which("docker") is None:
        pytest.skip("docker is not on PATH")
    command = ["docker", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)


def test_compose_itself_understands_the_file() -> None:
    if docker("compose", "version").returncode:
        pytest.skip("this docker has no compose plugin")
    done = docker("compose", "config", "--services")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == set(services())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_image_builds_and_runs_as_nobody_in_particular() -> None:
    if docker("info").returncode:
        pytest.skip("no engine of Docker runs here")
    name = "poolscope-example-test"
    done = docker("build", "--file", "examples/Dockerfile", "--tag", name, ".", seconds=500)
    assert done.returncode == 0, done.stderr
    said = docker("run", "--rm", name, "python", "-c", "import os, stack; print(os.getuid())")
    assert said.stdout.strip() == "10001", said.stderr
