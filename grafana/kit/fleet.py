"""The board about all pools of all services: where to look first."""

from __future__ import annotations

from grafana.kit import board, links, names
from grafana.kit.detail_callers import full
from grafana.kit.layout import Row
from grafana.kit.links import runbook
from grafana.kit.looks import LIMIT, RED, Look, limit, worse
from grafana.kit.panels import HALF, graph
from grafana.kit.settings import Settings
from grafana.kit.shared import alert_table
from grafana.kit.tables import Column, table
from grafana.kit.targets import (
    BY_ENVIRONMENT,
    BY_JOB,
    OF_GROUPS,
    Json,
    Query,
    budget_left,
    highest,
    increase,
    of,
    total,
)
from poolscope.telemetry import catalog

MOST = 10
"""Lines of a graph."""
_BY = names.GROUP
_LEGEND = f"{{{{{names.JOB}}}}} · {{{{{names.POOL}}}}}"


def build(settings: Settings) -> Json:
    """Return the board."""
    return board.board(
        links.FLEET,
        """Which of all pools is worst off, and is any server promised more connections than it
        has? One row for each service and pool; a click leads to its details.""",
        [
            Row("Pools: which is worst off?", [_pools(settings), alert_table(settings)]),
            Row("Servers: is more promised than there is?", [_servers(settings), _room(settings)]),
            Row(f"The {MOST} worst pools", _worst(settings)),
        ],
        [
            board.traces(),
            board.environment(),
            board.job(BY_ENVIRONMENT),
            board.pool(BY_ENVIRONMENT, BY_JOB),
        ],
        annotations=[board.alerts()],
    )


def group(series: str, *more: str) -> str:
    """Return the selector of series of the chosen services and pools, in all processes."""
    return of(series, *more, which=OF_GROUPS)


def _pools(settings: Settings) -> Json:
    return table(
        "Pools, worst first",
        """Which pool needs somebody, and for what? *Trouble* is how near the pool is to its nearest
        alert: from 1 on that alert is about to fire, and *Why* says what it is about. A click on a
        pool shows its details.""",
        {names.JOB: "Service", names.ENVIRONMENT: "Environment", names.POOL: "Pool"},
        [_trouble(settings), *_outcome_columns(settings), *_state_columns(settings)],
        sort="Trouble",
        empty="no telemetry",
        height=12,
        links={"Pool": [links.of_row(), links.of_row(links.SLO)]},
    )


def _trouble(settings: Settings) -> Column:
    """Compare each symptom with the threshold of its alert; the worst says why."""
    above = {name: f"{alert.above:g}" for name, alert in settings.alerts.items()}
    burn = settings.slo.burns[0]
    patience = highest(group(names.ACQUIRE_TIMEOUT), *_BY)
    symptoms = {
        "failing": (names.acquire_failures("5m"), above[names.ERROR_RATE_HIGH]),
        "slow": (
            names.quantile(catalog.WAIT_TIME, "p99"),
            f"({above[names.WAIT_NEAR_TIMEOUT]} * {patience} > 0)",
        ),
        "full": (names.UTILIZATION_MAX, above[names.EXHAUSTED]),
        "budget": (names.slo_errors(burn.long), f"{burn.factor * settings.slo.budget:g}"),
        "connects": (names.CONNECT_FAILURE_RATIO, above[names.CONNECT_FAILING]),
    }
    told = [
        f'label_replace({group(series)} / {bound}, "why", "{why}", "", "")'
        for why, (series, bound) in symptoms.items()
    ]
    worst = "\nor\n".join(told)
    look = Look("none", worse(0.7, 1), 1)
    return Column("Trouble", f"topk by ({names.G}) (1,\n{worst}\n)", look, labels=["why"])


def _outcome_columns(settings: Settings) -> list[Column]:
    slo, failing = settings.slo, settings.alerts[names.ERROR_RATE_HIGH].above
    share = Look("percentunit", decimals=2)
    return [
        Column("Requests/s", group(names.acquires("5m")), Look("reqps", decimals=1), empty="idle"),
        Column(
            "Failing",
            group(names.acquire_failures("5m")),
            Look(share.unit, worse(slo.budget, failing), 2),
            empty="idle",
        ),
        Column(
            "Wait p99",
            group(names.quantile(catalog.WAIT_TIME, "p99")),
            Look("s", worse(slo.seconds, 5 * slo.seconds), 1),
            empty="idle",
        ),
        Column(
            "Timeouts 1 h",
            f"round({total(increase(group(names.TIMEOUTS), '1h'), *_BY)})",
            Look("short", [(1, RED)], 0),
        ),
        Column(
            "Budget left",
            budget_left(group(names.SLO_ERRORS_30D)),
            Look("percentunit", [(0.25, "yellow"), (0.5, "green")], 0, base=RED, least=None),
        ),
    ]


