"""Whether what docs/operations.md tells people to type and to look for is there."""

import json
import re
import shlex
from pathlib import Path

import pytest

from examples.load import SCENARIOS
from grafana.kit import names
from poolscope.cli import main

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/operations.md").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()
COMMANDS = re.findall(r"^\$ (poolscope [^#&\n]+)", PAGE, re.MULTILINE)


def rows(title: str) -> list[list[str]]:
    """The cells of the first table below a title."""
    lines = PAGE.partition(f" {title}\n")[2].partition("\n#")[0].splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ][2:]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_we_understand(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("export", "dashboards.push", "stats.command"):
        monkeypatch.setattr(f"poolscope.cli.{module}.run", lambda *_: 0)
    monkeypatch.setenv("GRAFANA_TOKEN", "glsa_x")
    assert main(shlex.split(command)[1:]) == 0


def test_the_commands_are_found() -> None:
    assert len(COMMANDS) >= 6


def test_every_scenario_is_told_and_no_other() -> None:
    assert {row[0].strip("`") for row in rows("Scenarios")} == set(SCENARIOS)


def test_alerts_to_wait_for_are_alerts_that_exist() -> None:
    known = {value for value in vars(names).values() if isinstance(value, str)}
    for *_, alerts in rows("Scenarios"):
        assert set(re.findall(r"`(\w+)`", alerts)) <= known


def test_panels_to_look_at_are_on_a_board() -> None:
    paths = (ROOT / "grafana/dashboards").glob("*.json")
    boards = [json.loads(path.read_bytes()) for path in paths]
    titles = {panel["title"] for board in boards for panel in board["panels"]}
    for row in rows("Scenarios"):
        assert set(re.findall(r"\*([^*]+)\*", row[2])) <= titles


def test_variables_of_the_page_are_those_of_compose() -> None:
    ports_and_passwords = r"\b[A-Z0-9_]+_(?:PORT|PASSWORD)\b"
    assert set(re.findall(ports_and_passwords, PAGE)) == {
        name for name in re.findall(ports_and_passwords, COMPOSE) if f"${{{name}:-" in COMPOSE
    }


def test_ports_of_the_page_are_those_of_compose() -> None:
    told = set(re.findall(r"localhost:(\d+)", PAGE)) | {"8002"}
    assert told == set(re.findall(r"127\.0\.0\.1:\$\{\w+:-(\d+)\}", COMPOSE))


def test_files_and_pages_that_are_named_exist() -> None:
    paths = re.findall(r"`((?:grafana|otel-collector|stack)[\w./-]*)`", PAGE)
    pages = [f"docs/{page}" for page in re.findall(r"\]\(([\w-]+\.md)\)", PAGE)]
    assert [path for path in [*paths, *pages] if not (ROOT / path).exists()] == []
