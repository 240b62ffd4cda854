"""Prometheus' own tools read and try the rules."""

import json
import subprocess
from pathlib import Path

import pytest

from grafana.kit import rules, settings
from tests.stack.tools import find_tool

GRAFANA = Path(__file__).parents[2] / "grafana"
RULES = sorted((GRAFANA / "rules").glob("*.yaml"))
TESTS = sorted((GRAFANA / "rules" / "tests").glob("*.yaml"))

STRICT = ("--lint=all", "--lint-fatal")


@pytest.fixture(scope="module")
def promtool_binary() -> Path:
    return find_tool("promtool")


def promtool(binary: Path, *arguments: str | Path) -> None:
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_sound(promtool_binary: Path) -> None:
    assert [path.name for path in RULES] == ["alerts.yaml", "recording.yaml"]
    promtool(promtool_binary, "check", "rules", *STRICT, *RULES)


def test_the_rules_are_sound_in_fast_motion(promtool_binary: Path, tmp_path: Path) -> None:
    for name, content in rules.build(settings.load(), speed=30).items():
        # JSON is YAML.
        (tmp_path / name).write_text(json.dumps(content))
    promtool(promtool_binary, "check", "rules", *STRICT, *sorted(tmp_path.glob("*.yaml")))


def test_the_configuration_of_prometheus_is_sound(promtool_binary: Path) -> None:
    path = GRAFANA / "prometheus" / "prometheus.yaml"
    promtool(promtool_binary, "check", "config", *STRICT, path)


# What they say does not depend on the Python, so that once is enough.
@pytest.mark.slow
@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_the_rules_do_as_they_should(promtool_binary: Path, path: Path) -> None:
    promtool(promtool_binary, "test", "rules", path)
