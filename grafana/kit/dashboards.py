"""The boards, as the files that Grafana reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from grafana.kit import collector, detail, fleet, lint, slo
from grafana.kit.settings import Settings
from grafana.kit.targets import Json

BOARDS: Mapping[str, Callable[[Settings], Json]] = {
    "detail": detail.build,
    "fleet": fleet.build,
    "slo": slo.build,
    "collector": collector.build,
}


def files(settings: Settings) -> Mapping[str, str]:
    """Return the texts of the boards by their paths below `grafana`, and what linters pass over."""
    boards = {name: build(settings) for name, build in BOARDS.items()}
    texts = {f"dashboards/{name}.json": _text(board) for name, board in boards.items()}
    return texts | {"dashboards/.lint": lint.text(list(boards.values()))}


def _text(board: Json) -> str:
    return json.dumps(board, indent=2, ensure_ascii=False) + "\n"
