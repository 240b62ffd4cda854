"""The detail board's row on the state of pools: full, held for long, or held up elsewhere."""

from __future__ import annotations

from grafana.kit import links, names
from grafana.kit.detail_callers import full, used_share
from grafana.kit.links import runbook
from grafana.kit.looks import IDLE, LIMIT, OPENING, PENDING, USED, Look, colored, limit, worse
from grafana.kit.panels import HALF, graph, states
from grafana.kit.settings import Settings
from grafana.kit.tables import Column, table
from grafana.kit.targets import (
    INSTANCE_LEGEND,
    PER_INSTANCE,
    PER_POOL,
    POOL_LEGEND,
    Json,
    Query,
    highest,
    increase,
    of,
    quantile,
    rate,
    total,
)
from poolscope.telemetry import catalog

_WHOLE = 0.7
"""How full a pool of the recommended size would be on average."""


def panels(settings: Settings) -> list[Json]:
    """Return what tells a full pool from slow holders."""
    return [
        _levels(settings),
        _utilization(settings),
        _pending(settings),
        _oldest_wait(settings),
        _saturated(settings),
        _use_quantiles(settings),
        _strip(settings),
        _busy(settings),
        _sizes(settings),
    ]


def _levels(settings: Settings) -> Json:
    return graph(
        "Connections",
        """What are the connections doing? Used and idle ones are stacked, with those being opened.
        Used up to the dashed limit: the pool is full. Below the limit, with requests waiting and
        connections opening: the server is slow to connect.""",
        [
            Query(total(of(names.COUNT), names.STATE), f"{{{{{names.STATE}}}}}"),
            Query(total(of(names.OPENING)), "opening"),
            Query(total(of(names.MAX)), "max"),
            Query(total(of(names.IDLE_MIN)), "idle min"),
            Query(total(of(names.IDLE_MAX)), "idle max"),
        ],
        Look("short", decimals=0, empty="no telemetry"),
        stacked=True,
        overrides=[
            colored(catalog.STATE_USED, USED),
            colored(catalog.STATE_IDLE, IDLE),
            colored("opening", OPENING),
            limit("max", LIMIT),
            limit("idle m(in|ax)", "text"),
        ],
        links=runbook(settings, names.EXHAUSTED),
    )


def _utilization(settings: Settings) -> Json:
    return graph(
        "Utilization of each process",
        """Is one process full while the others are not? A mean would hide it. The lines are where
        the alerts begin.""",
        [Query(used_share(*PER_INSTANCE), INSTANCE_LEGEND)],
        Look("percentunit", full(settings), 0, "no pool with a limit", most=1),
        links=runbook(settings, names.UTILIZATION_HIGH, names.EXHAUSTED),
        data_links=[links.of_series(instance=True)],
    )


def _pending(settings: Settings) -> Json:
    most = f"max_over_time({of(names.PENDING)}[$__rate_interval])"
    return graph(
        "Requests waiting",
        """Where do requests queue? The highest of the samples is shown, not their mean, so that a
        short queue is not smoothed away; one between two samples is still missed.""",
        [Query(total(most, *PER_INSTANCE), INSTANCE_LEGEND)],
        Look("short", [(1, PENDING)], 0, "no telemetry"),
        links=runbook(settings, names.PENDING_SUSTAINED),
        data_links=[links.of_series(instance=True)],
    )


def _oldest_wait(settings: Settings) -> Json:
    return graph(
        "First in line has been waiting",
        """Does the queue move? A line that climbs without falling means that nothing comes back.
        The dashed line is acquire_timeout.""",
        [
            Query(highest(of(names.WAIT_OLDEST), *PER_INSTANCE), INSTANCE_LEGEND),
            Query(highest(of(names.ACQUIRE_TIMEOUT)), "acquire_timeout"),
        ],
        Look("s", decimals=1, empty="no telemetry"),
        overrides=[limit("acquire_timeout")],
        links=runbook(settings, names.STUCK),
        data_links=[links.of_series(instance=True)],
    )


