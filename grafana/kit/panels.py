"""Panels: each answers the question with which its description begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grafana.kit.looks import Look, Override
from grafana.kit.targets import PROMETHEUS, Json, Query, targets

QUARTER, THIRD, HALF, FULL = 6, 8, 12, 24
"""Widths; a board is 24 wide."""
_LOW, _HIGH = 4, 8
"""Heights, of one number and of a graph."""


def stat(title: str, about: str, query: Query, look: Look, *, links: Sequence[Json] = ()) -> Json:
    """Show the number of this moment.

    It is asked for this moment only: the last value in a time range may be an hour old.
    """
    options = {
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "auto",
        "textMode": "auto",
        "wideLayout": True,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    now = replace(query, instant=True)
    return panel("stat", title, about, [now], look, (QUARTER, _LOW), options, links=links)


def graph(
    title: str,
    about: str,
    queries: Sequence[Query],
    look: Look,
    *,
    width: int = THIRD,
    stacked: bool = False,
    bars: bool = False,
    log: bool = False,
    overrides: Sequence[Override] = (),
    links: Sequence[Json] = (),
    data_links: Sequence[Json] = (),
) -> Json:
    """Show lines over time, nothing where there is no sample."""
    custom = {
        "drawStyle": "bars" if bars else "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 80 if bars else 25 if stacked else 0,
        "showPoints": "never",
        "spanNulls": False,
        "axisSoftMin": 0,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "thresholdsStyle": {"mode": "dashed" if look.steps else "off"},
    }
    options = {
        "legend": {
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
            "calcs": ["lastNotNull", "max"],
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    if log:
        del custom["axisSoftMin"]
        look = replace(look, least=None)
    made = panel("timeseries", title, about, queries, look, (width, _HIGH), options, links=links)
    made["fieldConfig"]["defaults"] |= {"color": {"mode": "palette-classic"}, "custom": custom}
    return _with_fields(made, overrides, data_links)


def heatmap(
    title: str, about: str, query: Query, look: Look, *, data_links: Sequence[Json] = ()
) -> Json:
    """Show how often each duration was, over time."""
    options = {
        "calculate": False,
        "yAxis": {"unit": look.unit, "axisPlacement": "left"},
        "rowsFrame": {"layout": "auto", "value": "requests"},
        "color": {"mode": "scheme", "scheme": "Oranges", "exponent": 0.5, "steps": 64},
        "filterValues": {"le": 1e-9},
        "cellGap": 1,
        "showValue": "never",
        "exemplars": {"color": "rgba(31, 96, 196, 0.9)"},
        "legend": {"show": True},
        "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": False},
    }
    asked = replace(query, kind="heatmap", legend="{{le}}", exemplars=True)
    made = panel("heatmap", title, about, [asked], look, (THIRD, _HIGH), options)
    return _with_fields(made, (), data_links)


def states(
    title: str, about: str, query: Query, look: Look, *, width: int = THIRD, strip: bool = False
) -> Json:
    """Show a colour over time: as a strip of many small cells, or as long as a state lasts."""
    options: Json = {
        "showValue": "never",
        "rowHeight": 0.9,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": not strip},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    options |= {"colWidth": 0.9} if strip else {"mergeValues": True, "alignValue": "left"}
    kind = "status-history" if strip else "state-timeline"
    made = panel(kind, title, about, [query], look, (width, _HIGH), options)
    made["fieldConfig"]["defaults"] |= {
        "color": {"mode": "thresholds"},
        "custom": {"fillOpacity": 80, "lineWidth": 0},
    }
    return made | ({"maxDataPoints": 90} if strip else {})


def _with_fields(made: Json, overrides: Sequence[Override], links: Sequence[Json]) -> Json:
    made["fieldConfig"]["overrides"] = list(overrides)
    if links:
        made["fieldConfig"]["defaults"]["links"] = list(links)
    return made


def panel(
    kind: str,
    title: str,
    about: str,
    queries: Sequence[Query],
    look: Look,
    size: tuple[int, int],
    options: Json,
    *,
    links: Sequence[Json] = (),
) -> Json:
    """Return a panel of any kind; its place on the board comes later."""
    width, height = size
    return {
        "type": kind,
        "title": title,
        "description": " ".join(about.split()),
        "datasource": PROMETHEUS,
        "gridPos": {"w": width, "h": height},
        "targets": targets(queries),
        "fieldConfig": {"defaults": look.defaults(), "overrides": []},
        "options": options,
        "links": list(links),
    }
