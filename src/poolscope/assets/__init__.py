"""The files of the operations kit: boards, rules, settings of servers, and what Compose needs.

In a checkout they are where they are edited; a wheel has them in `files`, beside this module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

PACKAGE = Path(__file__).parent.parent

KITS: Mapping[str, Mapping[str, str]] = {
    "grafana": {"grafana/dashboards": "dashboards", "grafana/provisioning": "provisioning"},
    "rules": {
        "grafana/rules/recording.yaml": "recording.yaml",
        "grafana/rules/alerts.yaml": "alerts.yaml",
        "docs/runbook.md": "runbook.md",
    },
    "collector": {"otel-collector": ""},
    "compose": {
        each: each
        for each in (
            "docker-compose.yml",
            ".env",
            ".dockerignore",
            "docs/operations.md",
            "docs/runbook.md",
            "examples",
            "grafana",
            "otel-collector",
            "src/poolscope",
            "stack/__init__.py",
            "stack/pages.py",
            "stack/webhook.py",
        )
    },
}
"""What belongs to each kit: files and folders, and the paths at which they are given out."""

_LEFT_OUT = {"__pycache__", "tests", "files"}
"""Folders of no use to whoever runs the kit; the last is this module's own in a wheel."""


class KitMissingError(Exception):
    """This installation lacks files of the kit."""


def files(kit: str) -> dict[PurePosixPath, Path]:
    """Return where the files of one of `KITS` are, by the paths at which they are given out.

    Raises:
        KitMissingError: files are not there; the message names them.
    """
    root = _root()
    found: dict[PurePosixPath, Path] = {}
    for source, target in KITS[kit].items():
        place = PACKAGE if source == "src/poolscope" else root / source
        if not place.exists():
            raise KitMissingError(f"{source} is not in this installation of poolscope")
        found |= {PurePosixPath(target, rest): path for rest, path in _below(place)}
    return found


def _root() -> Path:
    bundled = Path(__file__).parent / "files"
    return bundled if bundled.is_dir() else PACKAGE.parent.parent


def _below(place: Path) -> Iterator[tuple[PurePosixPath, Path]]:
    if place.is_file():
        yield PurePosixPath(), place
        return
    for path in sorted(place.rglob("*")):
        rest = path.relative_to(place)
        # Hidden files are for linters.
        hidden = path.name.startswith(".")
        if path.is_file() and not hidden and not _LEFT_OUT.intersection(rest.parts):
            yield PurePosixPath(rest), path
