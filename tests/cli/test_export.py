"""`poolscope export`, from a checkout and from a wheel that is built and installed."""

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from poolscope.assets import KITS, files
from poolscope.cli import main
from tests.cli.pages import Capture

ROOT = Path(__file__).parent.parent.parent


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def export(*arguments: object) -> int:
    return main(["export", *map(str, arguments)])


def test_the_boards_come_with_what_provisions_them(tmp_path: Path) -> None:
    assert export("grafana", tmp_path) == 0
    boards = {json.loads(p.read_bytes())["uid"] for p in (tmp_path / "dashboards").iterdir()}
    assert boards == {"pool-detail", "pool-fleet", "pool-slo", "pool-collector"}
    assert (tmp_path / "provisioning/datasources/datasources.yaml").is_file()


def test_the_rules_come_with_their_runbook(tmp_path: Path) -> None:
    assert export("rules", tmp_path) == 0
    assert sorted(tree(tmp_path)) == ["alerts.yaml", "recording.yaml", "runbook.md"]


def test_the_collector_comes_with_both_configurations(tmp_path: Path) -> None:
    assert export("collector", tmp_path) == 0
    assert {"config.yaml", "config.gateway.yaml"} <= set(tree(tmp_path))


def test_compose_comes_with_all_it_builds_and_mounts(tmp_path: Path) -> None:
    assert export("compose", tmp_path) == 0
    mounted = re.findall(r"- \./([\w./-]+):", (tmp_path / "docker-compose.yml").read_text())
    copied = re.findall(r"^COPY (.+) \S+$", (tmp_path / "examples/Dockerfile").read_text(), re.M)
    sources = [*mounted, *" ".join(copied).split(), ".env", ".dockerignore", "grafana/build.py"]
    assert len(sources) > 12
    assert [source for source in sources if not (tmp_path / source).exists()] == []
    assert not [path for path in tree(tmp_path) if "__pycache__" in path or "/tests/" in path]


def test_whoever_changes_settings_makes_the_boards_and_rules_anew(tmp_path: Path) -> None:
    assert export("compose", tmp_path) == 0
    settings = tmp_path / "grafana/settings.toml"
    settings.write_text(settings.read_text().replace('team = "platform"', 'team = "storage"'))
    building = [sys.executable, str(tmp_path / "grafana/build.py")]
    subprocess.run(building, check=True, timeout=30, env=alone(tmp_path / "src"))
    assert "team: storage" in (tmp_path / "grafana/rules/alerts.yaml").read_text()


def alone(source: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}


def test_what_is_written_is_said(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "new" / "rules"
    assert export("rules", folder) == 0
    assert capsys.readouterr().out.splitlines() == [
        "  ./: alerts.yaml, recording.yaml, runbook.md",
        f"3 files written to {folder}",
        "next: name the folder in rule_files of Prometheus, then: promtool check rules *.yaml",
    ]


def test_what_somebody_changed_is_not_replaced_unless_told_to(
    tmp_path: Path, capsys: Capture
) -> None:
    assert export("rules", tmp_path) == 0
    original = tree(tmp_path)
    (tmp_path / "alerts.yaml").write_text("mine")
    (tmp_path / "recording.yaml").unlink()
    assert export("rules", tmp_path) == 1
    err = capsys.readouterr().err
    assert "nothing written, because these are there and differ: alerts.yaml;" in err
    assert "--force" in err
    assert not (tmp_path / "recording.yaml").exists()
    assert export("rules", tmp_path, "--force") == 0
    assert tree(tmp_path) == original
    assert "2 files written" in (out := capsys.readouterr().out)
    assert "1 were there" in out


def test_to_export_twice_changes_nothing(tmp_path: Path, capsys: Capture) -> None:
    assert export("rules", tmp_path) == 0
    assert export("rules", tmp_path) == 0
    assert "0 files written" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    assert export("rules", tmp_path / "file" / "below") == 1
    err = capsys.readouterr().err
    assert "Not a directory; name a folder that can be written to" in err
    assert "Traceback" not in err


def test_a_folder_in_the_place_of_a_file_is_not_replaced(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "alerts.yaml").mkdir()
    assert export("rules", tmp_path, "--force") == 1
    assert "Is a directory" in capsys.readouterr().err
    # Nothing half written is left.
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {"alerts.yaml", "recording.yaml", "runbook.md"}


def test_an_unknown_kit_is_refused(tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        export("everything", tmp_path)
    assert "grafana" in capsys.readouterr().err


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel, and of ours only what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    building = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    call(*building, "--directory", folder, cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    call(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    packages = next((folder / "venv/lib").glob("python*/site-packages"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps"]
    call(*pip, "--no-index", "--no-compile", "--target", packages, wheel, cwd=folder)
    # What is in a folder that a .pth names is seen, but not the .pth of our editable install.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "venv/bin/python"


def call(*command: object, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kit", KITS)
def test_a_wheel_has_the_same_files_as_a_checkout(
    kit: str, installed: Path, tmp_path: Path
) -> None:
    call(installed, "-I", "-m", "poolscope", "export", kit, tmp_path / "there", cwd=tmp_path)
    expected = {path.as_posix(): source.read_bytes() for path, source in files(kit).items()}
    assert tree(tmp_path / "there") == expected


@pytest.mark.slow
def test_a_wheel_has_no_tests(installed: Path) -> None:
    bundled = next(installed.parent.parent.glob("lib/*/site-packages/poolscope/assets/files"))
    assert (bundled / "grafana/rules/alerts.yaml").is_file()
    assert list(bundled.rglob("tests")) == []
