"""Panels of a board as matplotlib draws them, in the colours of Grafana's dark theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator, NullFormatter

from grafana.asked import Json

COLORS = {
    "green": "#73bf69", "yellow": "#f2cc0c", "red": "#f2495c", "blue": "#5794f2",
    "orange": "#ff9830", "purple": "#b877d9", "text": "#a9abb8",
}  # fmt: skip
PALETTE = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#ffa6b0")
BACKGROUND, CARD, EDGE, FAINT, INK = "#111217", "#181b1f", "#2c3039", "#2c3039", "#d5d6de"
_HEAT = LinearSegmentedColormap.from_list("heat", [CARD, "#7a3b0c", "#f2761b", "#ffdca8"])
_SMALL = 7.0
_ROOM = 66
"""Characters that a line of names has room for, with 6 for each line that is shown."""
_TICKS = (5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)

Numbers = list[float]


class Phase(NamedTuple):
    """What somebody did to the service, and from when to when."""

    start: float
    end: float
    name: str


@dataclass(slots=True)
class Series:
    """What one query gave of one series; `values` has a NaN where there is no sample."""

    name: str
    values: Numbers
    properties: dict[str, Any] = field(default_factory=dict)
    """What the overrides of the panel say of it."""


@dataclass(slots=True)
class Data:
    """What a panel shows: its series, all at the same times."""

    times: Numbers
    series: Sequence[Series]
    alerts: Sequence[tuple[float, float]] = ()
    """From when to when an alert was firing."""
    phases: Sequence[Phase] = ()


def draw(axes: Axes, panel: Json, data: Data) -> None:
    """Draw a panel.

    Raises:
        KeyError: it is of a kind that the main rows of the board do not have.
    """
    _KINDS[panel["type"]](axes, panel, data)


def written(value: float, unit: str, decimals: int | None = None) -> str:
    """Return a value as the board writes it."""
    if math.isnan(value):
        return "no data"
    if unit == "percentunit":
        return f"{_short(value * 100, decimals)} %"
    if unit == "s":
        return _duration(value)
    endings = {"reqps": " req/s", "cps": "/s", "cpm": "/min", "ops": "/s"}
    return _short(value, decimals) + endings.get(unit, "")


def _short(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:,.{decimals}f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _duration(value: float) -> str:
    if abs(value) >= 120:
        return f"{value / 60:.3g} min"
    for size, word in ((1, "s"), (1e-3, "ms")):
        if abs(value) >= size:
            return f"{value / size:.3g} {word}"
    return f"{value * 1e6:.3g} µs" if value else "0 s"


def _stat(axes: Axes, panel: Json, data: Data) -> None:
    """Draw the last value on the colour it has."""
    defaults = panel["fieldConfig"]["defaults"]
    value = data.series[0].values[-1] if data.series else math.nan
    text = defaults.get("noValue", "") if math.isnan(value) else ""
    text = text or written(value, defaults["unit"], defaults.get("decimals"))
    axes.set_facecolor(FAINT if math.isnan(value) else _color_of(value, defaults))
    axes.set_xticks([])
    axes.set_yticks([])
    size = 17 if len(text) < 10 else 11
    axes.text(
        0.5, 0.46, text, ha="center", va="center", fontsize=size, weight="bold", color="white"
    )


def _color_of(value: float, defaults: Json) -> str:
    steps = defaults["thresholds"]["steps"]
    reached = [s["color"] for s in steps if s["value"] is None or value >= s["value"]]
    # Deeper than those of lines, or white text could not be read.
    return {"green": "#37772f", "yellow": "#b58a00", "red": "#c4162a"}.get(reached[-1], CARD)


def _timeseries(axes: Axes, panel: Json, data: Data) -> None:
    """Draw lines, what is to be stacked one above the other, and limits dashed."""
    defaults = panel["fieldConfig"]["defaults"]
    base = [0.0] * len(data.times)
    for number, series in enumerate(data.series):
        look = defaults.get("custom", {}) | _custom(series.properties)
        color = _fixed(series.properties) or PALETTE[number % len(PALETTE)]
        values = series.values
        if look.get("transform") == "negative-Y":
            values = [-value for value in values]
        if look["stacking"]["mode"] == "normal":
            low, own = base, values
            base = [a + (0 if math.isnan(b) else b) for a, b in zip(base, own, strict=True)]
            # Where there is none of it, a line would be that of what is below.
            values = [
                total if value > 0 else math.nan for value, total in zip(own, base, strict=True)
            ]
            axes.fill_between(
                data.times, low, base, color=color, linewidth=0,
                alpha=look.get("fillOpacity", 25) / 100, step=_step(look),
            )  # fmt: skip
        _line(axes, data.times, values, look, color, series.name)
    _thresholds(axes, defaults)
    _axes(axes, data, defaults)
    _legend(axes)


def _line(axes: Axes, times: Numbers, values: Numbers, look: Json, color: str, name: str) -> None:
    dashed = look.get("lineStyle", {}).get("fill") == "dash"
    style = (0, (5, 3)) if dashed else "-"
    drawn = {"color": color, "linestyle": style, "linewidth": 1.1, "label": name}
    axes.plot(times, values, drawstyle=f"steps-{_step(look)}" if _step(look) else None, **drawn)


def _step(look: Json) -> str | None:
    """Draw bars as the outline of all of them."""
    return "mid" if look.get("drawStyle") == "bars" else None


def _custom(properties: Mapping[str, Any]) -> Json:
    """Return what is said of how a series is drawn."""
    return {
        key.removeprefix("custom."): value
        for key, value in properties.items()
        if key.startswith("custom.")
    }


def _fixed(properties: Mapping[str, Any]) -> str | None:
    name = properties.get("color", {}).get("fixedColor")
    return COLORS.get(name) if name else None


def _thresholds(axes: Axes, defaults: Json) -> None:
    """Draw them where they can be seen without making what is measured small."""
    if defaults.get("custom", {}).get("thresholdsStyle", {}).get("mode") != "dashed":
        return
    top = axes.get_ylim()[1]
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is not None and step["value"] <= top * 1.3:
            axes.axhline(
                step["value"], color=COLORS[step["color"]], linewidth=0.8, linestyle=(0, (5, 4))
            )


def _axes(axes: Axes, data: Data, defaults: Json) -> None:
    if defaults.get("custom", {}).get("scaleDistribution", {}).get("type") == "log":
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
    elif defaults.get("min") == 0:
        axes.set_ylim(bottom=0)
        if axes.get_ylim()[1] < 1e-9 or not data.series:
            axes.set_ylim(top=1)
    unit = defaults["unit"]
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: written(abs(value), unit)))
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    _clock(axes, data)
    _happenings(axes, data)
    if not data.series:
        axes.text(
            0.5, 0.5, defaults.get("noValue", "no data"), transform=axes.transAxes,
            ha="center", va="center", color=INK, fontsize=9,
        )  # fmt: skip


def _happenings(axes: Axes, data: Data) -> None:
    """Show below the lines when alerts were firing, and behind them what was done."""
    for start, end in data.alerts:
        axes.axvspan(start, end, ymin=0, ymax=0.025, color=COLORS["red"], linewidth=0)
    for start, end, name in data.phases:
        axes.axvspan(start, end, color="#ffffff", alpha=0.045, linewidth=0)
        axes.text(
            (start + end) / 2, 1.01, name, transform=axes.get_xaxis_transform(), ha="center",
            va="bottom", fontsize=6.5, color=COLORS["text"],
        )  # fmt: skip


def _clock(axes: Axes, data: Data) -> None:
    length = data.times[-1] - data.times[0]
    step = next((each for each in _TICKS if length / each <= 5), length)
    form = "%H:%M" if step >= 60 else "%H:%M:%S"
    axes.set_xlim(data.times[0], data.times[-1])
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: datetime.fromtimestamp(value).strftime(form))
    )


def _legend(axes: Axes) -> None:
    """Name as many as there is room for."""
    lines, names = axes.get_legend_handles_labels()
    ends = accumulate(len(name) + 6 for name in names)
    room = sum(end <= _ROOM for end in ends)
    if room:
        axes.legend(
            lines[:room], names[:room], loc="upper left", bbox_to_anchor=(-0.02, -0.12),
            ncols=room, fontsize=_SMALL, frameon=False, labelcolor=INK, handlelength=1.2,
            columnspacing=1.0, handletextpad=0.5,
        )  # fmt: skip


def _heatmap(axes: Axes, panel: Json, data: Data) -> None:
    """Draw how many values were in each bucket; what Prometheus gives is those up to a bound."""
    bounded = sorted((_bound(series.name), series.values) for series in data.series)
    rows: list[Numbers] = []
    below = [0.0] * len(data.times)
    for _, values in bounded:
        values = [0.0 if math.isnan(value) else value for value in values]
        rows.append([max(0.0, a - b) for a, b in zip(values, below, strict=True)])
        below = values
    if rows:
        norm = PowerNorm(0.5, vmin=0)
        axes.imshow(
            rows, aspect="auto", origin="lower", cmap=_HEAT, norm=norm, interpolation="nearest",
            extent=(data.times[0], data.times[-1], 0, len(rows)),
        )  # fmt: skip
    ticks = range(1, len(bounded), 3)
    axes.set_yticks([*ticks], [_duration(bounded[tick - 1][0]) for tick in ticks])
    _clock(axes, data)
    _happenings(axes, replace(data, alerts=()))


def _bound(name: str) -> float:
    return float(name.replace("+Inf", "inf"))


_KINDS: Mapping[str, Callable[[Axes, Json, Data], None]] = {
    "stat": _stat,
    "timeseries": _timeseries,
    "heatmap": _heatmap,
}
