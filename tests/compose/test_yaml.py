"""All YAML of the operations kit, as a linter sees it: no key twice, nothing that surprises."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.compose.files import ROOT

KIT = ["docker-compose.yml", "grafana", "otel-collector", "tools/stack"]


def test_a_linter_of_yaml_has_nothing_to_say() -> None:
    if find_spec("yamllint") is None and "CI" not in os.environ:
        pytest.skip("yamllint is not installed")
    command = [sys.executable, "-m", "yamllint", "--strict", *KIT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
