"""Alerts on what tells about pools: their telemetry, the Collector, and Prometheus itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from grafana.kit import names
from grafana.kit.alerting import COLLECTOR, DURATION, NUMBER, PIPELINE, SHARE, WHO, Kit
from grafana.kit.names import G

_SIGNALS = ("spans", "metric_points", "log_records")
_FAILED = [f"otelcol_exporter_{what}_failed" for what in ("send", "enqueue")]
_REFUSED = ["otelcol_receiver_refused"]
_COLLECTOR = "the Collector {{ $labels.instance }}"


def telemetry(kit: Kit) -> Iterator[dict[str, Any]]:
    """Yield the alerts on what pools tell; every pool tells its `count`."""
    yield _stale(kit)
    yield _lost(kit)
    yield kit.alert(
        names.NO_TELEMETRY,
        f"absent({names.COUNT})",
        "no pool at all reports",
        "There are no metrics of any pool, so no other alert on pools can fire.",
        board=COLLECTOR,
        scope=PIPELINE,
    )


def collector(kit: Kit) -> Iterator[dict[str, Any]]:
    """Yield the alerts on the Collector."""
    yield kit.alert(
        names.COLLECTOR_DOWN,
        f'min by (job, instance) (up{{job="{kit.settings.labels.collector}"}}) == 0',
        f"{_COLLECTOR} is down",
        "It does not answer Prometheus. What is sent through it is late or lost.",
        board=COLLECTOR,
        component="collector",
        scope=PIPELINE,
    )
    yield _export_failing(kit)
    yield _queue_near_full(kit)
    yield _refusing(kit)


def prometheus(kit: Kit) -> Iterator[dict[str, Any]]:
    """Yield the alerts on Prometheus."""
    yield _rule_failures(kit)
    yield _notifications_failing(kit)
    yield kit.alert(
        names.WATCHDOG,
        "vector(1)",
        "the way of alerts works",
        """This one always fires. Whoever receives it is to call when it stops: then Prometheus or
        Alertmanager is down, and no other alert arrives.""",
        board=COLLECTOR,
        component="prometheus",
    )


def _stale(kit: Kit) -> dict[str, Any]:
    name = names.TELEMETRY_STALE
    return kit.alert(
        name,
        f"""\
        time()
        -
        max by ({G}) (
          timestamp({names.COUNT})
        ) > {kit.age(name)}""",
        f"metrics of {WHO} are late",
        f"The newest sample is {DURATION} old. Dashboards show the past.",
        board=COLLECTOR,
    )


def _lost(kit: Kit) -> dict[str, Any]:
    name = names.TELEMETRY_LOST
    return kit.alert(
        name,
        f"""\
        group by ({G}) (
          max_over_time({names.COUNT}[{kit.window(name)}])
        )
        unless
        group by ({G}) (
          {names.COUNT}
        )""",
        f"{WHO} does not report any more",
        f"""No process sends its metrics, and some did within the last {kit.window(name)}. It has
        ended, or its telemetry is lost.""",
        board=COLLECTOR,
        scope=PIPELINE,
    )


def _export_failing(kit: Kit) -> dict[str, Any]:
    name = names.COLLECTOR_EXPORT_FAILING
    return kit.alert(
        name,
        _any_rises(_FAILED, "job, instance, exporter", kit.window(name)),
        f"{_COLLECTOR} loses what {{{{ $labels.exporter }}}} is to send",
        "Its retries are used up or its queue is full, and telemetry is dropped.",
        board=COLLECTOR,
        component="collector",
    )


def _queue_near_full(kit: Kit) -> dict[str, Any]:
    name = names.COLLECTOR_QUEUE_NEAR_FULL
    return kit.alert(
        name,
        f"""\
        max by (job, instance, exporter) (
          otelcol_exporter_queue_size / otelcol_exporter_queue_capacity
        ) > {kit.above(name)}""",
        f"the queue of {{{{ $labels.exporter }}}} in {_COLLECTOR} fills",
        f"The queue is {SHARE} full: what it sends to is down or too slow.",
        board=COLLECTOR,
        component="collector",
    )


def _refusing(kit: Kit) -> dict[str, Any]:
    name = names.COLLECTOR_REFUSING
    return kit.alert(
        name,
        _any_rises(_REFUSED, "job, instance, receiver", kit.window(name)),
        f"{_COLLECTOR} refuses telemetry",
        """Its receiver {{ $labels.receiver }} turns away what services send, most often because
        the memory limiter does.""",
        board=COLLECTOR,
        component="collector",
    )


def _any_rises(counters: Sequence[str], by: str, window: str) -> str:
    """Ask for each counter by itself: their labels are the same, so no range may hold two.

    The name ends in `_total` if the Collector sends it by OTLP, and not if it shows it.
    """
    return "\nor\n".join(
        f'sum by ({by}) (\n  rate({{__name__=~"{counter}_{signal}(_total)?"}}[{window}])\n) > 0'
        for counter in counters
        for signal in _SIGNALS
    )


def _rule_failures(kit: Kit) -> dict[str, Any]:
    name = names.RULE_FAILURES
    failures = f"prometheus_rule_evaluation_failures_total[{kit.window(name)}]"
    return kit.alert(
        name,
        f"sum by (job, instance, rule_group) (increase({failures})) > 0",
        "rules of Prometheus {{ $labels.instance }} fail",
        f"""About {NUMBER} evaluations of the group {{{{ $labels.rule_group }}}} failed in the last
        {kit.window(name)}. Its alerts may stay silent.""",
        board=COLLECTOR,
        component="prometheus",
    )


def _notifications_failing(kit: Kit) -> dict[str, Any]:
    name = names.NOTIFICATIONS_FAILING
    window, by = kit.window(name), "job, instance, alertmanager"
    return kit.alert(
        name,
        f"""\
        sum by ({by}) (rate(prometheus_notifications_errors_total[{window}]))
        /
        (sum by ({by}) (rate(prometheus_notifications_sent_total[{window}])) > 0)
        > {kit.above(name)}""",
        "prometheus {{ $labels.instance }} cannot send alerts",
        f"{SHARE} of the alerts for {{{{ $labels.alertmanager }}}} do not arrive.",
        board=COLLECTOR,
        component="prometheus",
    )
