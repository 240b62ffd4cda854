"""Write all that is generated for Grafana and Prometheus, from `grafana/kit`.

`python grafana/build.py` writes it, `--check` only tells whether it is as it would be written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
if __name__ == "__main__":
    # Started as a script, Python looks for modules beside it only.
    sys.path[0] = str(ROOT)

from grafana.kit import dashboards, rules, settings  # noqa: E402
from grafana.kit.settings import Settings  # noqa: E402

PARTS: tuple[Callable[[Settings], Mapping[str, str]], ...] = (rules.files, dashboards.files)
"""Each gives the texts of files by their paths below `grafana`; another kind is another line."""


def files() -> dict[Path, str]:
    """Return what is to be in each generated file."""
    given = settings.load()
    return {ROOT / "grafana" / path: text for part in PARTS for path, text in part(given).items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files; with `--check` name those that are out of date, and return 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    check = parser.parse_args(arguments).check
    stale = {path: text for path, text in files().items() if _read(path) != text}
    for path, text in stale.items():
        if check:
            print(f"{path.relative_to(ROOT)} is out of date: run grafana/build.py", file=sys.stderr)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if stale and check else 0


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main())
