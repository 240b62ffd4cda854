"""The board about what brings telemetry: the Collector, Prometheus, and how old their news is."""

from __future__ import annotations

from collections.abc import Sequence

from grafana.kit import board, links, names
from grafana.kit.layout import Row
from grafana.kit.links import runbook
from grafana.kit.looks import RED, Look, worse
from grafana.kit.panels import HALF, THIRD, graph, stat
from grafana.kit.settings import Settings, seconds
from grafana.kit.shared import QUEUE_CAPACITY, QUEUE_SIZE, SIGNALS, queue_fill, signal_flow
from grafana.kit.targets import (
    BY_JOB,
    OF_TARGETS,
    Json,
    Query,
    either,
    highest,
    increase,
    of,
    rate,
    share,
    total,
)

_JOBS, _INSTANCES = f"{{{{{names.JOB}}}}}", f"{{{{{names.INSTANCE}}}}}"
_MEMORY, _MEMORY_BYTES = "otelcol_process_memory_rss", "otelcol_process_memory_rss_bytes"
_EXPORT = "http_client_request_duration"
_PROCESSING = "otelcol_processor_internal_duration"


def build(settings: Settings) -> Json:
    """Return the board."""
    known = f'__name__=~"{_MEMORY}(_bytes)?"'
    return board.board(
        links.COLLECTOR,
        """Does telemetry arrive? What the Collector takes, hands on, refuses and loses, what it
        needs for that, whether Prometheus works, and how old the newest samples are.""",
        [
            Row("Health: is anything lost?", _health(settings)),
            Row("Flow: does what comes in go out?", _flows(settings)),
            Row("Limits: is the Collector itself in trouble?", _limits(settings)),
            Row("Freshness: how old is what boards show?", _freshness(settings)),
            Row("Prometheus: do rules run and alerts arrive?", _prometheus(settings)),
        ],
        [
            board.traces(),
            board.job(known, series=""),
            board.instance(known, BY_JOB, series=""),
        ],
    )


def _named(*series: str) -> str:
    """Return a gauge or histogram by whichever of its names it has."""
    return " or ".join(of(each, which=OF_TARGETS) for each in series)


def _counted(what: Sequence[str]) -> str:
    """Return how much of all signals was counted in the time range of the board."""
    counters = [f"otelcol_{each}_{signal}" for each in what for signal in SIGNALS]
    return "\n+\n".join(f"({_rises(counter)} or vector(0))" for counter in counters)


def _rises(counter: str) -> str:
    both = (increase(of(name, which=OF_TARGETS)) for name in (counter, f"{counter}_total"))
    return total(" or ".join(both))


def _health(settings: Settings) -> list[Json]:
    above = settings.alerts[names.COLLECTOR_QUEUE_NEAR_FULL].above
    fill = share(of(QUEUE_SIZE, which=OF_TARGETS), of(QUEUE_CAPACITY, which=OF_TARGETS))
    return [
        stat(
            "Collectors reporting",
            """How many Collectors tell about themselves? If it is none, the numbers beside this one
            mean nothing.""",
            Query(f"count({_named(_MEMORY, _MEMORY_BYTES)}) or vector(0)"),
            Look("short", [(1, "green")], 0, "none", RED),
            links=runbook(settings, names.COLLECTOR_DOWN),
        ),
        stat(
            "Lost",
            """How many spans, points and records were lost in the time range of the board? They
            could not be sent in spite of all retries, or found the queue full.""",
            Query(f"round({_counted(['exporter_send_failed', 'exporter_enqueue_failed'])})"),
            Look("short", [(1, RED)], 0),
            links=runbook(settings, names.COLLECTOR_EXPORT_FAILING),
        ),
        stat(
            "Refused",
            """How much did the Collector turn away in the time range of the board? Senders try
            again for a while, so not all of it is lost.""",
            Query(f"round({_counted(['receiver_refused'])})"),
            Look("short", worse(1, 10_000), 0),
            links=runbook(settings, names.COLLECTOR_REFUSING),
        ),
        stat(
            "Fullest queue",
            """How full is the fullest queue before an exporter? A queue that fills is a backend
            that is down or slow. Red is where the alert begins.""",
            Query(highest(fill)),
            Look("percentunit", worse(above / 2, above), 0, "no queue"),
            links=runbook(settings, names.COLLECTOR_QUEUE_NEAR_FULL),
        ),
    ]


def _flows(settings: Settings) -> list[Json]:
    return [signal_flow(settings, signal, OF_TARGETS) for signal in SIGNALS]


