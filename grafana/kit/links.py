"""Links: between the boards, to the runbook, and from values to pools and traces."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Literal
from urllib.parse import quote

from grafana.kit import names
from grafana.kit.settings import Settings
from grafana.kit.targets import Json
from poolscope.telemetry import catalog

DETAIL, FLEET, SLO, COLLECTOR = "pool-detail", "pool-fleet", "pool-slo", "pool-collector"
"""The uids of the boards."""
TITLES = {
    FLEET: "Connection pools / fleet",
    DETAIL: "Connection pools / detail",
    SLO: "Connection pools / SLO",
    COLLECTOR: "Connection pools / Collector",
}

_TIME = "${__url_time_range}"
_SOURCES = "${datasource:queryparam}&${traces:queryparam}"


def boards(here: str) -> list[Json]:
    """Return the links above a board: to the others, and to all boards about PostgreSQL.

    The Collector's board has a job and an instance of its own, so these are not kept there.
    """
    others = [_board(uid, keep=COLLECTOR not in (uid, here)) for uid in TITLES if uid != here]
    return [*others, _tagged("PostgreSQL", "postgresql")]


def _board(uid: str, *, keep: bool) -> Json:
    return _link(
        "link",
        title=TITLES[uid].rpartition(" / ")[2].capitalize(),
        url=f"/d/{uid}" if keep else f"/d/{uid}?{_SOURCES}",
        icon="dashboard",
        includeVars=keep,
    )


def _tagged(title: str, tag: str) -> Json:
    return _link("dashboards", title=title, tags=[tag], asDropdown=True)


def _link(kind: Literal["link", "dashboards"], **given: object) -> Json:
    plain: Json = {
        "type": kind,
        "title": "",
        "url": "",
        "icon": "external link",
        "tags": [],
        "tooltip": "",
        "asDropdown": False,
        "includeVars": False,
        "keepTime": True,
        "targetBlank": False,
    }
    return plain | given


def runbook(settings: Settings, *alerts: str) -> list[Json]:
    """Return the links of a panel to what to do about alerts."""
    page = settings.links.runbook
    return [_to(f"What to do: {alert}", f"{page}#{alert.lower()}", new=True) for alert in alerts]


def runbook_page(settings: Settings) -> list[Json]:
    """Return the link to all of the runbook."""
    return [_to("Runbook", settings.links.runbook, new=True)]


def of_series(*, instance: bool = False) -> Json:
    """Lead from a series to its pool alone, or to one process that has it."""
    chosen = {"job": names.JOB, "pool": names.POOL}
    if instance:
        return _detail("Only this process", "__field.labels", chosen | {"instance": names.INSTANCE})
    return _detail("Only this pool", "__field.labels", chosen)


def of_row(uid: str = DETAIL) -> Json:
    """Lead from a row of a table to its pool, on the detail or the SLO board."""
    title = TITLES[uid].rpartition(" / ")[2]
    return _detail(
        f"This pool: {title}", "__data.fields", {"job": names.JOB, "pool": names.POOL}, uid
    )


def _detail(title: str, of: str, chosen: Mapping[str, str], uid: str = DETAIL) -> Json:
    picked = [f"var-{name}=${{{of}.{label}:percentencode}}" for name, label in chosen.items()]
    return _to(title, f"/d/{uid}?{'&'.join([*picked, '${env:queryparam}', _SOURCES, _TIME])}")


def traces(span: str, longer_than: float) -> Json:
    """Lead to the traces of the chosen pools with a span that took longer than so many seconds."""
    query = (
        f'{{ name = "{span}" && span.{catalog.POOL_NAME} =~ "${{pool:pipe}}"'
        f" && duration > {longer_than * 1000:g}ms }}"
    )
    return _explore(query)


def traces_of_clients(longer_than: float) -> Json:
    """Lead to the traces with a query that took longer than so many seconds."""
    return _explore(f"{{ span.{catalog.SYSTEM} != nil && duration > {longer_than * 1000:g}ms }}")


def _explore(query: str) -> Json:
    pane = {
        "datasource": "${traces}",
        "queries": [
            {
                "refId": "A",
                "datasource": {"type": "tempo", "uid": "${traces}"},
                "queryType": "traceql",
                "query": query,
            }
        ],
        "range": {"from": "${__from}", "to": "${__to}"},
    }
    return _to("Slow ones as traces", f"/explore?schemaVersion=1&panes={_quoted({'pools': pane})}")


def _quoted(pane: Json) -> str:
    """Quote all but the variables, which Grafana has to find."""
    text = json.dumps(pane, separators=(",", ":"))
    parts = re.split(r"(\$\{[^}]+\})", text)
    return "".join(part if part.startswith("${") else quote(part) for part in parts)


def _to(title: str, url: str, *, new: bool = False) -> Json:
    return {"title": title, "url": url, "targetBlank": new}
