"""The detail board's rows on what is around pools: server, objective, queries, telemetry."""

from __future__ import annotations

from grafana.kit import links, names
from grafana.kit.links import runbook
from grafana.kit.looks import LIMIT, USED, Look, colored, limit, worse
from grafana.kit.panels import HALF, graph
from grafana.kit.settings import Settings, seconds
from grafana.kit.shared import (
    alert_table,
    burn_rates,
    burndown,
    of_collector,
    queue_fill,
    signal_flow,
)
from grafana.kit.targets import (
    OF_PROCESSES,
    PER_POOL,
    POOL_LEGEND,
    Json,
    Query,
    highest,
    of,
    quantile,
    rate,
    total,
)

OPERATION = "db_client_operation_duration_seconds"
"""Not ours: what instrumentations of database clients tell about queries."""
OPERATION_NAME = "db_operation_name"
BACKENDS = "postgresql_backends"
"""Not ours: of the Collector's receiver `postgresql`."""
DATABASE = "postgresql_database_name"


def server(settings: Settings) -> list[Json]:
    """Return what is promised to the servers of the chosen pools, and what they have."""
    return [_promised(settings), _backends()]


def objective(settings: Settings) -> list[Json]:
    """Return the pace at which the error budget is spent, and the alerts."""
    return [burn_rates(settings, HALF), burndown(settings, HALF), alert_table(settings)]


def operations(settings: Settings) -> list[Json]:
    """Return rate, errors and durations of queries, where somebody tells."""
    return [_operation_rate(), _operation_errors(), _operation_durations(settings)]


def telemetry(settings: Settings) -> list[Json]:
    """Return whether all arrives that is told, and how much it is."""
    return [
        _age(settings),
        signal_flow(settings, "metric_points", of_collector(settings)),
        queue_fill(settings, of_collector(settings)),
        _series(),
        _subscribers(),
    ]


def here(expr: str) -> str:
    """Keep of some series those of servers to which the chosen pools connect."""
    return f"{expr}\nand on ({names.SERVER})\n{total(of(names.MAX), names.SERVER)}"


def _promised(settings: Settings) -> Json:
    most = f"max by ({names.SERVER}) ({names.SERVER_MAX})"
    server = f"{{{{{names.SERVER}}}}}"
    return graph(
        "Connections promised to each server",
        """Could all pools of all services together open more connections than their server takes?
        Above the dashed limit it refuses some of them on the day everything is busy. PostgreSQL
        keeps a few of its limit for superusers.""",
        [
            Query(here(names.SERVER_PROMISED), f"{server}: promised"),
            Query(here(f"sum by ({names.SERVER}) ({BACKENDS})"), f"{server}: open"),
            Query(here(most), f"{server}: limit"),
        ],
        Look("short", decimals=0, empty="no server tells its limit"),
        width=HALF,
        overrides=[colored(".*: open", USED), limit(".*: limit", LIMIT)],
        links=runbook(settings, names.SERVER_CAPACITY),
    )


def _backends() -> Json:
    return graph(
        "Connections open at each server, by database",
        """Who else is connected? The server counts all its clients, not only our pools. Much more
        than the pools have open means that somebody else fills it.""",
        [
            Query(
                here(f"sum by ({names.SERVER}, {DATABASE}) ({BACKENDS})"),
                f"{{{{{names.SERVER}}}}} {{{{{DATABASE}}}}}",
            ),
        ],
        Look("short", decimals=0, empty="no server tells"),
        width=HALF,
        stacked=True,
    )


def _operation_rate() -> Json:
    selector = of(f"{OPERATION}_count", which=OF_PROCESSES)
    return graph(
        "Queries",
        "How many queries are there per second, of which kind? More of them explain a full pool.",
        [Query(total(rate(selector), OPERATION_NAME), f"{{{{{OPERATION_NAME}}}}}")],
        Look("ops", empty="nobody tells of queries"),
        stacked=True,
    )


def _operation_errors() -> Json:
    bad = of(f"{OPERATION}_count", f'{names.ERROR_TYPE}!=""', which=OF_PROCESSES)
    every = of(f"{OPERATION}_count", which=OF_PROCESSES)
    return graph(
        "Share of queries that fail",
        "Do queries fail, and of what? Errors of the server are not errors of the pool.",
        [
            Query(
                f"{total(rate(bad), names.ERROR_TYPE)}\n"
                f"/ on () group_left ()\n({total(rate(every))} > 0)",
                f"{{{{{names.ERROR_TYPE}}}}}",
            )
        ],
        Look("percentunit", worse(0.001, 0.01), 2, "no query failed", most=1),
    )


def _operation_durations(settings: Settings) -> Json:
    buckets = of(f"{OPERATION}_bucket", which=OF_PROCESSES)
    return graph(
        "Time of a query",
        """Which kind of query is slow? If it is as long as connections are held, holders do nothing
        but wait for the database; if it is much shorter, they keep connections while they do other
        work. Above: the chosen quantile.""",
        [
            Query(
                quantile("$q", buckets, OPERATION_NAME),
                f"q$q {{{{{OPERATION_NAME}}}}}",
                exemplars=True,
            )
        ],
        Look("s", decimals=1, empty="nobody tells of queries"),
        data_links=[links.traces_of_clients(settings.slo.seconds)],
    )


def _age(settings: Settings) -> Json:
    age = seconds(settings.alerts[names.TELEMETRY_STALE].age)
    newest = highest(f"timestamp({of(names.COUNT)})", names.JOB, names.INSTANCE)
    return graph(
        "Age of the newest sample",
        """Since when has a process told nothing? Up to the interval of export or scrape is normal.
        After five minutes without a sample its line ends. What has ended by OTLP looks alive until
        then.""",
        [Query(f"time() - {newest}", f"{{{{{names.JOB}}}}} · {{{{{names.INSTANCE}}}}}")],
        Look("s", worse(age / 2, age), 0, "no telemetry"),
        links=runbook(settings, names.TELEMETRY_STALE, names.TELEMETRY_LOST),
    )


def _series() -> Json:
    every = of("", '__name__=~"(db_client_connection|poolscope)_.+"')
    return graph(
        "Series of each pool",
        """What does each pool cost to store? Buckets are most of it. It grows with processes, never
        with requests: if it climbs without a release, a label has too many values.""",
        [Query(f"count by ({', '.join(PER_POOL)}) ({every})", POOL_LEGEND)],
        Look("short", decimals=0, empty="no telemetry"),
    )


def _subscribers() -> Json:
    return graph(
        "Events that subscribers missed or broke on",
        """Do listeners of the pools work? Each error is a subscriber that raised, each dropped
        event one that a buffered subscriber was too slow for. The numbers on this board do not
        depend on them.""",
        [
            Query(total(rate(of(names.SUBSCRIBER_ERRORS)), *PER_POOL), f"errors: {POOL_LEGEND}"),
            Query(total(rate(of(names.EVENTS_DROPPED)), *PER_POOL), f"dropped: {POOL_LEGEND}"),
        ],
        Look("cps", [(0.001, "red")], empty="no telemetry"),
    )
