"""Draw the main panels of the board `detail` as a picture, from data of a real Prometheus.

`python -m grafana.picture` records a day of the stack (python -m stack) and draws it. With
`--prometheus URL` it draws what is there. It takes matplotlib, of the dependency group `picture`.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import re
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

ROOT = Path(__file__).parent.parent
if __name__ == "__main__":
    # Started as a script, Python looks for modules beside it only.
    sys.path[0] = str(ROOT)

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from PIL import Image
except ImportError:
    sys.exit(
        "The picture is drawn by matplotlib, which is not installed.\n"
        "Install the dependency group: pip install --group picture"
    )

from grafana import asked, drawn  # noqa: E402
from grafana.asked import Json, Span  # noqa: E402
from grafana.drawn import Data, Phase, Series  # noqa: E402

if TYPE_CHECKING:
    from stack.services import Said

PICTURE = ROOT / "docs" / "pictures" / "pool-detail.png"
JOB = "shop/orders"
_BOTTOM = 43
"""Where in the grid of the board the picture ends: health, what callers feel, the state."""
_COLUMNS = 24
_WIDTH, _UNIT, _DOTS = 1200, 25, 100
"""Dots across, and down for each unit of the grid; dots for each inch."""
_POINTS = 240


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks a Prometheus what the board does, over a span of time."""

    url: str
    span: Span
    variables: Mapping[str, str]
    speed: float

    def series(self, panel: Json) -> list[Series]:
        """Return what a panel shows."""
        return [each for query in asked.queries(panel) for each in self._series(panel, query)]

    def firing(self, expr: str) -> list[tuple[float, float]]:
        """Return from when to when any of some series was there."""
        spans: list[tuple[float, float]] = []
        for when in sorted({when for each in self._ask(expr) for when, _ in each["values"]}):
            if spans and when - spans[-1][1] <= 1.5 * self.span.step:
                spans[-1] = (spans[-1][0], when)
            else:
                spans.append((when, when))
        return spans

    def _series(self, panel: Json, query: Json) -> Iterator[Series]:
        overrides = panel["fieldConfig"].get("overrides", ())
        for each in self._ask(query["expr"]):
            name = _name(query["legendFormat"], each["metric"])
            values = {round(when, 3): float(value) for when, value in each["values"]}
            numbers = [values.get(round(when, 3), math.nan) for when in self.times()]
            yield Series(name, numbers, _properties(name, overrides))

    def _ask(self, expr: str) -> Any:
        span, promql = self.span, asked.fill(asked.paced(expr, self.speed), self.variables)
        times = {"start": f"{span.start:.3f}", "end": f"{span.end:.3f}", "step": f"{span.step:g}"}
        question = urlencode({"query": promql, **times}).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/api/v1/query_range", question) as reply:
            return json.load(reply)["data"]["result"]

    def times(self) -> list[float]:
        """Return the times at which there may be a sample."""
        span = self.span
        return [
            span.start + n * span.step for n in range(int((span.end - span.start) / span.step) + 1)
        ]


def picture(
    url: str, span: Span, speed: float, path: Path, job: str = JOB, phases: Sequence[Phase] = ()
) -> None:
    """Draw the board over a span of time, and write it as PNG or SVG."""
    board = asked.load("detail")
    asker = Asker(url, span, asked.choices(board, job=job) | span.variables(), speed)
    alerts = asker.firing(board["annotations"]["list"][0]["expr"])
    figure = _figure()
    for panel in board["panels"]:
        place = panel["gridPos"]
        if place["y"] >= _BOTTOM:
            break
        if panel["type"] == "row":
            _text(figure, place, panel["title"], size=10.5, weight="bold")
        else:
            data = Data(asker.times(), asker.series(panel), alerts, phases)
            drawn.draw(_card(figure, panel), panel, data)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(figure, path)
    print(f"wrote {path}, {path.stat().st_size / 1000:.0f} kB")


def _save(figure: Figure, path: Path) -> None:
    """Write a PNG of few colours, which is a third of the size, or whatever the name says."""
    if path.suffix != ".png":
        figure.savefig(path, facecolor=drawn.BACKGROUND)
        return
    dots = io.BytesIO()
    figure.savefig(dots, dpi=_DOTS * 1.5, facecolor=drawn.BACKGROUND)
    Image.open(dots).convert("RGB").quantize(200).save(path, optimize=True)


