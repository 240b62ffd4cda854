"""The pools as JSON, for scripts: one line for each time they are read."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime

from poolscope.cli.stats.reader import View


def document(view: View, now: datetime) -> str:
    """Return one JSON document. Keys name their unit; what is not known is null."""
    return json.dumps(
        {
            "time": now.isoformat(timespec="milliseconds"),
            "pools": [asdict(pool) for pool in view.pools],
            "problems": [
                {"address": problem.address, "problem": problem.what, "remedy": problem.remedy}
                for problem in view.problems
            ],
        },
        allow_nan=False,
    )
