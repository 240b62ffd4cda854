"""Alertmanager's own tool reads where alerts go."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from grafana.kit import names, rules, settings
from tests.stack.tools import find_tool

CONFIG = Path(__file__).parents[2] / "grafana" / "alertmanager" / "alertmanager.yaml"
ALERTS = [
    rule
    for group in rules.build(settings.load())["alerts.yaml"]["groups"]
    for rule in group["rules"]
]


@pytest.fixture(scope="module")
def amtool_binary() -> Path:
    return find_tool("amtool")


def amtool(binary: Path, *arguments: str | Path) -> str:
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_the_configuration_of_alertmanager_is_sound(amtool_binary: Path) -> None:
    assert "SUCCESS" in amtool(amtool_binary, "check-config", CONFIG)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_who_is_called_depends_on_the_severity(amtool_binary: Path, rule: dict[str, Any]) -> None:
    labels = [f"{label}={value}" for label, value in rule["labels"].items()]
    command = ("config", "routes", "test", f"--config.file={CONFIG}", f"alertname={rule['alert']}")
    receivers = {"critical": "pager", "warning": "tickets", "none": "heartbeat"}
    assert amtool(amtool_binary, *command, *labels) == receivers[rule["labels"]["severity"]]


def test_only_the_watchdog_calls_nobody() -> None:
    silent = [rule["alert"] for rule in ALERTS if rule["labels"]["severity"] == "none"]
    assert silent == [names.WATCHDOG]