def _state_columns(settings: Settings) -> list[Column]:
    whole = Look("short", decimals=0)
    used = total(group(names.COUNT, names.USED), *_BY)
    return [
        Column("Processes", f"count by ({names.G}) ({group(names.USED_PEAK)})", whole),
        Column("Used", used, whole),
        Column("Max", total(group(names.MAX), *_BY), whole, empty="no limit"),
        Column(
            "Fullest process",
            group(names.UTILIZATION_MAX),
            Look("percentunit", full(settings), 0),
            empty="no limit",
        ),
        Column("Waiting", total(group(names.PENDING), *_BY), Look("short", worse(1, 5), 0)),
    ]


def _limit() -> str:
    return f"max by ({names.SERVER}) ({names.SERVER_MAX})"


def _servers(settings: Settings) -> Json:
    above = settings.alerts[names.SERVER_CAPACITY].above
    return table(
        "Connections promised to each server",
        """Which server could be asked for more connections than it takes? *Promised* is what all
        pools of all services may open there together, *limit* what the server takes. Yellow begins
        where the alert does.""",
        {names.SERVER: "Server"},
        [
            Column("Promised", names.SERVER_PROMISED, Look("short", decimals=0)),
            Column("Limit", _limit(), Look("short", decimals=0), empty="not told"),
            Column(
                "Of its limit",
                f"{names.SERVER_PROMISED}\n/ on ({names.SERVER})\n({_limit()} > 0)",
                Look("percentunit", worse(above, 1), 0),
                empty="not told",
            ),
        ],
        sort="Of its limit",
        empty="no pool tells its server",
        width=HALF,
    )


def _room(settings: Settings) -> Json:
    server = f"{{{{{names.SERVER}}}}}"
    return graph(
        "Promised, against the limit",
        """Since when is more promised than there is? A step up is a release, more processes, or a
        larger pool; a step of the dashed line is the server's own setting.""",
        [
            Query(names.SERVER_PROMISED, f"{server}: promised"),
            Query(_limit(), f"{server}: limit"),
        ],
        Look("short", decimals=0, empty="no pool tells its server"),
        width=HALF,
        overrides=[limit(".*: limit", LIMIT)],
        links=runbook(settings, names.SERVER_CAPACITY),
    )


def _worst(settings: Settings) -> list[Json]:
    return [*_felt(settings), *_behind(settings)]


def _felt(settings: Settings) -> list[Json]:
    slo, failing = settings.slo, settings.alerts[names.ERROR_RATE_HIGH].above
    return [
        _top(
            "Longest waits, p99",
            "At which pools do callers wait longest? The first line is the objective.",
            group(names.quantile(catalog.WAIT_TIME, "p99")),
            Look("s", worse(slo.seconds, 5 * slo.seconds), 1, "no requests"),
            runbook(settings, names.WAIT_NEAR_TIMEOUT),
        ),
        _top(
            "Most requests that fail",
            "Which pools fail their callers? The lines are the error budget and the alert.",
            f"{group(names.acquire_failures('5m'))} > 0",
            Look("percentunit", worse(slo.budget, failing), 2, "nothing failed"),
            runbook(settings, names.ERROR_RATE_HIGH),
        ),
        _top(
            "Most requests",
            "Which pools are asked most? It tells whether trouble came with more traffic.",
            group(names.acquires("5m")),
            Look("reqps", decimals=1, empty="no requests"),
            [],
        ),
    ]


def _behind(settings: Settings) -> list[Json]:
    return [
        _top(
            "Fullest",
            "Which pools are full, and since when? The fullest process of each counts.",
            group(names.UTILIZATION_MAX),
            Look("percentunit", full(settings), 0, "no pool with a limit", most=1),
            runbook(settings, names.UTILIZATION_HIGH),
        ),
        _top(
            "Most requests waiting",
            "Where do most requests queue? All processes of a pool are added up.",
            total(group(names.PENDING), *_BY),
            Look("short", decimals=0, empty="no telemetry"),
            runbook(settings, names.PENDING_SUSTAINED),
        ),
        _top(
            "Oldest leases",
            "Who has kept a connection longest? A line that only climbs is a leak.",
            highest(group(names.USE_OLDEST), *_BY),
            Look("s", decimals=0, empty="no telemetry"),
            runbook(settings, names.LEAK),
        ),
    ]


def _top(title: str, about: str, expr: str, look: Look, found: list[Json]) -> Json:
    return graph(
        title,
        f"{about} The {MOST} highest of each moment are shown.",
        [Query(f"topk({MOST}, {expr})", _LEGEND)],
        look,
        links=found,
        data_links=[links.of_series()],
    )