def _saturated(settings: Settings) -> Json:
    return graph(
        "Share of the time saturated",
        """For how much of the time did requests wait while every connection was in use? It is
        counted by the pool itself, so bursts between two samples are in it.""",
        [Query(total(rate(of(names.SATURATION_TIME)), *PER_INSTANCE), INSTANCE_LEGEND)],
        Look("percentunit", worse(0.05, 0.5), 0, "no telemetry", most=1),
        links=runbook(settings, names.EXHAUSTED),
        data_links=[links.of_series(instance=True)],
    )


def _use_quantiles(settings: Settings) -> Json:
    buckets = of(names.USE_BUCKET)
    uses = [
        Query(quantile(f"{q:g}", buckets, *PER_POOL), f"{name} {POOL_LEGEND}", exemplars=True)
        for name, q in names.QUANTILES.items()
    ]
    return graph(
        "Time held",
        """How long do callers keep a connection? If this rises before the waits do, slow queries
        or work done while holding it fill the pool; if only the waits rise, there are more callers.
        A diamond leads to a trace.""",
        uses,
        Look("s", decimals=1, empty="nothing given back"),
        links=runbook(settings, names.UTILIZATION_HIGH),
        data_links=[links.traces(catalog.USE_SPAN, 1), links.of_series()],
    )


def _strip(settings: Settings) -> Json:
    return states(
        "Utilization over the time range",
        """Which processes were full, and when? Each cell is one process for a while: green has
        room, yellow and red are where the alerts begin.""",
        Query(used_share(*PER_INSTANCE), INSTANCE_LEGEND),
        Look("percentunit", full(settings), 0, "no pool with a limit"),
        width=HALF,
        strip=True,
    )


def _busy(settings: Settings) -> Json:
    sampled = f"avg_over_time({of(names.COUNT, names.USED)}[$__rate_interval])"
    return graph(
        "Connections in use, counted in three ways",
        """Can the samples be believed? Time held per second is the true mean of what was given back
        (Little's law). Samples above it: connections that do not come back. Peaks far above both:
        bursts that the samples miss.""",
        [
            Query(total(rate(of(names.USE_SUM))), "mean by time held"),
            Query(total(sampled), "mean of samples"),
            Query(total(of(names.USED_PEAK)), "peaks of the last 60 s"),
        ],
        Look("short", decimals=1, empty="no telemetry"),
        width=HALF,
        overrides=[limit("peaks of the last 60 s", "text")],
        links=runbook(settings, names.LEAK),
    )


def _sizes(settings: Settings) -> Json:
    busy = f"{total(increase(of(names.USE_SUM)), *PER_POOL)} / $__range_s"
    processes = f"count by ({', '.join(PER_POOL)}) ({of(names.USED_PEAK)})"
    whole = Look("short", decimals=0)
    return table(
        "Size: what is set, and what is needed",
        f"""Is the pool too small or too large? *Needed* is the size per process at which it would
        be {_WHOLE * 100:.0f} % full on average over the time range: use more where traffic comes in
        bursts, and compare it with the peak.""",
        {names.JOB: "Service", names.POOL: "Pool"},
        [
            Column("Processes", processes, whole),
            Column("Max", highest(of(names.MAX), *PER_POOL), whole),
            Column("Needed", f"ceil({busy} / {_WHOLE:g} / {processes})", whole),
            Column("Peak", highest(_peak(), *PER_POOL), whole),
            Column("Idle min", highest(of(names.IDLE_MIN), *PER_POOL), whole),
            Column("Idle max", highest(of(names.IDLE_MAX), *PER_POOL), whole),
            Column(
                "acquire_timeout",
                highest(of(names.ACQUIRE_TIMEOUT), *PER_POOL),
                Look("s", decimals=1),
            ),
        ],
        sort="Needed",
        empty="no telemetry",
        height=6,
        links={"Pool": [links.of_row(), links.of_row(links.SLO)]},
    )


def _peak() -> str:
    return f"max_over_time({of(names.USED_PEAK)}[$__range])"
