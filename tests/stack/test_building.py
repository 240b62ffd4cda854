import os
import subprocess
from pathlib import Path

import pytest

from tests.stack.tools import find_tool

ROOT = Path(__file__).parents[2]

# Builds nothing; writes down what it was asked for.
GO = """#!/bin/sh
folder=$(dirname "$0")
case "$*" in
    "env GOVERSION") echo {version}; exit;;
    "env GOMODCACHE") echo "$folder/modules"; exit;;
esac
echo "$@" >> "$folder/calls"
if [ "$1" = "{failing}" ]; then echo "no such module" >&2; exit 3; fi
make() {{ touch "$@"; chmod +x "$@"; }}
case $1 in
    run) make collector;;
    install) make "$GOBIN/prometheus" "$GOBIN/promtool";;
    mod) mkdir -p "$folder/modules/$3/cmd";;
    build) case $* in
        *cmd/amtool) test -d cmd -a -f ui/app/dist/none && make ../alertmanager ../amtool;;
        *) make "$6/ferretdb";;
        esac;;
esac
"""
BINARIES = {"collector", "prometheus", "promtool", "alertmanager", "amtool", "ferretdb"}
RECIPES = {f"{name}.built-from" for name in ("collector", "prometheus", "alertmanager", "ferretdb")}
COMMANDS = ["run", "install", "mod", "build", "build"]


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    return tmp_path / "tools"


def make_tools(
    tools: Path, *options: str, version: str = "go1.21.0", failing: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run the script with a Go of this version, one of whose commands may fail."""
    go = tools.with_name("go")
    go.write_text(GO.format(version=version, failing=failing))
    go.chmod(0o755)
    path = os.pathsep.join([str(go.parent), os.environ["PATH"]])
    return subprocess.run(
        [ROOT / "tools" / "stack_tools", *options],
        env={"PATH": path, "POOLSCOPE_TOOLS": str(tools)},
        capture_output=True,
        text=True,
    )


def calls(tools: Path) -> list[str]:
    path = tools.with_name("calls")
    return path.read_text().splitlines() if path.exists() else []


def commands(tools: Path) -> list[str]:
    return [call.split()[0] for call in calls(tools)]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_tools_are_built_once(tools: Path) -> None:
    first, second = make_tools(tools), make_tools(tools)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert second.stdout == ""
    assert commands(tools) == COMMANDS
    assert names(tools) == BINARIES | RECIPES


@pytest.mark.parametrize(
    ("lost", "again"),
    [
        ("collector", ["run"]),
        ("promtool", ["install"]),
        ("amtool", ["mod", "build"]),
        ("prometheus.built-from", ["install"]),
    ],
)
def test_what_is_missing_is_built_again_and_nothing_else(
    tools: Path, lost: str, again: list[str]
) -> None:
    make_tools(tools)
    (tools / lost).unlink()
    assert make_tools(tools).returncode == 0
    assert commands(tools) == COMMANDS + again
    assert names(tools) == BINARIES | RECIPES


def test_another_recipe_is_built_again_and_nothing_else(tools: Path) -> None:
    make_tools(tools)
    (tools / "collector.built-from").write_text("of last year")
    make_tools(tools)
    assert commands(tools) == [*COMMANDS, "run"]


@pytest.mark.parametrize("version", ["", "go1.19.8"])
def test_without_a_go_that_can_build_it_says_what_to_install(tools: Path, version: str) -> None:
    result = make_tools(tools, version=version)
    assert result.returncode == 1
    assert "needs Go 1.21 or newer on PATH; install it" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not tools.exists()


def test_a_check_builds_nothing(tools: Path) -> None:
    assert make_tools(tools, "--check").returncode == 0
    assert make_tools(tools, "--check", version="go1.19.8").returncode == 1
    assert calls(tools) == []


@pytest.mark.parametrize("failing", sorted(set(COMMANDS)))
def test_a_failed_build_says_why_and_leaves_only_what_was_built_before(
    tools: Path, failing: str
) -> None:
    result = make_tools(tools, failing=failing)
    assert result.returncode == 1
    assert "no such module" in result.stderr
    assert "the reason is above" in result.stderr
    assert commands(tools)[-1] == failing
    before = {"run": 0, "install": 1}.get(failing, 2)
    assert len(names(tools) & RECIPES) == before
    assert names(tools) <= BINARIES | RECIPES


def test_a_tool_that_is_missing_skips_the_test(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POOLSCOPE_TOOLS", str(tools))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="run make stack-tools"):
        find_tool("collector")


def test_a_tool_that_is_missing_fails_the_test_where_ci_is_set(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POOLSCOPE_TOOLS", str(tools))
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="run make stack-tools"):
        find_tool("collector")