def _figure() -> Figure:
    matplotlib.rcParams.update(
        {
            "font.family": "DejaVu Sans",
            "font.size": 7.5,
            "axes.edgecolor": drawn.EDGE,
            "xtick.color": drawn.INK,
            "ytick.color": drawn.INK,
            "svg.fonttype": "none",
        }
    )
    return Figure(figsize=(_WIDTH / _DOTS, _BOTTOM * _UNIT / _DOTS))


def _card(figure: Figure, panel: Json) -> Any:
    """Draw the frame of a panel with its title, and return what is inside."""
    place = panel["gridPos"]
    left, width = place["x"] / _COLUMNS, place["w"] / _COLUMNS
    low, height = 1 - (place["y"] + place["h"]) / _BOTTOM, place["h"] / _BOTTOM
    gap_x, gap_y = 4 / _WIDTH, 4 / (_BOTTOM * _UNIT)
    corner, size = (left + gap_x, low + gap_y), (width - 2 * gap_x, height - 2 * gap_y)
    frame = Rectangle(corner, *size, facecolor=drawn.CARD, edgecolor=drawn.EDGE, lw=0.8, zorder=-1)
    figure.add_artist(frame)
    _text(figure, place, panel["title"], size=8.5, weight="normal", inset=12)
    inner = (0.02, 0.06, 0.96, 0.68) if panel["type"] == "stat" else (0.13, 0.21, 0.84, 0.59)
    axes = figure.add_axes(
        (left + inner[0] * width, low + inner[1] * height, inner[2] * width, inner[3] * height)
    )
    axes.set_facecolor(drawn.CARD)
    axes.tick_params(length=0, labelsize=7)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    return axes


def _text(
    figure: Figure, place: Json, text: str, *, size: float, weight: str, inset: float = 6
) -> None:
    left = place["x"] / _COLUMNS + inset / _WIDTH
    top = 1 - (place["y"] + 0.65) / _BOTTOM
    figure.text(left, top, text, color=drawn.INK, fontsize=size, weight=weight, va="center")


def _name(legend: str, labels: Mapping[str, str]) -> str:
    if legend == "__auto":
        return ", ".join(value for label, value in labels.items() if label != "__name__")
    name = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), legend)
    # Of an identity the beginning is enough to tell it from others.
    return re.sub(r"\b([0-9a-f]{8})-[0-9a-f-]{27}\b", r"\1", name)


def _properties(name: str, overrides: Sequence[Json]) -> dict[str, Any]:
    """Return what overrides say of a series; those of the board go by names."""
    found = {}
    for each in overrides:
        matcher = each["matcher"]
        if matcher["id"] == "byRegexp" and re.search(matcher["options"].strip("/"), name):
            found |= {one["id"]: one["value"] for one in each["properties"]}
    return found


def record(speed: float, path: Path) -> None:
    """Let a day go by in the stack, and draw it before the servers end."""
    from stack.__main__ import say
    from stack.topology import Stack

    begin = time.time()
    with Stack("day", speed, say) as stack:
        stack.live()
        span = _span(begin, time.time(), 0.5)
        picture(stack.prometheus.url, span, speed, path, phases=_troubles(stack.said))


def _troubles(said: Sequence[Said]) -> list[Phase]:
    """Return the phases of the load in which it made trouble."""
    pairs = zip(said[::2], said[1::2], strict=False)
    return [
        Phase(begin.time, end.time, begin.phase)
        for begin, end in pairs
        if begin.phase not in ("calm", "recovery")
    ]


def _span(start: float, end: float, interval: float) -> Span:
    # Whole milliseconds, or the times of the answers would be others.
    return Span(round(start, 3), end, max(interval, round((end - start) / _POINTS, 2)), interval)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(prog="python -m grafana.picture", description=__doc__)
    add = parser.add_argument
    add("--prometheus", metavar="URL", help="draw what is there; otherwise record a day")
    add("--minutes", type=float, default=60, help="how much of it, until now")
    add("--interval", type=float, default=15, help="seconds between its samples")
    add("--job", default=JOB, help="of which service")
    add("--speed", type=float, default=30, help="how many times faster than usual time goes by")
    add("--to", type=Path, default=PICTURE, help="the file, PNG or SVG")
    options = parser.parse_args(arguments)
    if options.prometheus:
        end = time.time()
        span = _span(end - options.minutes * 60, end, options.interval)
        picture(options.prometheus.rstrip("/"), span, options.speed, options.to, options.job)
    else:
        record(options.speed, options.to)


if __name__ == "__main__":
    main()
