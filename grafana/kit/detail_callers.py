"""The detail board's first rows: health now, and what callers of a pool feel."""

from __future__ import annotations

from grafana.kit import links, names
from grafana.kit.links import runbook
from grafana.kit.looks import LIMIT, Look, colored, limit, worse
from grafana.kit.panels import graph, heatmap, stat
from grafana.kit.settings import Settings
from grafana.kit.targets import (
    COUNTED,
    OF_GROUPS,
    OF_PROCESSES,
    PER_POOL,
    POOL_LEGEND,
    WELL,
    Json,
    Query,
    budget_left,
    failed,
    highest,
    increase,
    of,
    quantile,
    rate,
    requests,
    share,
    total,
)
from poolscope.telemetry import catalog


def health(settings: Settings) -> list[Json]:
    """Return one number for each way in which a pool can be unwell."""
    return [
        _fullest(settings),
        _waiting(settings),
        _slowest_wait(settings),
        _error_ratio(settings),
        _timeouts(settings),
        _leaks(settings),
        _budget(settings),
        _reporting(settings),
    ]


def acquire(settings: Settings) -> list[Json]:
    """Return rate, errors and durations of requests for a connection."""
    return [
        _outcomes(settings),
        _error_ratios(settings),
        _timeout_rate(settings),
        _wait_quantiles(settings),
        _wait_heatmap(settings),
        _share_waiting(settings),
    ]


def used_share(*by: str) -> str:
    """Return what part of its limit is in use, for pools that have one."""
    return share(total(of(names.COUNT, names.USED), *by), total(of(names.MAX), *by))


def full(settings: Settings) -> tuple[tuple[float, str], tuple[float, str]]:
    """Return the thresholds of utilization, those of its alerts."""
    alerts = settings.alerts
    return worse(alerts[names.UTILIZATION_HIGH].above, alerts[names.EXHAUSTED].above)


def _fullest(settings: Settings) -> Json:
    return stat(
        "Fullest pool",
        """How full is the fullest pool of any process? At 100 % the next caller has to wait. Pools
        without a limit have no share. Yellow and red begin where the alerts do.""",
        Query(highest(used_share(names.INSTANCE, *PER_POOL))),
        Look("percentunit", full(settings), 0, "no pool with a limit"),
        links=runbook(settings, names.EXHAUSTED, names.UTILIZATION_HIGH),
    )


def _waiting(settings: Settings) -> Json:
    return stat(
        "Callers waiting",
        """How many requests wait for a connection now? Some for a moment are normal when traffic
        comes in bursts; if the number stays, the pool is too small or its holders are too slow.""",
        Query(total(of(names.PENDING))),
        Look("short", worse(1, 5), 0, "no telemetry"),
        links=runbook(settings, names.PENDING_SUSTAINED),
    )


def _slowest_wait(settings: Settings) -> Json:
    bound = settings.slo.seconds
    return stat(
        "Wait, p99",
        f"""How long do the slowest 1 % of requests wait for a connection? Yellow: longer than the
        objective's {bound:g} s. Red: five times that.""",
        Query(quantile("0.99", of(names.WAIT_BUCKET))),
        Look("s", worse(bound, 5 * bound), 1, "no requests"),
        links=runbook(settings, names.WAIT_NEAR_TIMEOUT),
    )


def _error_ratio(settings: Settings) -> Json:
    window = "5m"
    return stat(
        "Requests that fail",
        """Which share of requests got no connection in the last 5 minutes, in the worst of the
        chosen pools? Cancelled ones do not count. Yellow: more than the error budget allows. Red:
        where the alert begins. All processes count, whichever are chosen.""",
        Query(highest(of(names.acquire_failures(window), which=OF_GROUPS))),
        Look(
            "percentunit",
            worse(settings.slo.budget, settings.alerts[names.ERROR_RATE_HIGH].above),
            2,
            "no requests",
        ),
        links=runbook(settings, names.ERROR_RATE_HIGH),
    )


def _timeouts(settings: Settings) -> Json:
    return stat(
        "Timeouts",
        """How many requests gave up waiting in the time range of the board? Each is an error that
        somebody saw.""",
        Query(f"round({total(increase(of(names.TIMEOUTS)))}) or vector(0)"),
        Look("short", [(1, "red")], 0),
        links=runbook(settings, names.ACQUIRE_TIMEOUTS),
    )


def _leaks(settings: Settings) -> Json:
    return stat(
        "Suspected leaks",
        """How often was a connection held longer than leak_threshold, in the time range of the
        board? The pool's log names the line that took it. Pools of other libraries cannot tell: see
        the oldest lease below.""",
        Query(f"round({total(increase(of(names.LEAKS)))}) or vector(0)"),
        Look("short", [(1, "red")], 0),
        links=runbook(settings, names.LEAK),
    )


def _budget(settings: Settings) -> Json:
    errors = of(names.SLO_ERRORS_30D, which=OF_GROUPS)
    return stat(
        f"Error budget left, {settings.slo.period}",
        f"""How much of the error budget is left, in the worst of the chosen pools? The objective:
        {settings.slo.objective * 100:g} % of requests get a connection within
        {settings.slo.seconds:g} s. Below 0 it is missed. All processes count.""",
        Query(f"min({budget_left(errors)})"),
        Look(
            "percentunit", [(0.25, "yellow"), (0.5, "green")], 0, "not yet known", "red", least=None
        ),
        links=runbook(settings, names.BURN),
    )


