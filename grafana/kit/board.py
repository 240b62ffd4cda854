"""Boards: what surrounds the panels. Variables, annotations, links."""

from __future__ import annotations

from collections.abc import Sequence

from grafana.kit import links
from grafana.kit.layout import Row, arrange
from grafana.kit.names import COUNT, ENVIRONMENT, INSTANCE, JOB, POOL, POOLS, QUANTILES, USE_COUNT
from grafana.kit.targets import (
    OF_PROCESSES,
    PROMETHEUS,
    Json,
    of,
    total,
)

_EVERY_MINUTE = "60s"


def board(
    uid: str,
    about: str,
    rows: Sequence[Row],
    variables: Sequence[Json],
    *,
    annotations: Sequence[Json] = (),
    span: str = "1h",
) -> Json:
    """Return a board as Grafana stores it. It is written by a program, so it cannot be edited."""
    return {
        "uid": uid,
        "title": links.TITLES[uid],
        "description": " ".join(about.split()),
        "tags": ["pool", "generated"],
        "schemaVersion": 42,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "fiscalYearStartMonth": 0,
        "liveNow": False,
        "preload": False,
        "refresh": "30s",
        "timezone": "browser",
        "time": {"from": f"now-{span}", "to": "now"},
        "timepicker": {},
        "templating": {"list": [_source("datasource", "Data source", "prometheus"), *variables]},
        "annotations": {"list": list(annotations)},
        "links": links.boards(uid),
        "panels": arrange(rows),
    }


def traces() -> Json:
    """Return the variable that says where traces are."""
    return _source("traces", "Traces", "tempo")


def environment() -> Json:
    """Return the variable of the environment, which need not be a label at all."""
    return _query("env", "Environment", ENVIRONMENT, COUNT, everything=".*")


def job(*matchers: str, series: str = COUNT) -> Json:
    """Return the variable of the service."""
    return _query("job", "Job", JOB, series, *matchers)


def instance(*matchers: str, series: str = COUNT) -> Json:
    """Return the variable of the process."""
    return _query("instance", "Instance", INSTANCE, series, *matchers)


def pool(*matchers: str) -> Json:
    """Return the variable of the pool. Each pool tells its count, not each its limit."""
    return _query("pool", "Pool", POOL, COUNT, *matchers)


def quantile() -> Json:
    """Return the variable of the quantile, for panels that show one of them."""
    values = [f"{value:g}" for value in QUANTILES.values()]
    shown = values[1]
    return {
        "type": "custom",
        "name": "q",
        "label": "Quantile",
        "query": ",".join(values),
        "current": {"text": shown, "value": shown},
        "options": [{"text": v, "value": v, "selected": v == shown} for v in values],
        "multi": False,
        "includeAll": False,
        "hide": 0,
        "skipUrlSync": False,
    }


def alerts() -> Json:
    """Return the annotation of the alerts that fire on what is chosen above the board."""
    chosen = f'alertstate="firing", alertname=~"Pool.*", {JOB}=~"$job|", {POOL}=~"$pool|"'
    return _annotation(
        "Alerts",
        f"max by (alertname, severity, {JOB}, {POOL}) (ALERTS{{{chosen}}})",
        color="red",
        title="{{alertname}} ({{severity}})",
        text=f"{{{{{JOB}}}}} {{{{{POOL}}}}}",
    )


def restarts() -> Json:
    """Return the annotation of processes that are new, or whose counters began anew.

    By OTLP a new process is a new instance; what is scraped keeps its instance.
    """
    who = f"{JOB}, {INSTANCE}"
    here = of(POOLS, which=OF_PROCESSES)
    began = f"group by ({who}) ({here}) unless group by ({who}) ({here} offset 2m)"
    anew = f"{total(f'resets({of(USE_COUNT)}[2m])', JOB, INSTANCE)} > 0"
    return _annotation(
        "Restarts",
        f"({began}) or ({anew})",
        color="blue",
        title="New process",
        text=f"{{{{{JOB}}}}} {{{{{INSTANCE}}}}}",
    )


def _source(name: str, label: str, kind: str) -> Json:
    return {
        "type": "datasource",
        "name": name,
        "label": label,
        "query": kind,
        "current": {},
        "options": [],
        "regex": "",
        "refresh": 1,
        "multi": False,
        "includeAll": False,
        "hide": 0,
        "skipUrlSync": False,
    }


def _query(
    name: str, label: str, key: str, series: str, *matchers: str, everything: str = ".+"
) -> Json:
    limited = f"{series}{{{', '.join(matchers)}}}" if matchers else series
    query = f"label_values({limited}, {key})"
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": PROMETHEUS,
        "definition": query,
        "query": {
            "qryType": 1,
            "query": query,
            "refId": "PrometheusVariableQueryEditor-VariableQuery",
        },
        "regex": "",
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": everything,
        "current": {"text": "All", "value": "$__all"},
        "options": [],
        "hide": 0,
        "skipUrlSync": False,
    }


def _annotation(name: str, expr: str, *, color: str, title: str, text: str) -> Json:
    return {
        "name": name,
        "datasource": PROMETHEUS,
        "enable": True,
        "hide": False,
        "iconColor": color,
        "expr": expr,
        "step": _EVERY_MINUTE,
        "target": {"refId": "Anno", "expr": expr, "interval": _EVERY_MINUTE},
        "titleFormat": title,
        "textFormat": text,
        "tagKeys": "alertname,severity",
        "useValueForTime": False,
    }
