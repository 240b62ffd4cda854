from pathlib import Path

import pytest

from grafana.kit import settings
from grafana.kit.pace import Pace
from grafana.kit.yaml import dump

TEXT = settings.PATH.read_text()


def changed(tmp_path: Path, old: str, new: str) -> Path:
    assert old in TEXT
    path = tmp_path / "settings.toml"
    path.write_text(TEXT.replace(old, new, 1))
    return path


def test_a_setting_that_is_not_known_is_told(tmp_path: Path) -> None:
    path = changed(tmp_path, "objective = 0.999", "objective = 0.999\nobjektive = 0.99")
    with pytest.raises(ValueError, match=r"\[slo\] of settings.toml knows no objektive"):
        settings.load(path)


def test_a_setting_that_is_missing_is_told(tmp_path: Path) -> None:
    path = changed(tmp_path, "objective = 0.999", "")
    with pytest.raises(ValueError, match=r"\[slo\] of settings.toml lacks .*objective"):
        settings.load(path)


@pytest.mark.parametrize(
    ("duration", "length"),
    [("0m", 0), ("500ms", 0.5), ("1m30s", 90), ("3d", 259_200), ("2m1s5ms", 121.005)],
)
def test_durations_are_read_as_prometheus_reads_them(duration: str, length: float) -> None:
    assert settings.seconds(duration) == length


@pytest.mark.parametrize("wrong", ["", "5", "5 m", "m5", "5m4h", "-5m"])
def test_what_is_no_duration_is_told(wrong: str) -> None:
    with pytest.raises(ValueError, match="a duration is written like 5m"):
        settings.seconds(wrong)


@pytest.mark.parametrize(
    ("duration", "speed", "faster"),
    [("5m", 30, "10s"), ("30d", 30, "1d"), ("3d", 30, "2h24m"), ("1m", 120, "500ms")],
)
def test_in_fast_motion_a_duration_is_shorter(duration: str, speed: float, faster: str) -> None:
    assert Pace(speed)(duration) == faster
    assert Pace()(duration) == duration


def test_yaml_is_written_as_a_person_would() -> None:
    value = {
        "plain": "a:no",
        "number": 0.5,
        "quoted": "on",
        "colon": "key: value",
        "hash": "a #b",
        "templated": "{{ $value }}",
        "duration": "1h30m",
        "digits": "10",
        "expr": "sum(\n  up\n)",
        "long": "word " * 30 + "end",
        "list": [{"a": "b", "c": {"d": 1}}, "plain"],
    }
    assert dump(value, "Note.") == (
        "# Note.\n"
        "---\n"
        "plain: a:no\n"
        "number: 0.5\n"
        'quoted: "on"\n'
        'colon: "key: value"\n'
        'hash: "a #b"\n'
        'templated: "{{ $value }}"\n'
        "duration: 1h30m\n"
        'digits: "10"\n'
        "expr: |-\n"
        "  sum(\n"
        "    up\n"
        "  )\n"
        "long: >-\n"
        f"  {'word ' * 18}word\n"
        f"  {'word ' * 10}word end\n"
        "list:\n"
        "  - a: b\n"
        "    c:\n"
        "      d: 1\n"
        "  - plain\n"
    )


def test_yaml_is_not_written_of_what_it_cannot_hold() -> None:
    with pytest.raises(TypeError, match="cannot write NoneType as YAML"):
        dump({"key": None}, "")
