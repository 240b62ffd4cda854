"""Panels that more than one board has: on the objective, on alerts, on the Collector."""

from __future__ import annotations

from collections.abc import Sequence

from grafana.kit import links, names
from grafana.kit.links import runbook
from grafana.kit.looks import RED, YELLOW, Look, colored, worse
from grafana.kit.panels import FULL, THIRD, graph
from grafana.kit.settings import Settings
from grafana.kit.tables import Column, table
from grafana.kit.targets import (
    OF_GROUPS,
    POOL_LEGEND,
    Json,
    Query,
    budget_left,
    either,
    highest,
    of,
    per_budget,
    total,
)

SIGNALS = {"metric_points": "Metric points", "spans": "Spans", "log_records": "Log records"}
QUEUE_SIZE = "otelcol_exporter_queue_size"
QUEUE_CAPACITY = "otelcol_exporter_queue_capacity"


def burn_rates(settings: Settings, width: int) -> Json:
    """Show how fast the budget is spent, over each window on which an alert looks."""
    burns = sorted(settings.slo.burns, key=lambda burn: burn.factor)
    steps = [(b.factor, RED if b.severity == "critical" else YELLOW) for b in burns]
    factors = ", ".join(f"{burn.factor:g} over {burn.long}" for burn in reversed(burns))
    return graph(
        "Burn rate of the worst pool",
        f"""How fast is the error budget spent? At 1 it lasts exactly {settings.slo.period}. The
        dashed lines are where alerts begin: {factors}. All processes count, whichever are chosen.
        """,
        [
            Query(per_budget(highest(of(names.slo_errors(burn.long), which=OF_GROUPS))), burn.long)
            for burn in reversed(burns)
        ],
        Look("none", steps, 1, "no requests"),
        width=width,
        links=runbook(settings, names.BURN),
    )


def burndown(settings: Settings, width: int) -> Json:
    """Show what is left of the budget over time."""
    return graph(
        "Error budget over time",
        f"""How much of the budget of the last {settings.slo.period} is left, and since when does it
        shrink? A steep fall is an incident, a slope is a pool that is always a little too slow.
        Below 0 the objective is missed.""",
        [Query(budget_left(of(names.SLO_ERRORS_30D, which=OF_GROUPS)), POOL_LEGEND)],
        Look("percentunit", [(0, YELLOW), (0.5, "green")], 0, "not yet known", RED, least=None),
        width=width,
        links=runbook(settings, names.BURN),
        data_links=[links.of_series()],
    )


def alert_table(settings: Settings) -> Json:
    """List the alerts that are pending or fire."""
    rows = {"alertname": "Alert", "severity": "Severity", names.JOB: "Service", names.POOL: "Pool"}
    chosen = (
        'alertname!="Watchdog"',
        f'{names.JOB}=~"$job|"',
        f'{names.ENVIRONMENT}=~"$env|"',
        f'{names.POOL}=~"$pool|"',
    )
    firing = of("ALERTS", 'alertstate="firing"', which=chosen)
    since = highest(of("ALERTS_FOR_STATE", which=chosen), *rows)
    return table(
        "Alerts",
        """Which alerts are pending or fire? Those about the chosen pools, and those about no pool
        in particular. The runbook has a section for each.""",
        rows,
        [
            Column(
                "State",
                highest(firing, *rows),
                Look("none", [(1, RED)], words={"1": ("firing", RED)}),
                empty="pending",
            ),
            Column("For", f"time() - {since}", Look("dtdurations", decimals=0)),
        ],
        sort="State",
        empty="no alert",
        width=FULL,
        height=6,
        links={
            "Alert": links.runbook_page(settings),
            "Pool": [links.of_row(), links.of_row(links.SLO)],
        },
    )


def of_collector(settings: Settings) -> tuple[str]:
    """Pick the Collector's own series where no variable says which it is."""
    return (f'{names.JOB}="{settings.labels.collector}"',)


def signal_flow(settings: Settings, signal: str, which: Sequence[str]) -> Json:
    """Show what the Collector takes and gives of one signal."""

    def query(what: str, legend: str) -> Query:
        return Query(total(either(f"otelcol_{what}_{signal}", which)), legend)

    return graph(
        SIGNALS[signal],
        """Does the Collector hand on what it is given? *Accepted* and *sent* should run together.
        *Refused*: the memory limiter turns senders away, who try again. *Send failed* and *not
        queued* are lost.""",
        [
            query("receiver_accepted", "accepted"),
            query("exporter_sent", "sent"),
            query("receiver_refused", "refused"),
            query("receiver_failed", "failed to receive"),
            query("exporter_send_failed", "send failed"),
            query("exporter_enqueue_failed", "not queued"),
        ],
        Look("cps", decimals=1, empty="none of this kind"),
        overrides=[
            colored("accepted", "blue"),
            colored("sent", "green"),
            colored("refused", YELLOW),
            colored("failed to receive|send failed|not queued", RED),
        ],
        links=runbook(settings, names.COLLECTOR_REFUSING, names.COLLECTOR_EXPORT_FAILING),
    )


def queue_fill(settings: Settings, which: Sequence[str], width: int = THIRD) -> Json:
    """Show how full the queues before exporters are."""
    by = (names.INSTANCE, "exporter")
    fill = f"{of(QUEUE_SIZE, which=which)}\n/\n({of(QUEUE_CAPACITY, which=which)} > 0)"
    above = settings.alerts[names.COLLECTOR_QUEUE_NEAR_FULL].above
    return graph(
        "Queues of the exporters",
        """Is what the Collector sends to fast enough? A queue that fills is a backend that is down
        or slow; when it is full, telemetry is lost. Red is where the alert begins.""",
        [Query(highest(fill, *by), "{{exporter}} · {{instance}}")],
        Look("percentunit", worse(above / 2, above), 0, "no queue", most=1),
        width=width,
        links=runbook(settings, names.COLLECTOR_QUEUE_NEAR_FULL),
    )