def _reporting(settings: Settings) -> Json:
    return stat(
        "Processes reporting",
        """How many processes tell about their pools? If it is fewer than are running, or none, the
        numbers beside this one are about fewer pools than there are: open the row on telemetry.""",
        Query(f"count({of(names.POOLS, which=OF_PROCESSES)}) or vector(0)"),
        Look("short", [(1, "green")], 0, "no telemetry", "red", words={"0": ("NONE", "red")}),
        links=runbook(settings, names.TELEMETRY_LOST, names.NO_TELEMETRY),
    )


def _outcomes(settings: Settings) -> Json:
    errors = rate(of(names.FAILURES))
    return graph(
        "Requests by outcome",
        """How many requests for a connection end per second, and how? Green is what went well,
        everything else is why there was no connection.""",
        [
            Query(total(rate(of(names.WAIT_COUNT, WELL))), "ok"),
            Query(total(errors, names.ERROR_TYPE) + " > 0", f"{{{{{names.ERROR_TYPE}}}}}"),
        ],
        Look("reqps", empty="no requests"),
        stacked=True,
        overrides=[
            colored("ok", "green"),
            colored("timeout", "red"),
            colored("cancelled", "text"),
        ],
        links=runbook(settings, names.ERROR_RATE_HIGH),
    )


def _error_ratios(settings: Settings) -> Json:
    budget = settings.slo.budget
    return graph(
        "Share of requests that fail",
        f"""Which pool fails its callers, and how badly? Cancelled requests do not count. The first
        line is the error budget ({budget * 100:g} %), the second is where the alert begins. The
        scale is logarithmic; there is no point where nothing failed.""",
        [
            Query(
                f"clamp_max({share(failed(*PER_POOL), requests(*PER_POOL))}, 1) > 0",
                POOL_LEGEND,
            )
        ],
        Look(
            "percentunit",
            worse(budget, settings.alerts[names.ERROR_RATE_HIGH].above),
            2,
            "nothing failed",
            most=1,
        ),
        log=True,
        links=runbook(settings, names.ERROR_RATE_HIGH, names.BURN),
        data_links=[links.of_series()],
    )


def _timeout_rate(settings: Settings) -> Json:
    return graph(
        "Timeouts per minute",
        """When did callers give up waiting, and at which pool? Their deadline is acquire_timeout,
        or their own.""",
        [Query(f"60 * {total(rate(of(names.TIMEOUTS)), *PER_POOL)}", POOL_LEGEND)],
        Look("cpm", empty="no telemetry"),
        bars=True,
        stacked=True,
        links=runbook(settings, names.ACQUIRE_TIMEOUTS),
        data_links=[links.of_series()],
    )


def _wait_quantiles(settings: Settings) -> Json:
    buckets = of(names.WAIT_BUCKET)
    waits = [
        Query(quantile(f"{q:g}", buckets, *PER_POOL), f"{name} {POOL_LEGEND}", exemplars=True)
        for name, q in names.QUANTILES.items()
    ]
    patience = Query(highest(of(names.ACQUIRE_TIMEOUT)), "acquire_timeout")
    return graph(
        "Wait for a connection",
        f"""How long do requests wait? The dashed line is acquire_timeout, where waiting ends in an
        error. A diamond is one request: it leads to its trace. The objective is
        {settings.slo.seconds:g} s.""",
        [*waits, patience],
        Look("s", [(settings.slo.seconds, "yellow")], 1, "no requests"),
        overrides=[limit("acquire_timeout", LIMIT)],
        links=runbook(settings, names.WAIT_NEAR_TIMEOUT),
        data_links=[links.traces(catalog.ACQUIRE_SPAN, settings.slo.seconds), links.of_series()],
    )


def _wait_heatmap(settings: Settings) -> Json:
    return heatmap(
        "Wait for a connection, all of them",
        """Do all requests wait a little, or a few of them long? Two bands that are far apart are
        what a quantile hides: most get a connection at once, the rest wait for one to come back.
        """,
        Query(total(increase(of(names.WAIT_BUCKET, COUNTED), "$__rate_interval"), "le")),
        Look("s", decimals=1, empty="no requests"),
        data_links=[links.traces(catalog.ACQUIRE_SPAN, settings.slo.seconds)],
    )


def _share_waiting(settings: Settings) -> Json:
    waited = total(rate(of(names.WAIT_SUM)), *PER_POOL)
    used = total(rate(of(names.USE_SUM)), *PER_POOL)
    return graph(
        "Share of the time spent waiting",
        """Of the time that callers spend on the pool, how much goes by waiting? Near 0 the pool
        costs nothing. At 50 % they wait as long as they work, so the pool is what slows them.""",
        [Query(share(waited, f"({waited} + {used})"), POOL_LEGEND)],
        Look("percentunit", worse(0.1, 0.5), 0, "no requests", most=1),
        links=runbook(settings, names.PENDING_SUSTAINED),
        data_links=[links.of_series()],
    )
