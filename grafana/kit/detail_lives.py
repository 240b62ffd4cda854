"""The detail board's rows on the lives of connections, and on those who hold them."""

from __future__ import annotations

from grafana.kit import links, names
from grafana.kit.links import runbook
from grafana.kit.looks import IDLE, LIMIT, OPENING, Look, below, colored, limit, worse
from grafana.kit.panels import graph, heatmap, states
from grafana.kit.settings import Settings, seconds
from grafana.kit.targets import (
    INSTANCE_LEGEND,
    PER_INSTANCE,
    PER_POOL,
    POOL_LEGEND,
    WELL,
    Json,
    Query,
    highest,
    increase,
    of,
    quantile,
    rate,
    share,
    total,
)
from poolscope.telemetry import catalog


def lifecycle(settings: Settings) -> list[Json]:
    """Return how connections come and go."""
    return [
        _opened_and_closed(settings),
        _connect_failures(settings),
        _lifetime(settings),
        _connect_quantiles(settings),
        _connect_heatmap(),
        _idle(),
    ]


def holders(settings: Settings) -> list[Json]:
    """Return who keeps connections."""
    return [_oldest_use(settings), _leaks(settings), _not_returning(settings)]


def _opened_and_closed(settings: Settings) -> Json:
    return graph(
        "Opened and closed",
        """Are connections replaced all the time, and why? Opened ones are above the axis, closed
        ones below it, by reason. *idle* and *lifetime* are the settings at work; *broken*,
        *validation* and *reset* are the server or the network.""",
        [
            Query(total(rate(of(names.CREATE_COUNT, WELL))), "opened"),
            Query(
                f"{total(rate(of(names.CLOSED)), names.REASON)} > 0",
                f"closed: {{{{{names.REASON}}}}}",
            ),
        ],
        Look("cps", empty="no telemetry", least=None),
        overrides=[colored("opened", OPENING), below("closed: .*")],
        links=runbook(settings, names.CHURN_HIGH, names.BROKEN_SPIKE),
    )


def _connect_failures(settings: Settings) -> Json:
    return graph(
        "Connects that fail",
        """Can the pools connect? *refused*: nothing listens there. *timeout*: no answer. *auth*:
        the server does not take the credentials, or has no place left.""",
        [
            Query(
                total(rate(of(names.CONNECT_FAILURES)), names.POOL, names.ERROR_TYPE),
                f"{POOL_LEGEND}: {{{{{names.ERROR_TYPE}}}}}",
            )
        ],
        Look("cps", [(0.001, "red")], empty="no telemetry"),
        links=runbook(settings, names.CONNECT_FAILING),
        data_links=[links.traces(catalog.CONNECT_SPAN, 0)],
    )


def _lifetime(settings: Settings) -> Json:
    opened = total(rate(of(names.CREATE_COUNT, WELL)), *PER_POOL)
    return graph(
        "Mean lifetime of a connection",
        """How long does a connection live, at the present pace? It is the number of open
        connections by the rate of new ones, so there is no point while none are opened. Minutes or
        less mean that connecting is part of the work.""",
        [Query(share(total(of(names.COUNT), *PER_POOL), opened), POOL_LEGEND)],
        Look("s", decimals=0, empty="none opened"),
        log=True,
        links=runbook(settings, names.CHURN_HIGH),
        data_links=[links.of_series()],
    )


def _connect_quantiles(settings: Settings) -> Json:
    return graph(
        "Time to connect",
        """How long does it take to open a connection, or to fail at it? Above: the chosen quantile.
        Requests that find no idle connection wait for this too. A diamond leads to a trace.""",
        [
            Query(
                quantile("$q", of(names.CREATE_BUCKET), *PER_POOL),
                f"q$q {POOL_LEGEND}",
                exemplars=True,
            )
        ],
        Look("s", worse(0.5, 2.5), 1, "none opened"),
        links=runbook(settings, names.CONNECT_FAILING),
        data_links=[links.traces(catalog.CONNECT_SPAN, settings.slo.seconds), links.of_series()],
    )


def _connect_heatmap() -> Json:
    return heatmap(
        "Time to connect, all of them",
        """Are all connects slow, or a few? A band of its own high up is a name lookup, a TLS
        handshake or a server that is short of processes.""",
        Query(total(increase(of(names.CREATE_BUCKET), "$__rate_interval"), "le")),
        Look("s", decimals=1, empty="none opened"),
        data_links=[links.traces(catalog.CONNECT_SPAN, 0)],
    )


def _idle() -> Json:
    idle = of(names.COUNT, names.IDLE)
    return graph(
        "Idle connections",
        """Are more connections kept than are needed, or fewer? Idle ones above *idle max* are
        closed; at 0 each new request has to wait for a connect.""",
        [
            Query(total(idle), "idle"),
            Query(total(of(names.IDLE_MIN)), "idle min"),
            Query(total(of(names.IDLE_MAX)), "idle max"),
        ],
        Look("short", decimals=0, empty="no telemetry"),
        overrides=[colored("idle", IDLE), limit("idle min", "text"), limit("idle max", LIMIT)],
    )


def _oldest_use(settings: Settings) -> Json:
    age = seconds(settings.alerts[names.LEAK].age)
    return graph(
        "Oldest lease",
        """Is somebody keeping a connection? A line that climbs for as long as you look is a leak or
        a query that hangs. The second threshold is where the alert begins.""",
        [Query(highest(of(names.USE_OLDEST), *PER_INSTANCE), INSTANCE_LEGEND)],
        Look("s", worse(age / 5, age), 0, "no telemetry"),
        links=runbook(settings, names.LEAK),
        data_links=[links.traces(catalog.USE_SPAN, age / 5), links.of_series(instance=True)],
    )


def _leaks(settings: Settings) -> Json:
    return graph(
        "Suspected leaks per minute",
        """Since when are connections held longer than leak_threshold? Compare it with the restarts
        and releases marked in blue. The pool's log names the line that took each.""",
        [Query(f"60 * {total(rate(of(names.LEAKS)), *PER_POOL)}", POOL_LEGEND)],
        Look("cpm", empty="not told by these pools"),
        bars=True,
        stacked=True,
        links=runbook(settings, names.LEAK),
        data_links=[links.of_series()],
    )


def _not_returning(settings: Settings) -> Json:
    window = settings.alerts[names.STUCK].window
    held = total(f"min_over_time({of(names.COUNT, names.USED)}[{window}])", *PER_INSTANCE)
    returned = total(increase(of(names.USE_COUNT), window), *PER_INSTANCE)
    return states(
        "Held, and none given back",
        f"""Does a process hold connections of which none has come back in {window}? Red is what the
        alert on stuck connections looks at; it fires if requests wait as well.""",
        Query(f"({held} > bool 0)\n*\n({returned} == bool 0)", INSTANCE_LEGEND),
        Look(
            "none",
            [(1, "red")],
            0,
            "no telemetry",
            words={"0": ("given back", "green"), "1": ("none given back", "red")},
        ),
    )
