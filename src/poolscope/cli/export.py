"""`poolscope export`: write the files of a kit to where somebody wants to use or change them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path, PurePosixPath

from poolscope.assets import KitMissingError, files

NEXT = {
    "grafana": "provision them (provisioning/), or send them: poolscope dashboards push --url ...",
    "rules": "name the folder in rule_files of Prometheus, then: promtool check rules *.yaml",
    "collector": "otelcol-contrib validate --config config.yaml",
    "compose": "docker compose up, there; Grafana is then http://localhost:3000",
}
_NAMED = 6
"""Files of a folder that are named; of more, only the number is said."""


def run(kit: str, folder: Path, force: bool = False) -> int:
    """Write a kit below a folder and return the exit status: 1 if that cannot be.

    Files that are there with other contents are only replaced with `force`; without, if there is
    one, nothing is written.
    """
    try:
        texts = {path: source.read_bytes() for path, source in files(kit).items()}
        changed = {path: text for path, text in texts.items() if _read(folder / path) != text}
        taken = [path for path in changed if (folder / path).exists()]
        if taken and not force:
            return _complain(
                f"nothing written, because these are there and differ: {_listed(taken)}; "
                "name another folder, or replace them with --force"
            )
        for path, text in changed.items():
            _write(folder / path, text)
    except KitMissingError as error:
        return _complain(f"{error}; install poolscope from its wheel, or use a whole checkout")
    except OSError as error:
        where, why = error.filename or folder, error.strerror or type(error).__name__
        return _complain(f"{where}: {why}; name a folder that can be written to")
    _tell(kit, folder, texts, changed)
    return 0


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _write(path: Path, text: bytes) -> None:
    """Put a file in place at once: a server may be about to read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _tell(
    kit: str, folder: Path, texts: Mapping[PurePosixPath, bytes], changed: Iterable[PurePosixPath]
) -> None:
    written = list(changed)
    for line in _by_folder(written):
        print(line)
    same = len(texts) - len(written)
    print(f"{len(written)} files written to {folder}" + (f", {same} were there" if same else ""))
    print(f"next: {NEXT[kit]}")


def _by_folder(paths: Iterable[PurePosixPath]) -> Iterator[str]:
    for parent, group in groupby(
        sorted(paths, key=lambda p: (p.parent, p.name)), lambda p: p.parent
    ):
        names = [path.name for path in group]
        yield f"  {parent}/: " + (
            ", ".join(names) if len(names) <= _NAMED else f"{len(names)} files"
        )


def _listed(paths: list[PurePosixPath]) -> str:
    rest = len(paths) - _NAMED
    return ", ".join(map(str, paths[:_NAMED])) + (f" and {rest} more" if rest > 0 else "")


def _complain(text: str) -> int:
    print(f"poolscope export: {text}", file=sys.stderr)
    return 1
