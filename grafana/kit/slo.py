"""The board about the objective: what was promised, and what is left of the error budget."""

from __future__ import annotations

from grafana.kit import board, links, names
from grafana.kit.layout import Row
from grafana.kit.links import runbook
from grafana.kit.looks import RED, YELLOW, Look, colored, worse
from grafana.kit.panels import HALF, graph, stat
from grafana.kit.settings import Burn, Settings
from grafana.kit.shared import alert_table, burndown
from grafana.kit.tables import Column, table
from grafana.kit.targets import (
    BY_ENVIRONMENT,
    BY_JOB,
    OF_GROUPS,
    POOL_LEGEND,
    Json,
    Query,
    budget_left,
    highest,
    of,
    per_budget,
    total,
)


def build(settings: Settings) -> Json:
    """Return the board."""
    slo = settings.slo
    return board.board(
        links.SLO,
        f"""Do the chosen pools keep what is promised: {slo.objective * 100:g} % of requests get a
        connection within {slo.seconds:g} s? If not, since when, and how fast is the budget spent?
        Cancelled requests count neither way.""",
        [
            Row("Objective: is it kept?", _now(settings)),
            Row("Budget: where did it go?", [burndown(settings, HALF), _spent(settings)]),
            Row("Burn rates: will it last?", [_burn(settings, burn) for burn in slo.burns]),
            Row("Pools: which spends it?", [_pools(settings), alert_table(settings)]),
        ],
        [
            board.traces(),
            board.environment(),
            board.job(BY_ENVIRONMENT),
            board.pool(BY_ENVIRONMENT, BY_JOB),
        ],
        annotations=[board.alerts()],
        span="24h",
    )


def group(series: str) -> str:
    """Return the selector of a recording rule's series for the chosen pools."""
    return of(series, which=OF_GROUPS)


def _now(settings: Settings) -> list[Json]:
    slo = settings.slo
    kept = f"1 - {highest(group(names.SLO_ERRORS_30D))}"
    worst = per_budget(highest(group(names.slo_errors(slo.burns[0].long))))
    return [
        stat(
            "Objective",
            f"""What is promised? This share of requests is to get a connection within
            {slo.seconds:g} s, over {slo.period}. It is set in grafana/settings.toml.""",
            Query(f"max({names.SLO_OBJECTIVE})"),
            Look("percentunit", (), 2, "rules do not run", "text"),
        ),
        stat(
            f"Kept, {slo.period}",
            f"""What was kept, by the worst of the chosen pools? This share of its requests got a
            connection within {slo.seconds:g} s. Red: below the objective.""",
            Query(kept),
            Look("percentunit", [(slo.objective, "green")], 3, "not yet known", RED),
            links=runbook(settings, names.BURN),
        ),
        stat(
            "Error budget left",
            f"""How much may still go wrong, at the worst of the chosen pools? Of the errors that
            the objective allows in {slo.period}, this share is left. Below 0 it is missed.""",
            Query(f"min({budget_left(group(names.SLO_ERRORS_30D))})"),
            Look("percentunit", [(0, YELLOW), (0.5, "green")], 0, "not yet known", RED, least=None),
            links=runbook(settings, names.BURN),
        ),
        stat(
            f"Burn rate, {slo.burns[0].long}",
            f"""How fast is the budget spent now, at the worst of the chosen pools? At 1 it lasts
            {slo.period}. Red begins where somebody is called: {slo.burns[0].factor:g}.""",
            Query(worst),
            Look("none", worse(1, slo.burns[0].factor), 1, "no requests"),
            links=runbook(settings, names.BURN),
        ),
    ]


def _spent(settings: Settings) -> Json:
    late = f"{total(group(names.acquires('5m')))} - {total(group(names.acquires_good('5m')))}"
    return graph(
        "Requests that spend the budget",
        f"""What goes wrong: are requests failing, or slow? *Failed* got no connection, *too slow*
        got one after more than {settings.slo.seconds:g} s. *In time* is all the rest.""",
        [
            Query(total(group(names.acquires_good("5m"))), "in time"),
            Query(
                f"clamp_min({late} - {total(group(names.acquires_failed('5m')))}, 0)", "too slow"
            ),
            Query(total(group(names.acquires_failed("5m"))), "failed"),
        ],
        Look("reqps", decimals=1, empty="no requests"),
        width=HALF,
        stacked=True,
        overrides=[
            colored("in time", "green"),
            colored("too slow", YELLOW),
            colored("failed", RED),
        ],
        links=runbook(settings, names.BURN, names.ERROR_RATE_HIGH),
    )


def _burn(settings: Settings, burn: Burn) -> Json:
    color = RED if burn.severity == "critical" else YELLOW
    does = "calls somebody" if burn.severity == "critical" else "makes a ticket"
    windows = (burn.long, burn.short)
    return graph(
        f"Burn rate, {burn.long} and {burn.short}",
        f"""Is the budget spent more than {burn.factor:g} times too fast? The alert {does} when both
        lines of a pool have been above the dashed one for {burn.wait}: the long window says that it
        matters, the short one that it goes on.""",
        [
            Query(per_budget(group(names.slo_errors(window))), f"{window} {POOL_LEGEND}")
            for window in windows
        ],
        Look("none", [(burn.factor, color)], 1, "no requests"),
        width=HALF,
        links=runbook(settings, names.BURN),
        data_links=[links.of_series()],
    )


def _pools(settings: Settings) -> Json:
    slo = settings.slo
    burns = [
        Column(
            f"Burn {burn.long}",
            per_budget(group(names.slo_errors(burn.long))),
            Look("none", worse(min(1, burn.factor / 2), burn.factor), 1),
            empty="idle",
        )
        for burn in slo.burns
    ]
    return table(
        "Pools, least budget first",
        f"""Which pool spends its budget, and is it over? High at {slo.burns[0].long} and low at
        {slo.burns[-1].long} is an incident now; the other way round it was one.""",
        {names.JOB: "Service", names.ENVIRONMENT: "Environment", names.POOL: "Pool"},
        [
            Column(
                "Budget spent",
                per_budget(group(names.SLO_ERRORS_30D)),
                Look("percentunit", worse(0.5, 1), 0),
                empty="not yet known",
            ),
            Column(
                f"In time, {slo.period}",
                f"1 - {group(names.SLO_ERRORS_30D)}",
                Look("percentunit", decimals=3),
            ),
            *burns,
            Column("Requests/s", group(names.acquires("1h")), Look("reqps", decimals=1)),
        ],
        sort="Budget spent",
        empty="not yet known",
        links={"Pool": [links.of_row()]},
    )
