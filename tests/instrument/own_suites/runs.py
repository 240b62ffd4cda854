"""Runs of other libraries' tests, each in a process of its own, with a server of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.instrument.own_suites.suites import Suite
from tests.sdists import installed_from, source_of

HERE = Path(__file__).parent
LONGEST = 150.0
"""Seconds that a run may take."""
AT_ONCE = 4
"""Runs. Much of their time they sleep, but some measure how long things take."""


Test = tuple[int, str]
"""The part of the suite, and what pytest calls the test: parts may have tests in common."""


@dataclass(frozen=True)
class Result:
    """How a run ended; if its pools were observed, what was seen of them too."""

    part: int
    outcomes: dict[str, list[str]]
    """What is reported of each test: of its setup, its call and its teardown."""
    counts: dict[str, int] = field(default_factory=dict)
    """Of events, by type."""
    complaints: tuple[str, ...] = ()
    """What poolscope warned of."""
    readings: int = 0
    """How often the metrics were read meanwhile."""

    def failures(self) -> list[str]:
        """Return the names of tests that failed."""
        return [
            name
            for name, ends in self.outcomes.items()
            if any(": failed" in f": {end}" for end in ends)
        ]


def side_by_side(
    suite: Suite, folder: Path, only: Collection[Test] = ()
) -> tuple[list[Result], list[Result]]:
    """Run all parts of a suite, plain and observed at the same time; or only some of its tests."""
    theirs = source_of(suite.distribution, suite.package)
    extras = installed_from(HERE / "requirements.lock")
    folder.mkdir()
    numbers = sorted({number for number, _ in only}) or range(len(suite.parts))
    pairs = []
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for number in numbers:
            names = [name for part, name in only if part == number]
            start = partial(threads.submit, run, suite, theirs, extras, number, names)
            pairs.append(
                (
                    start("", folder / f"plain-{number}"),
                    start(suite.library, folder / f"observed-{number}"),
                )
            )
        return [plain.result() for plain, _ in pairs], [seen.result() for _, seen in pairs]


def run(
    suite: Suite,
    theirs: Path,
    extras: Path,
    number: int,
    only: Collection[str],
    observe: str,
    folder: Path,
) -> Result:
    """Run one part of a suite, or some of its tests."""
    folder.mkdir()
    told, output, names = (folder / name for name in ("told.json", "output.txt", "only.txt"))
    names.write_text("\n".join(only), encoding="utf-8")
    if (settings := theirs / "setup.cfg").exists():
        (folder / settings.name).symlink_to(settings)  # SQLAlchemy's tests look for it there
    # Else a file of ours, further up, would be taken where theirs says nothing of pytest.
    options = ["-c", theirs / "pyproject.toml", "-o", "addopts=", "-q", "--tb=short"]
    plugins = ["-p", "observed", "-p", "no:cacheprovider", *suite.options]
    ours = [f"--told={told}", f"--observe={observe}", f"--only={names}"]
    part = [theirs / each if (theirs / each).exists() else each for each in suite.parts[number]]
    path = os.pathsep.join([str(HERE / "plugin"), str(extras)])
    with suite.serve() as served, output.open("w") as file:
        arguments = [*options, *plugins, *ours, *served.arguments, *part]
        subprocess.run(
            [sys.executable, "-s", "-P", "-m", "pytest", *arguments],
            cwd=folder,
            # One seed, for where they choose from a set.
            env={**os.environ, **served.environment, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=LONGEST,
        )
    assert told.exists(), output.read_text(encoding="utf-8")
    return Result(number, **json.loads(told.read_text(encoding="utf-8")))