def _limits(settings: Settings) -> list[Json]:
    return [
        queue_fill(settings, OF_TARGETS),
        _memory(settings),
        graph(
            "Processors used",
            """How many processors does the Collector keep busy? As many as it may use, and
            everything in it becomes late.""",
            [Query(either("otelcol_process_cpu_seconds", OF_TARGETS), _INSTANCES)],
            Look("none", decimals=2, empty="no Collector"),
        ),
        _latency(
            "Time to hand on, p99",
            """How long do the backends take to accept what is sent by HTTP? Slow ones fill the
            queues.""",
            _EXPORT,
            ("server_address", "http_response_status_code"),
        ),
        _latency(
            "Time to process, p99",
            "How long does each processor take? All together should stay far below a second.",
            _PROCESSING,
            ("processor",),
        ),
        _in_flight(),
    ]


def _memory(settings: Settings) -> Json:
    heap = of("otelcol_process_runtime_heap_alloc_bytes", which=OF_TARGETS)
    return graph(
        "Memory",
        """Does memory come near the limit? Above its limit the memory limiter refuses all that
        comes in. The process needs more than its heap.""",
        [
            Query(_named(_MEMORY, _MEMORY_BYTES), f"process {_INSTANCES}"),
            Query(heap, f"heap {_INSTANCES}"),
        ],
        Look("bytes", decimals=0, empty="no Collector"),
        links=runbook(settings, names.COLLECTOR_REFUSING),
    )


def _in_flight() -> Json:
    sent = total(of("otelcol_exporter_in_flight_requests", which=OF_TARGETS), "exporter")
    return graph(
        "Requests on their way",
        """How many requests to the backends are not answered yet? If it stays at its limit, the
        backend is slower than what comes in.""",
        [Query(sent, "{{exporter}}")],
        Look("short", decimals=0, empty="not told"),
    )


def _latency(title: str, about: str, histogram: str, by: Sequence[str]) -> Json:
    """Show the 99th percentile of a histogram of the Collector's, with or without its unit."""
    buckets = [f"{histogram}{unit}_bucket" for unit in ("", "_seconds")]
    rates = " or ".join(rate(of(each, which=OF_TARGETS)) for each in buckets)
    summed = total(rates, *by, "le")
    return graph(
        title,
        about,
        [
            Query(
                f"histogram_quantile(0.99, {summed}) >= 0",
                " ".join(f"{{{{{label}}}}}" for label in by),
                exemplars=True,
            )
        ],
        Look("s", worse(1, 5), 1, "not told"),
    )


def _freshness(settings: Settings) -> list[Json]:
    age = seconds(settings.alerts[names.TELEMETRY_STALE].age)
    newest = highest(f"timestamp({names.COUNT})", names.JOB)
    return [
        graph(
            "Age of the newest sample of each service",
            """Which service tells nothing any more? Up to the interval of export or scrape is
            normal. After five minutes without a sample the line ends.""",
            [Query(f"time() - {newest}", _JOBS)],
            Look("s", worse(age / 2, age), 0, "no pool reports"),
            width=HALF,
            links=runbook(settings, names.TELEMETRY_STALE, names.TELEMETRY_LOST),
        ),
        graph(
            "Processes that report",
            """Which service has lost processes, or reports less of them than run? Compare it with
            what was meant to run. What has ended by OTLP is counted for five minutes more.""",
            [Query(f"count by ({names.JOB}) ({names.POOLS})", _JOBS)],
            Look("short", decimals=0, empty="no pool reports"),
            width=HALF,
            links=runbook(settings, names.TELEMETRY_LOST, names.NO_TELEMETRY),
        ),
    ]


def _prometheus(settings: Settings) -> list[Json]:
    which = (f'{names.JOB}="{settings.labels.prometheus}"',)
    failures = rate(of("prometheus_rule_evaluation_failures_total", which=which))
    errors = rate(of("prometheus_notifications_errors_total", which=which))
    return [
        graph(
            "Rules that fail",
            "Do recording rules and alerts run? While a group fails, its alerts stay silent.",
            [Query(total(failures, "rule_group"), "{{rule_group}}")],
            Look("cps", [(0.001, RED)], empty="Prometheus is not watched"),
            width=THIRD,
            links=runbook(settings, names.RULE_FAILURES),
        ),
        graph(
            "Alerts that do not arrive",
            "Does Alertmanager take what Prometheus sends? If not, nobody is called.",
            [Query(total(errors, "alertmanager"), "{{alertmanager}}")],
            Look("cps", [(0.001, RED)], empty="Prometheus is not watched"),
            width=THIRD,
            links=runbook(settings, names.NOTIFICATIONS_FAILING),
        ),
        graph(
            "Series in Prometheus",
            """How much does it hold? It should grow with the number of processes only; if it climbs
            by itself, a label has too many values.""",
            [Query(of("prometheus_tsdb_head_series", which=which), _INSTANCES)],
            Look("short", decimals=0, empty="Prometheus is not watched"),
            width=THIRD,
        ),
    ]
