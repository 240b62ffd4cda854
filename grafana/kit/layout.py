"""Where panels are: rows of them, one below the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from grafana.kit.panels import FULL
from grafana.kit.targets import Json


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that answer one question together; a folded one asks nothing until it is opened."""

    title: str
    panels: Sequence[Json]
    folded: bool = False


def arrange(rows: Sequence[Row]) -> list[Json]:
    """Return the panels of a board, from left to right and from top to bottom."""
    ids = count(1)
    placed: list[Json] = []
    top = 0
    for row in rows:
        head = _head(row, next(ids), top)
        inside = [panel | {"id": next(ids)} for panel in _lines(row.panels, top + 1)]
        top = max((_bottom(panel) for panel in inside), default=top + 1)
        if row.folded:
            placed.append(head | {"panels": inside})
            top = head["gridPos"]["y"] + 1
        else:
            placed += [head, *inside]
    return placed


def _lines(panels: Sequence[Json], top: int) -> Iterator[Json]:
    """Yield the panels with their places; what does not fit into a line begins the next."""
    left, bottom = 0, top
    for panel in panels:
        size = panel["gridPos"]
        if left + size["w"] > FULL:
            left, top = 0, bottom
        yield panel | {"gridPos": size | {"x": left, "y": top}}
        left += size["w"]
        bottom = max(bottom, top + size["h"])


def _bottom(panel: Json) -> int:
    place = panel["gridPos"]
    return int(place["y"] + place["h"])


def _head(row: Row, ident: int, top: int) -> Json:
    return {
        "type": "row",
        "id": ident,
        "title": row.title,
        "collapsed": row.folded,
        "gridPos": {"x": 0, "y": top, "w": FULL, "h": 1},
        "panels": [],
    }
